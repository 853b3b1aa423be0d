"""A network that is not dense, written against engine/network.py alone: it is trained and measured as any other.

Tokens are looked up in a table and normalised; each entry is scaled; the squares are sharpened by a temperature; an
affine map is applied at all positions; the mean over positions is read out.
"""

import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pytest
import torch
from torch import Tensor

from ntkrun.columns import START, TABLES, pending_columns
from ntkrun.engine.checkpoint import Checkpoint
from ntkrun.engine.kernel import empirical_ntk, jacobian_ntk
from ntkrun.engine.memory import stack_bytes
from ntkrun.engine.network import Forward, Layer, Network, Parameters
from ntkrun.engine.parametrization import Scales
from ntkrun.engine.stack import StackResult, run_stack
from ntkrun.engine.task import StackTask
from ntkrun.engine.uses import Affine, Elementwise, Free, Lookup, Outputs, Use
from ntkrun.theory.losses import LOSSES
from tests.engine.peak import peak_of
from tests.engine.small import ETA, draw

CPU = torch.device("cpu")
SEEDS, STEPS = [4, 7], 6
VECTORS = (1, 2)  # the layers whose weight is no matrix: the scale and the temperature


@dataclass(frozen=True)
class Tokens(Network):
    """F(x) = s w tanh-means + b: see the top of this file. `inputs` are the positions T, d is the `width`."""

    inputs: int = 4
    outputs: int = 2
    vocabulary: int = 7
    width: int = 5

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        t, d, unit, root = self.inputs, self.width, Scales(1.0, 0.0), Scales(self.width**-0.5, 0.3)
        return (
            Layer("table", (self.vocabulary, d), 0, unit, t * d, t),
            Layer("scale", (d,), d, Scales(1.0, 0.5), t * d, t),
            Layer("temperature", (1,), 0, unit, 1),
            Layer("mix", (d + 1, d), d + 1, root, t * (d + 1), t),
            Layer("output", (self.outputs, d + 1), 0, Scales((d + 1) ** -0.5, 0.0), self.outputs),
        )

    def _run(self, params: Parameters, k: Tensor, moved: list[Tensor]) -> Forward:
        """Run on indices k (S or 1, N, T), with `moved` added to the outputs of the layers: δ are gradients in it."""
        s, (c1, c3) = len(params.weights[0]), (self.layers[l].scales for l in (1, 3))
        table, scale, temperature, mix, out = params.weights
        each = torch.arange(s)[:, None, None]
        z0 = table[each, k.expand(s, -1, -1)] + moved[0]
        normal = z0 / (1 + z0.square().mean(dim=-1, keepdim=True)).sqrt()
        z1 = scale[:, None, None] * normal + c1.bias * params.biases[1][:, None, None] + moved[1]
        z2 = temperature[:, None].expand(-1, k.shape[1], -1) + moved[2]
        a1 = torch.tanh(z2.unsqueeze(2) * z1)
        z3 = c3.weight * a1 @ mix.mT.unsqueeze(1) + c3.bias * params.biases[3][:, None, None] + moved[3]
        a3 = torch.tanh(z3).mean(dim=2)
        z4 = self.layers[4].scales.weight * a3 @ out.mT + moved[4]
        uses: list[Use] = [
            Lookup(k, self.vocabulary),
            Elementwise(normal, c1.bias),
            Free(),
            Affine(a1, c3.weight, c3.bias),
            Affine(a3, self.layers[4].scales.weight, 0.0),
        ]
        return Forward(params, uses, [z0, z1, z2, z3, z4], [normal, a1, z2, torch.tanh(z3), z4])

    def forward(self, params: Parameters, x: Tensor) -> Forward:
        k = x.long() if x.ndim == 3 else x.long().unsqueeze(0)
        return self._run(params, k, [torch.zeros(())] * 5)

    def backward(self, forward: Forward, top: Tensor, layer: int = -1) -> list[Tensor]:
        table = forward.uses[0]
        assert isinstance(table, Lookup)
        with torch.enable_grad():
            count = layer % 5 + 1
            moved = [torch.zeros_like(z, requires_grad=True) for z in forward.z]
            z = self._run(forward.params, table.k, moved).z[layer]
            rows = [
                torch.autograd.grad(z, moved[:count], v, retain_graph=True, materialize_grads=True)
                for v in top.unbind(dim=2)
            ]
        return [torch.stack(deltas, dim=2) for deltas in zip(*rows, strict=True)]

    def of_one_input(self, weights: list[Tensor], biases: list[Tensor], x: Tensor) -> Tensor:
        table, scale, temperature, mix, out = weights
        h = table[x.long()]
        h = scale * h / torch.sqrt(1 + (h * h).mean(dim=1, keepdim=True)) + 0.5 * biases[1]
        h = torch.tanh(temperature * h) @ mix.T / self.width**0.5 + 0.3 * biases[3]
        return out @ torch.tanh(h).mean(dim=0) / (self.width + 1) ** 0.5


def tokens(inputs: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 7, (inputs, 4)).astype(float)


