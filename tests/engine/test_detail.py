"""The dearer probes against plain loops, Jacobians and singular value decompositions."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ntkrun.columns import pending_columns
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.detail_probes import subnetwork_gradients, subnetwork_kernels
from ntkrun.engine.kernel import Gradients, jacobian_ntk, layerwise_kernel
from ntkrun.engine.network import Parameters
from ntkrun.engine.stack import problem_of, run_stack
from ntkrun.engine.task import StackTask
from ntkrun.engine.training import batches
from ntkrun.theory.activations import activation
from ntkrun.theory.losses import LOSSES
from ntkrun.theory.random_matrices import operator_norm
from tests.engine.small import ETA, draw, problem, small_task, states

CPU, STEPS = torch.device("cpu"), 6


def _task(net: DenseNetwork, loss: str = "squared", **changes: object) -> StackTask:
    return small_task(net, loss, STEPS, **{"detailed": frozenset({0, 3, STEPS}), **changes})


def _rows(columns: dict[str, list[float]], position: int, step: int) -> dict[str, list[float]]:
    at = list(zip(columns["position"], columns["step"], strict=True))
    chosen = [k for k, where in enumerate(at) if where == (position, step)]
    return {name: [values[k] for k in chosen] for name, values in columns.items()}


def _truncated(net: DenseNetwork, params: Parameters, layers: int) -> tuple[DenseNetwork, Parameters]:
    """The first layers as a network of their own, whose outputs are z^(layers)."""
    whole = net.widths
    sub = DenseNetwork(whole[0], whole[layers], layers, whole[1:layers], net.activation, net.beta, net.weight_scale)
    return sub, Parameters(params.weights[:layers], params.biases[:layers])


def _root_mean_square(vectors: list[Tensor]) -> float:
    return math.sqrt(sum(float(v @ v) for v in vectors) / len(vectors))


@pytest.mark.parametrize("outputs", [1, 2])
@pytest.mark.parametrize("widths", [(7, 5, 70), (80, 80, 9)])  # with and without block iterations
def test_layer_columns_equal_their_definitions(widths: tuple[int, ...], outputs: int) -> None:
    net = DenseNetwork(3, outputs, 4, widths, "tanh", 0.3, 1.4)
    task = _task(net)
    result = run_stack(task, CPU)
    x, sigma = torch.tensor(task.x), activation("tanh").function
    start = net.init([7], torch.float64)

    def made(now: Parameters, point: Tensor) -> list[Tensor]:
        a, found = point, []
        for layer in range(4):
            z = net.weight_scale / math.sqrt(len(a)) * now.weights[layer][0] @ a + net.beta * now.biases[layer][0]
            a = sigma(z) if layer < 3 else z
            found.append(a)
        return found

    def gradients(params: Parameters, point: Tensor, output: int) -> list[Tensor]:
        a, pre = point, []
        for layer in range(4):
            z = net.weight_scale / math.sqrt(len(a)) * params.weights[layer][0] @ a + net.beta * params.biases[layer][0]
            pre.append(z.requires_grad_())
            a = sigma(z)
        return list(torch.autograd.grad(pre[-1][output], pre))

    y = torch.tensor(task.y)
    first_kernels: list[Tensor] = []
    for state in states(problem_of(replace(task, seeds=[7]), CPU), range(STEPS + 1)):
        rows, params = _rows(result.layers, 1, state.step), state.params
        if state.step not in task.detailed:
            assert all(np.isnan(rows[name]).all() for name in pending_columns("layers"))
            assert np.isfinite(rows["weight_drift"]).all()
            continue
        now, then = ([made(p, point) for point in x] for p in (params, start))
        kernels = [jacobian_ntk(*_truncated(net, params, l + 1), x)[0, :, :, 0, 0] for l in range(4)]
        first_kernels = first_kernels or kernels
        with torch.enable_grad():
            delta = [[gradients(params, point.clone().requires_grad_(), i) for i in range(outputs)] for point in x]
        for l in range(4):
            n, m = net.widths[l + 1], max(net.widths[l : l + 2])
            before = [point if l == 0 else of_point[l - 1] for point, of_point in zip(x, now, strict=True)]
            part = sum(
                float((1.4**2 / net.widths[l] * before[k] @ before[j] + 0.3**2) * (delta[k][i][l] @ delta[j][o][l]))
                ** 2
                for k in range(6)
                for j in range(6)
                for i in range(outputs)
                for o in range(outputs)
            )
            r = (net.apply(params, x)[0] - y) / len(x)  # ∂loss/∂F
            d = [sum(r[k, i] * delta[k][i][l] for i in range(outputs)) for k in range(len(x))]
            gradient = sum(1.4 / math.sqrt(net.widths[l]) * torch.outer(d[k], before[k]) for k in range(len(x)))
            z = [of_point[l] if l == 3 else torch.atanh(of_point[l]) for of_point in now]
            identities = {
                "weight_distance": float((params.weights[l] - start.weights[l]).norm()),
                "weight_speed": float(torch.linalg.svdvals(gradient)[0]) / math.sqrt(m),
                "preactivation_norm": _root_mean_square(z) / math.sqrt(n),
                "activation_norm": _root_mean_square([of_point[l] for of_point in now]) / math.sqrt(n),
                "activation_drift": _root_mean_square([a[l] - b[l] for a, b in zip(now, then, strict=True)])
                / math.sqrt(n),
                "backprop_norm": _root_mean_square([d[l] for of_point in delta for d in of_point]),
                "kernel_part": math.sqrt(part),
                "subnetwork_kernel_norm": float(kernels[l].norm()),
                "subnetwork_kernel_drift": float((kernels[l] - first_kernels[l]).norm() / first_kernels[l].norm()),
            }
            for name, value in identities.items():
                assert rows[name][l] == pytest.approx(value, rel=1e-10, abs=1e-14), (name, l, state.step)
            operators = {
                "weight_operator": params.weights[l][0],
                "weight_drift_operator": params.weights[l][0] - start.weights[l][0],
            }
            size = operator_norm(net.widths[l + 1], net.widths[l])
            ratio = rows["weight_operator"][l] * math.sqrt(m) / size
            assert rows["weight_operator_ratio"][l] == pytest.approx(ratio, rel=1e-12)
            for name, matrix in operators.items():
                value = float(torch.linalg.svdvals(matrix)[0]) / math.sqrt(m)
                assert rows[name][l] == pytest.approx(value, rel=1e-4), (name, l, state.step)  # operators.TOLERANCE
        growth = sum(rows["weight_operator"]) + sum(rows["preactivation_norm"][:-1])  # but F
        assert _rows(result.steps, 1, state.step)["growth"][0] == pytest.approx(growth, rel=1e-12)


@pytest.mark.parametrize("outputs", [1, 2])
def test_the_parts_of_the_kernel_sum_to_it(outputs: int) -> None:
    """Layer by layer: each part is what K loses when that layer's parameters are not counted."""
    net = DenseNetwork(3, outputs, 3, (6, 5), "erf", 0.3)
    task = _task(net, seeds=[4], detailed=frozenset({0}), steps=0, probed=frozenset({0}))
    x, params = torch.tensor(task.x), net.init([4], torch.float64)
    forward = net.forward(params, x)
    gradients = Gradients(forward.uses, net.output_gradients(forward))
    whole = layerwise_kernel(gradients, gradients)
    parts = []
    for l in range(3):
        deltas = [d if k == l else torch.zeros_like(d) for k, d in enumerate(gradients.deltas)]
        alone = Gradients(forward.uses, deltas)
        parts.append(layerwise_kernel(alone, alone))
    assert (sum(parts) - whole).norm() <= 1e-12 * whole.norm()
    found = run_stack(task, CPU).layers["kernel_part"]
    assert found == pytest.approx([float(part.norm()) for part in parts], rel=1e-10)


