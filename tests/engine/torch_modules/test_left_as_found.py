"""`module_ntk` leaves the module, and the caller, as it found them, also when it fails."""

import copy

import pytest
import torch
from torch import Tensor, nn

import ntkrun
from tests.engine.torch_modules.zoo import CASES, TOLERANCE, build, equal, floats, mlp, oracle, same, seen


class Counting(nn.Module):
    """Counts its calls in a buffer, in place, and breaks on one of them."""

    def __init__(self, breaks_at: int = -1) -> None:
        super().__init__()
        self.layer, self.gain = nn.Linear(6, 2), nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros(()))
        self.breaks_at, self.made = breaks_at, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.made += 1
        if self.made == self.breaks_at:
            raise ArithmeticError("broken")
        out: Tensor = self.gain * self.layer(x)
        return out


@pytest.mark.parametrize("breaks_at", [-1, 1, 2, 4, 6])
def test_the_module_is_left_as_it_was(breaks_at: int) -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5), Counting(breaks_at)).double()
    module[1].eval()
    module[0].weight.grad = torch.ones_like(module[0].weight)
    module[0].register_forward_hook(lambda *_: None)
    before, x = seen(module), floats(5, 6).requires_grad_()
    if breaks_at > 0:
        with pytest.raises(ArithmeticError):
            ntkrun.module_ntk(module, x)
    else:
        kernel = ntkrun.module_ntk(module, x)
        assert not kernel.requires_grad
        plain = copy.deepcopy(module)
        plain[2].forward = lambda x: plain[2].gain * plain[2].layer(x)  # torch.func takes no buffer that counts
        expected = oracle(plain, x.detach())
        assert (kernel - expected).norm() <= TOLERANCE * kernel.norm()
    assert x.grad is None
    assert equal(before, seen(module))


def test_the_caller_s_modes_do_not_matter() -> None:
    make, x = CASES["mlp"]
    module = build(make, x)
    expected = ntkrun.module_ntk(module, x)
    with torch.no_grad():
        assert torch.equal(ntkrun.module_ntk(module, x), expected)
        assert not torch.is_grad_enabled()
    with torch.inference_mode():
        assert torch.equal(ntkrun.module_ntk(module, x.clone()), expected)
        assert torch.is_inference_mode_enabled()


def test_hooks_that_change_outputs_are_seen() -> None:
    module = build(mlp, floats(6, 6))
    module[2].register_forward_hook(lambda _, __, out: 3 * out + 1)
    same(module, floats(6, 6)[:3], floats(6, 6)[3:])