def task_of(**changes: object) -> StackTask:
    arguments = {
        "network": Tokens(),
        "seeds": SEEDS,
        "x": tokens(6, 0),
        "y": draw(6, 2, seed=2).numpy(),
        "x_test": tokens(3, 1),
        "y_test": draw(3, 2, seed=3).numpy(),
        "step_size": ETA,
        "steps": STEPS,
        "probed": frozenset(range(STEPS + 1)),
        "keep_kernels": frozenset(range(STEPS + 1)),
        "keep_last_kernel": True,
        "dtype": torch.float64,
    }
    return StackTask(**{**arguments, **changes})  # type: ignore[arg-type]


def descent(task: StackTask, run: int) -> list[Parameters]:
    """Return the parameters of one run at every step, by plain autograd on the definition for one input."""
    net, x, y = task.network, torch.tensor(task.x), torch.tensor(task.y)
    start = net.init([task.seeds[run]], torch.float64)
    now, states = [p[0].clone() for p in start], []
    velocity = [torch.zeros_like(p) for p in now]
    for _ in range(task.steps + 1):
        states.append(Parameters([p.clone() for p in now[:5]], [p.clone() for p in now[5:]]))
        leaves = [p.clone().requires_grad_() for p in now]
        outputs = torch.stack([net.of_one_input(leaves[:5], leaves[5:], point) for point in x])
        loss = LOSSES[task.loss](outputs, y)
        gradients = torch.autograd.grad(loss, leaves, materialize_grads=True)
        velocity = [task.momentum * v - task.step_size * g for v, g in zip(velocity, gradients, strict=True)]
        now = [p + v for p, v in zip(now, velocity, strict=True)]
    return states


def rows(result: StackResult, table: str, run: int, step: int, name: str) -> np.ndarray:
    columns = {key: np.array(values) for key, values in getattr(result, table).items()}
    return columns[name][(columns["position"] == run) & (columns["step"] == step)]


@pytest.mark.parametrize("outputs", ["full", "diagonal", "trace"])
def test_the_kernel_is_that_of_jacobians(outputs: Outputs) -> None:
    net, x, x2 = Tokens(), torch.tensor(tokens(6, 0)), torch.tensor(tokens(3, 1))
    params = net.init(SEEDS, torch.float64)
    for other in (None, x2):
        whole = jacobian_ntk(net, params, x, other)
        same = whole.diagonal(dim1=3, dim2=4)
        expected = {"full": whole, "diagonal": same, "trace": same.sum(dim=3)}[outputs]
        found = empirical_ntk(net, params, x, other, outputs=outputs)
        # Sums of a hundred products of numbers of size 1, each rounded by 1e-16.
        assert (found - expected).norm() <= 1e-12 * expected.norm()


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_training_is_plain_descent_and_its_numbers_are_their_definitions(momentum: float) -> None:
    seen: list[Parameters] = []
    task = task_of(momentum=momentum)
    result = run_stack(task, CPU, lambda state, _: seen.append(state.params.clone()))
    x, net = torch.tensor(task.x), task.network
    for run in range(len(SEEDS)):
        states = descent(task, run)
        first = states[0]
        for step, expected in enumerate(states):
            for found, p, p0 in zip(seen[step].part(slice(run, run + 1)), expected, first, strict=True):
                assert (found[0] - p).norm() <= 1e-12 * (1 + p0.norm())  # rounding, grown over six steps
            stacked = Parameters([w[None] for w in expected.weights], [b[None] for b in expected.biases])
            kernel = jacobian_ntk(net, stacked, x)[0].numpy()
            assert np.linalg.norm(result.kernels[run][step] - kernel) <= 1e-11 * np.linalg.norm(kernel)
            drifts = [float((w - w0).norm() / w0.norm()) for w, w0 in zip(expected.weights, first.weights, strict=True)]
            assert rows(result, "layers", run, step, "weight_drift") == pytest.approx(drifts, rel=1e-9, abs=1e-14)
    assert rows(result, "layers", 0, STEPS, "weight_drift").min() > 1e-3  # every layer is trained


@pytest.mark.parametrize("changes", [{"batch": 3}, {"loss": "huber", "momentum": 0.5, "batch": 2}])
def test_a_stack_with_batches_gives_each_run_what_it_gets_alone(changes: dict[str, object]) -> None:
    changes = changes | {"probed": frozenset({0, 3, STEPS})}  # other steps run the batch alone
    together = run_stack(task_of(**changes), CPU)
    for run, seed in enumerate(SEEDS):
        alone = run_stack(task_of(seeds=[seed], **changes), CPU)
        for name in ("loss", "test_loss", "kernel_drift", "weight_drift", "linear_gap"):
            found = [rows(together, "steps", run, step, name)[0] for step in (0, 3, STEPS)]
            assert found == pytest.approx(alone.steps[name], rel=1e-10, abs=1e-13)


def _missing(name: str, step: int) -> list[int]:
    """The layers without a number: norms of what is no matrix; speeds of what is not affine, or is so at positions; and
    the first and the last layer's deviation from their kernels, and every one's after the last step."""
    if name == "weight_speed":
        return [0, 1, 2, 3]
    if name == "descent_residual":
        return [0, 4] if step < STEPS else list(range(5))
    return list(VECTORS) if "operator" in name else []