def test_subnetwork_kernels_obey_their_recursion() -> None:
    """K^(l+1) = [σ_w² a^(l)·a^(l)/n + β²] I + (σ_w²/n) w D K^(l) D wᵀ, of all neurons of the layer below."""
    net = DenseNetwork(3, 2, 4, (6, 5, 4), "tanh", 0.3, 1.4)
    x = draw(5, 3, seed=0)
    state = next(states(problem(net, [0, 1], x, draw(5, 2, seed=1), ETA, 0), {0}))
    params, found = state.params, subnetwork_kernels(state, subnetwork_gradients(net, state))
    inputs = [x.expand(2, -1, -1), *state.forward.activations]
    for l in range(4):
        a, w, n = inputs[l], params.weights[l], net.widths[l]
        expected = net.weight_scale**2 * (a @ a.mT) / n + net.beta**2
        if l:
            below = jacobian_ntk(*_truncated(net, params, l), x)  # (S, N, N, n, n)
            slope = 1 - a**2
            row = w[:, 0, None] * slope * net.scales[l].weight  # w_1 D, (S, N, n)
            expected = expected + torch.einsum("sap,sabpq,sbq->sab", row, below, row)
        assert (found[l] - expected).norm() <= 1e-12 * expected.norm(), l


LOSSES_AND_STEPS = [
    ("squared", 1, {}),
    ("squared", 2, {"batch": 3}),
    ("huber", 2, {}),
    ("logistic", 1, {}),
    ("cross_entropy", 3, {"batch": 4}),
]


