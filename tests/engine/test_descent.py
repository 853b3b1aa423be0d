"""The training step against autograd and torch.optim.SGD: every loss, nonlinearity, batch and momentum."""

import gc
import itertools
import math
from collections.abc import Collection, Iterator

import pytest
import torch
from torch import Tensor, nn

from ntkrun.engine import update
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.training import State, batches
from ntkrun.theory import activations
from ntkrun.theory.activations import ACTIVATIONS, Activation
from ntkrun.theory.losses import LOSSES
from tests.engine.small import problem, states

CPU = torch.device("cpu")
STEPS, STEP_SIZE, SEEDS = 20, 0.05, [3, 5]
GROWING = {
    "square",
    "cube",
    "relu_squared",
    "exp",
}  # faster than linearly: stable in shallow nets of small weights alone
SOME_PROBED = frozenset({0, *range(3, 20, 2), 20})  # both kinds of step, in turns


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _targets(loss: str, outputs: int) -> Tensor:
    y = _draw(6, outputs, seed=1)
    return {"logistic": y.sign(), "cross_entropy": y.softmax(dim=1)}.get(loss, y)


def _batches(count: int = STEPS + 1) -> list[Tensor]:
    """Repeated inputs within a batch among them: 4 of 6, with replacement."""
    return list(torch.randint(6, (count, len(SEEDS), 4), generator=torch.Generator().manual_seed(2)))


def _plain_sgd(
    net: DenseNetwork, seed: int, x: Tensor, y: Tensor, loss: str, momentum: float, drawn: list[Tensor] | None
) -> list[Tensor]:
    """The parameters of one network after STEPS of autograd and torch.optim.SGD."""
    sigma, depth = activations.activation(net.activation).function, net.depth
    plain = [nn.Parameter(p[0].clone()) for p in net.init([seed], torch.float64)]
    optimiser = torch.optim.SGD(plain, lr=STEP_SIZE, momentum=momentum)
    for step in range(STEPS):
        seen = slice(None) if drawn is None else drawn[step]
        a = x[seen]
        for layer in range(depth):
            z = a @ plain[layer].T * (net.weight_scale / math.sqrt(net.widths[layer])) + net.beta * plain[depth + layer]
            a = sigma(z)
        optimiser.zero_grad()
        LOSSES[loss](z, y[seen]).backward()
        optimiser.step()
    return [p.detach() for p in plain]


def _check(
    net: DenseNetwork, loss: str, momentum: float, drawn: list[Tensor] | None, probed: frozenset[int] = SOME_PROBED
) -> None:
    """1e-10 in float64: both sum the same products, and twenty steps of a stable descent do not magnify rounding."""
    x, y = _draw(6, net.inputs), _targets(loss, net.outputs)
    learnt = problem(net, SEEDS, x, y, STEP_SIZE, STEPS, loss, momentum, 4 if drawn else None)
    seen = list(states(learnt, probed, drawn))
    assert len(seen) == STEPS + 1
    for position, seed in enumerate(SEEDS):
        own = None if drawn is None else [batch[position] for batch in drawn]
        for ours, theirs in zip(seen[-1].params, _plain_sgd(net, seed, x, y, loss, momentum, own), strict=True):
            assert (ours[position] - theirs).norm() <= 1e-10 * theirs.norm()


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.3)"])
def test_weights_equal_torch_sgd(name: str, loss: str, outputs: int) -> None:
    if loss == "cross_entropy" and outputs == 1:
        outputs = 2  # the fewest that it takes
    shape = (2, (7,), name, 0.2, 0.5) if name in GROWING else (4, (7, 5, 6), name, 0.2, 1.2)
    _check(DenseNetwork(3, outputs, *shape), loss, 0.6, _batches())


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("probed", [frozenset(), frozenset({0, 20}), frozenset(range(21))], ids=["no", "few", "every"])
@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("stochastic", [False, True])
def test_every_kind_of_step(stochastic: bool, momentum: float, probed: frozenset[int], outputs: int) -> None:
    _check(DenseNetwork(3, outputs, 3, 5, "relu", 0.2), "squared", momentum, _batches() if stochastic else None, probed)


@pytest.mark.parametrize("depth", [1, 2])
def test_shallow_networks(depth: int) -> None:
    _check(DenseNetwork(3, 2, depth, 5, "erf"), "huber", 0.6, _batches())


def test_a_nonlinearity_without_a_derivative_goes_through_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    bent = Activation("bent", "sqrt(1 + z²)", lambda z: (1 + z * z).sqrt())
    monkeypatch.setattr(activations, "ACTIVATIONS", {**ACTIVATIONS, "bent": bent})
    _check(DenseNetwork(3, 2, 4, 5, "bent"), "squared", 0.6, _batches())