def test_details_are_finite_except_norms_of_what_is_no_matrix() -> None:
    every = frozenset(range(STEPS + 1))
    task = task_of(detailed=every, keep_outputs=frozenset({0, STEPS}))
    result = run_stack(task, CPU)
    for step in range(STEPS + 1):
        for name in pending_columns("layers"):
            values = rows(result, "layers", 0, step, name)
            nan = [l for l in range(5) if np.isnan(values[l])]
            if TABLES["layers"][name].when == START:
                continue
            assert nan == _missing(name, step), name
        matrices = np.delete(rows(result, "layers", 0, step, "weight_operator"), VECTORS)
        growth = matrices.sum() + rows(result, "layers", 0, step, "preactivation_norm")[:-1].sum()
        assert rows(result, "steps", 0, step, "growth")[0] == pytest.approx(growth, rel=1e-12)
        if step < STEPS:
            assert 1e-4 < rows(result, "steps", 0, step, "descent_residual")[0] < 1  # of order η
    params = task.network.init([SEEDS[0]], torch.float64)
    deltas = task.network.output_gradients(task.network.forward(params, torch.tensor(task.x)))
    norms = [float(delta.flatten(3).square().sum(dim=3).mean().sqrt()) for delta in deltas]  # over all positions
    assert rows(result, "layers", 0, 0, "backprop_norm") == pytest.approx(norms, rel=1e-12)
    # The first entry of the looked-up rows is that of the first token: its kernel is 1 for equal tokens, else 0.
    equal = float(np.sqrt((task.x[:, None, 0] == task.x[:, 0]).sum()))
    assert rows(result, "layers", 0, 0, "subnetwork_kernel_norm")[0] == pytest.approx(equal, rel=1e-12)
    kernel = jacobian_ntk(task.network, params, torch.tensor(task.x))[0].diagonal(dim1=2, dim2=3).numpy()
    diagonal = np.einsum("nni->ni", kernel).ravel()
    assert rows(result, "outputs", 0, 0, "kernel")[: len(diagonal)] == pytest.approx(diagonal, rel=1e-12)
    assert np.isfinite(result.outputs["kernel_row"]).all()
    assert np.isfinite(result.modes["residual"]).all()


class Third:
    """Keeps a copy of the third checkpoint."""

    def __init__(self) -> None:
        self.asked, self.kept = 0, list[Checkpoint]()

    def due(self) -> bool:
        self.asked += 1
        return self.asked == 3

    def keep(self, checkpoint: Checkpoint) -> None:
        tensors = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
        self.kept.append(Checkpoint(json.loads(json.dumps(checkpoint.header)), tensors))


@pytest.mark.parametrize("changes", [{}, {"batch": 2, "momentum": 0.5}])
def test_a_resumed_stack_has_the_tables_of_an_uninterrupted_one(changes: dict[str, object]) -> None:
    task = task_of(detailed=frozenset({0, 3}), **changes)
    keeper = Third()
    whole = run_stack(task, CPU, read_every=1, keeper=keeper)
    (kept,) = keeper.kept
    assert kept.step == 3
    resumed = run_stack(task, CPU, read_every=1, resume=kept)
    for table in ("steps", "layers", "modes", "outputs"):
        found, expected = getattr(resumed, table), getattr(whole, table)
        assert list(found) == list(expected)
        assert all(np.array(found[name]).tobytes() == np.array(expected[name]).tobytes() for name in expected)
    for run, kernels in whole.kernels.items():
        assert all(np.array_equal(resumed.kernels[run][step], kernel) for step, kernel in kernels.items())


@pytest.mark.parametrize(("width", "runs", "detailed"), [(64, 4, {0, STEPS}), (5, 40, set[int]())])
def test_a_stack_takes_no_more_memory_than_its_bound(width: int, runs: int, detailed: set[int]) -> None:
    """Nor less than a fifth of it. Weights and passes count most in the first, products over pairs in the second."""
    changes = {"x": tokens(24, 0), "y": np.ones((24, 2)), "seeds": range(runs), "keep_kernels": frozenset({0})}
    task = task_of(network=Tokens(width=width), detailed=frozenset(detailed), **changes)
    bound = stack_bytes(task, runs)
    assert bound / 5 < peak_of(lambda: run_stack(task, CPU)) < bound


@pytest.mark.parametrize("outputs", ["full", "trace"])
def test_a_kernel_in_tiles_stays_within_its_memory(outputs: Outputs) -> None:
    net, x, mib = Tokens(), torch.tensor(tokens(60, 0)), 4
    params = net.init([4], torch.float64)
    whole = empirical_ntk(net, params, x, outputs=outputs)
    tiled = []
    peak = peak_of(lambda: tiled.append(empirical_ntk(net, params, x, outputs=outputs, memory=mib / 1024)))
    assert (tiled[0] - whole).norm() <= 1e-12 * whole.norm()  # as above
    assert peak - whole.numel() * 8 <= mib * 2**20