@pytest.mark.parametrize(("loss", "outputs", "changes"), LOSSES_AND_STEPS)
@pytest.mark.parametrize("every", [1, 3])
def test_descent_residuals_equal_their_definition(loss: str, outputs: int, changes: dict, every: int) -> None:
    """By autograd on the loss that each step descends: its gradient through the Jacobian, and the network after it."""
    probed = frozenset(range(0, STEPS + 1, every))
    task = _task(DenseNetwork(3, outputs, 3, (7, 6), "erf", 0.3, 1.3), loss, probed=probed, **changes)
    rows, net = run_stack(task, CPU).steps, task.network
    points, count = torch.tensor(np.concatenate([task.x, task.x_test])), len(task.x)
    seen = {}
    single = replace(task, seeds=[7])
    params = [state.params.clone() for state in states(problem_of(single, CPU))]
    for before, after, batch in zip(params, params[1:], _batches(single), strict=False):
        kernel = jacobian_ntk(net, before, points, points[:count])[0]
        f = net.apply(before, points)[0]
        leaf = f[:count].clone().requires_grad_()
        chosen = slice(None) if batch is None else batch
        LOSSES[loss](leaf[chosen], torch.tensor(task.y)[chosen]).backward()
        assert leaf.grad is not None
        moved = net.apply(after, points)[0] - f
        error = moved + ETA * torch.einsum("anij,nj->ai", kernel, leaf.grad)
        parts = (slice(count), slice(count, None))
        g = leaf.grad * count  # ∂ℓ/∂F of all inputs that the batch has, weighted by how often it has them
        everywhere = f[:count].clone().requires_grad_()
        LOSSES[loss](everywhere, torch.tensor(task.y)).backward()
        assert everywhere.grad is not None
        expected = -ETA / count * torch.einsum("ai,abij,bj->", everywhere.grad, kernel[:count], g)
        fallen = LOSSES[loss](f[:count] + moved[:count], torch.tensor(task.y)) - LOSSES[loss](
            f[:count], torch.tensor(task.y)
        )
        seen[len(seen)] = [float(error[part].norm() / moved[part].norm()) for part in parts]
        seen[len(seen) - 1].append(float((fallen - expected).abs() / fallen.abs()))
    for step in probed:
        row = _rows(rows, 1, step)
        pair = [row[f"{name}descent_residual"][0] for name in ("", "test_", "loss_")]
        if step in task.detailed and step < STEPS:
            assert pair == pytest.approx(seen[step], rel=1e-6)  # differences of the loss are good to 1e-10 of it
            assert 1e-4 < pair[0] < 1  # of order η: neither all of the change nor rounding
        else:
            assert np.isnan(pair).all()


@pytest.mark.parametrize(("loss", "outputs", "changes"), LOSSES_AND_STEPS)
def test_descent_residuals_of_hidden_neurons_equal_their_definition(loss: str, outputs: int, changes: dict) -> None:
    """By autograd: the derivative of the first neuron of a layer along the gradient of the loss that a step descends,
    against the neuron after the step."""
    task = _task(DenseNetwork(3, outputs, 4, (7, 6, 5), "erf", 0.3, 1.3), loss, seeds=[7], **changes)
    net, x, y = task.network, torch.tensor(task.x), torch.tensor(task.y)
    params = [state.params.clone() for state in states(problem_of(task, CPU))]
    found = np.reshape(run_stack(task, CPU).layers["descent_residual"], (-1, 4))
    for step in sorted(task.detailed - {STEPS}):
        after = params[step + 1]
        chosen = slice(None) if (batch := _batches(task)[step]) is None else batch
        tensors = [tensor.clone().requires_grad_() for tensor in params[step]]
        before = Parameters(tensors[:4], tensors[4:])
        with torch.enable_grad():
            forward = net.forward(before, x)
            loss_value = LOSSES[loss](forward.outputs[0][chosen], y[chosen])
            gradient = torch.autograd.grad(loss_value, tensors, retain_graph=True)
            for layer in (1, 2):
                neuron = forward.z[layer][0, :, 0]
                of_inputs = [torch.autograd.grad(z, tensors, retain_graph=True, materialize_grads=True) for z in neuron]
                derivative = torch.stack(
                    [
                        torch.stack([(j * g).sum() for j, g in zip(of_x, gradient, strict=True)]).sum()
                        for of_x in of_inputs
                    ]
                )
                moved = net.forward(after, x).z[layer][0, :, 0] - neuron
                expected = float(((moved + ETA * derivative).norm() / moved.norm()).detach())
                assert found[step, layer] == pytest.approx(expected, rel=1e-6), (step, layer)
                assert 1e-4 < expected < 1