@pytest.mark.parametrize("name", [*ACTIVATIONS, "leaky_relu(0.3)", "leaky_relu(-2)"])
def test_slopes_equal_autograd(name: str) -> None:
    """At kinks too, where torch has a convention; both are a few elementwise operations in float64."""
    sigma = activations.activation(name)
    z = torch.cat([_draw(200) * 3, torch.tensor([0.0, -0.0, 1.0, -1.0, 18.0, -40.0], dtype=torch.float64)])
    z.requires_grad_()
    (expected,) = torch.autograd.grad(sigma.function(z).sum(), z)
    found = sigma.slope(z.detach(), sigma.function(z).detach())
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-15)


# ---------------------------------------------------------------- batches


def _network(width: int = 5) -> DenseNetwork:
    return DenseNetwork(3, 1, 3, width, "erf")


def _first(net: DenseNetwork, seeds: list[int], count: int, size: int = 4, inputs: int = 6) -> Tensor:
    """(count, S, size)."""
    return torch.stack(list(itertools.islice(batches(net, seeds, inputs, size, CPU), count)))


def test_batches_do_not_depend_on_the_stack() -> None:
    together, alone = _first(_network(), [0, 7, 2], 150), _first(_network(), [7], 150)
    assert together.shape == (150, 3, 4)
    assert torch.equal(together[:, 1], alone[:, 0])


def test_batches_are_uniform_and_independent() -> None:
    """Of 6 · 4000 draws each input has 4000 ± 5·58; successive steps, seeds and widths agree in a sixth ± 5·0.0024."""
    one = _first(_network(), [0, 1], 6000)
    counts = torch.bincount(one[:, 0].flatten(), minlength=6)
    assert ((counts - 4000).abs() < 5 * math.sqrt(24000 * 5 / 36)).all()
    wider = _first(_network(8), [0], 6000)
    for first, second in ((one[:-1, 0], one[1:, 0]), (one[:, 0], one[:, 1]), (one[:, 0], wider[:, 0])):
        assert abs(float((first == second).double().mean()) - 1 / 6) < 5 * math.sqrt(5 / 36 / 24000)


def _states(probed: Collection[int], momentum: float = 0.0, drawn: list[Tensor] | None = None) -> Iterator[State]:
    x, y, size = _draw(6, 3), _targets("squared", 1), 4 if drawn else None
    return states(problem(_network(), SEEDS, x, y, STEP_SIZE, STEPS, "squared", momentum, size), probed, drawn)


def test_a_probed_step_measures_all_inputs_and_others_the_batch() -> None:
    drawn, y = _batches(), _targets("squared", 1)
    for state in _states({0, 3}, drawn=drawn):
        assert state.batch is not None
        assert torch.equal(state.batch, drawn[state.step])
        outputs = _network().apply(state.params, _draw(6, 3))
        of_all, of_batch = LOSSES["squared"](outputs, y), outputs.gather(1, state.batch.unsqueeze(2)) - y[state.batch]
        expected = of_all if state.step in (0, 3) else of_batch.square().sum(dim=2).mean(dim=1) / 2
        assert torch.allclose(state.loss, expected, rtol=1e-12, atol=0)
        probed = state.step in (0, 3)
        assert [found is not None for found in (state.deltas, state.kernel, state.distances)] == [probed] * 3


def test_full_batches_say_so() -> None:
    assert all(state.batch is None for state in _states({0}))


# ---------------------------------------------------------------- distances


@pytest.mark.parametrize("momentum", [0.0, 0.6])
@pytest.mark.parametrize("part", [1, 13, 60, 10**6])
def test_distances_are_those_from_the_start(part: int, momentum: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the parts: rows, one matrix (25 numbers), two; in float64, where rounding is 1e-16 a number."""
    monkeypatch.setitem(update.PART, "cpu", part)
    start = _network().init(SEEDS, torch.float64)
    for state in _states({0, 1, 2, 7, 20}, momentum):
        if state.distances is not None:
            moved = [(now - then).flatten(1).norm(dim=1) for now, then in zip(state.params, start, strict=True)]
            assert torch.allclose(state.distances, torch.stack(moved, dim=1), rtol=1e-12, atol=0)
            assert all(torch.equal(kept, then) for kept, then in zip(state.start, start, strict=True))
    assert state.step == STEPS


def test_the_parts_change_no_number(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = [state.loss for state in _states(range(STEPS + 1))]
    monkeypatch.setitem(update.PART, "cpu", 10)
    for loss, state in zip(whole, _states(range(STEPS + 1)), strict=True):
        assert torch.allclose(state.loss, loss, rtol=1e-12, atol=0)


def test_a_step_leaves_nothing_behind() -> None:
    """As many tensors are alive after fifteen steps as after five."""

    def alive() -> int:
        gc.collect()
        return sum(issubclass(type(thing), Tensor) for thing in gc.get_objects())

    counts = [alive() for state in _states(range(STEPS + 1), 0.5, _batches()) if state.step in (5, 15)]
    assert counts[0] == counts[1]
