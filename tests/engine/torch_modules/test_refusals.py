"""What `module_ntk` refuses: modules without a kernel of two inputs, each with one sentence."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntkrun
from ntkrun.errors import UserError
from tests.engine.torch_modules.zoo import TOLERANCE, equal, floats, oracle, seen


class Made(nn.Module):
    """A module with one linear layer and a forward pass made for a test."""

    def __init__(self, forward: Callable[[Tensor, nn.Linear], object]) -> None:
        super().__init__()
        self.layer, self.by = nn.Linear(6, 2).double(), forward

    def forward(self, x: Tensor) -> object:
        return self.by(x, self.layer)


def _centred(x: Tensor, layer: nn.Linear) -> Tensor:
    h: Tensor = layer(x)
    return h - h.mean(0)


def _leaking(x: Tensor, layer: nn.Linear) -> Tensor:
    """Values of each input alone, gradients of the whole batch."""
    h: Tensor = layer(x)
    return h + h.mean(0) - h.mean(0).detach()


def _hooked(layer: nn.Linear) -> nn.Module:
    layer.weight.register_hook(lambda g: 2 * g)
    return layer


def _in_batch(momentum: bool) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4, track_running_stats=momentum), nn.Linear(4, 2)).double()


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "batch norm in train": (lambda: _in_batch(True).train(), r"^1 normalises by its batch.* call eval\(\)"),
    "batch norm without statistics": (lambda: _in_batch(False).eval(), "give it running statistics"),
    "dropout": (lambda: nn.Sequential(nn.Linear(6, 2), nn.Dropout(0.01)).double(), r"random numbers .* call eval\(\)"),
    "functional dropout": (lambda: Made(lambda x, f: F.dropout(f(x), 0.01)), "random numbers"),
    "centred": (lambda: Made(_centred), "depends on the others in its batch"),
    "detached": (lambda: Made(lambda x, f: f(x) - f(x).mean(0).detach()), "depends on the others in its batch"),
    "functional batch norm": (
        lambda: Made(lambda x, f: F.batch_norm(f(x), None, None, training=True) if len(x) > 1 else f(x)),
        "depends on the others in its batch",
    ),
    "cumulative": (lambda: Made(lambda x, f: f(x).cumsum(0)), "depends on the others in its batch"),
    "leaking": (lambda: Made(_leaking), "gradient over a batch is not the sum of those over its inputs one at a time"),
    "not finite": (lambda: Made(lambda x, f: f(x) / 0), "outputs are not finite"),
    "slope not finite": (
        lambda: Made(lambda x, f: (0 * f(x)).sqrt()),
        "gradient is not finite",
    ),
    "nothing to train": (lambda: nn.Flatten(), "no parameter with requires_grad=True"),
    "frozen": (lambda: nn.Linear(6, 2).double().requires_grad_(False), "no parameter with requires_grad=True"),
    "lazy": (lambda: nn.LazyLinear(2), "has no shape yet: call the module once"),
    "gradient hook": (lambda: _hooked(nn.Linear(6, 2).double()), "'weight' has a gradient hook"),
    "max norm": (
        lambda: Made(lambda x, f: F.embedding(torch.tensor([0]), f.weight, max_norm=0.1) @ x.T),
        "changes its",
    ),
    "in place": (lambda: Made(lambda x, f: (f.weight.data.mul_(0.5), f.weight.detach().mul_(0.5), f(x))[2]), "changes"),
    "two outputs": (lambda: Made(lambda x, f: (f(x), x)), "returns a tuple: wrap it"),
    "three axes": (lambda: Made(lambda x, f: f(x)[:, None]), r"shape \(5, 1, 2\) for 5 inputs: it must be \(5, O\)"),
    "one number": (lambda: Made(lambda x, f: f(x).sum()), r"shape \(\) for 5 inputs"),
    "whole numbers": (lambda: Made(lambda x, f: f(x).long()), "torch.int64: its outputs must be real"),
    "complex": (lambda: Made(lambda x, f: f(x) + 1j), "complex128: its outputs must be real"),
    "cut off": (lambda: Made(lambda x, f: f(x).detach()), "does not depend on any parameter"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_is_a_sentence(case: str) -> None:
    make, sentence = REFUSED[case]
    module, x = make(), floats(5, 6)
    before = seen(module) if case != "lazy" else ()
    with pytest.raises(UserError, match=sentence):
        ntkrun.module_ntk(module, x)
    assert case == "lazy" or equal(before, seen(module))


def test_what_else_is_refused() -> None:
    module = nn.Linear(6, 2).double()
    for wrong in (torch.ones(0, 6), torch.tensor(1.0), [[1.0] * 6]):
        with pytest.raises(UserError, match="the kernel needs a tensor of at least one input"):
            ntkrun.module_ntk(module, wrong)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="choose full, trace, diagonal"):
        ntkrun.module_ntk(module, floats(2, 6), outputs="rows")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="more than 0"):
        ntkrun.module_ntk(module, floats(2, 6), memory=0.0)
    pooled = Made(lambda x, f: f(x).flatten(1))
    with pytest.raises(UserError, match="different numbers of outputs for x and x2"):
        ntkrun.module_ntk(pooled, floats(2, 3, 6), floats(2, 4, 6))


def test_sequences_of_two_lengths_meet() -> None:
    module = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), Made(lambda h, f: f(h[..., [0, 1, 2, 3, 4, 0]]).sum(1))).double()
    x, x2 = floats(4, 3, 6), floats(3, 7, 6)
    expected = torch.stack([oracle(module, x[:1], one[None])[0, 0] for one in x2])
    assert (ntkrun.module_ntk(module, x, x2)[0] - expected).norm() <= TOLERANCE * expected.norm()