def _batches(task: StackTask) -> list[Tensor | None]:
    if task.batch is None:
        return [None] * STEPS
    drawn = batches(task.network, task.seeds, len(task.x), task.batch, CPU)
    return [next(drawn)[0] for _ in range(STEPS)]


def test_the_descent_residual_is_of_first_order_in_the_step() -> None:
    net = DenseNetwork(3, 1, 3, 16, "erf")
    tasks = (
        _task(net, step_size=eta, steps=1, probed=frozenset({0, 1}), detailed=frozenset({0})) for eta in (1e-2, 1e-3)
    )
    coarse, fine = (run_stack(task, CPU).steps for task in tasks)
    for name in ("descent_residual", "test_descent_residual"):
        assert coarse[name][0] / fine[name][0] == pytest.approx(10, rel=0.05)


def test_descent_residuals_are_nan_with_momentum_at_rest_and_without_test_inputs() -> None:
    net = DenseNetwork(3, 1, 3, 8, "erf")
    moving, still = (run_stack(_task(net, momentum=mu), CPU).steps for mu in (0.5, 0.0))
    # The first step has no velocity yet.
    assert _rows(moving, 0, 0)["descent_residual"] == _rows(still, 0, 0)["descent_residual"]
    assert np.isnan(_rows(moving, 0, 3)["descent_residual"]).all()
    assert np.isfinite(_rows(moving, 0, 3)["growth"]).all()
    task = _task(net, x_test=np.ones((0, 3)), y_test=np.ones((0, 1)))
    without = _rows(run_stack(task, CPU).steps, 0, 3)
    assert np.isfinite(without["descent_residual"]).all()
    assert np.isnan(without["test_descent_residual"]).all()
    points = torch.tensor(task.x)
    resting = replace(task, seeds=[4], y=net.apply(net.init([4], torch.float64), points)[0].numpy())
    # Its targets are what it says: not even rounding moves it.
    assert np.isnan(run_stack(resting, CPU).steps["descent_residual"]).all()
    # A step smaller than the last digit of every weight is none, whatever the kernel says.
    assert np.isnan(run_stack(_task(net, step_size=1e-30), CPU).steps["descent_residual"]).all()


class _OneWild(DenseNetwork):
    """Seed 4 starts a hundred times too large, and diverges."""

    def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
        params = super().init(seeds, dtype, device)
        if 4 in seeds:
            params.weights[1][list(seeds).index(4)] *= 100
        return params


@pytest.mark.parametrize("read_every", [1, 4])
@pytest.mark.parametrize("width", [16, 90])
def test_a_diverging_run_leaves_the_details_of_others_as_they_are(width: int, read_every: int) -> None:
    every = frozenset(range(STEPS + 1))
    task = _task(_OneWild(3, 1, 3, width, "relu"), detailed=every, keep_outputs=frozenset({0, 2, STEPS}))
    mixed = run_stack(task, CPU, read_every=read_every)
    alone = run_stack(replace(task, network=DenseNetwork(3, 1, 3, width, "relu"), seeds=[7]), CPU)
    (diverged,) = mixed.diverged
    assert diverged.position == 0
    last = _rows(mixed.steps, 0, diverged.step - 1)
    assert np.isfinite(last["growth"]).all()
    assert np.isnan(last["descent_residual"]).all()  # its step led nowhere
    assert set(mixed.modes["step"]) == every
    for table in ("steps", "layers", "modes", "outputs"):
        found, expected = getattr(mixed, table), getattr(alone, table)
        chosen = [k for k, position in enumerate(found["position"]) if position == 1]
        assert found.keys() == expected.keys()
        for name in set(found) - {"position"}:
            # A stack of two and one of one round differently by 1e-16 a product.
            values = [found[name][k] for k in chosen]
            # Two computations of a kernel differ by rounding over the size of a difference of F, 1e-9.
            least = 1e-8 if name.endswith("_error") else 1e-12
            assert values == pytest.approx(expected[name], rel=1e-9, abs=least, nan_ok=True), (table, name)
    gone = {s for p, s in zip(mixed.outputs["position"], mixed.outputs["step"], strict=True) if p == 0}
    assert gone == {step for step in (0, 2, STEPS) if step < diverged.step}
