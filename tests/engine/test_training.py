"""Training and its probes, against plain torch."""

import gc
import math
import weakref
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch

from ntkrun.columns import pending_columns
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.engine.output_scale import OutputScale
from ntkrun.engine.probes import eigenvalues
from ntkrun.engine.stack import StackResult, problem_of, run_stack, steps_unread
from ntkrun.engine.task import StackTask
from ntkrun.engine.training import batches
from ntkrun.engine.update import norm
from ntkrun.theory.limit import limit_kernels
from ntkrun.theory.losses import LOSSES
from tests.engine.small import states

CPU = torch.device("cpu")
FLOWS = ("linear", "flow", "limit")


def _data(count: int = 6, dimension: int = 3, outputs: int = 1) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(0)
    return draw.standard_normal((count, dimension)), draw.standard_normal((count, outputs))


def _task(net: DenseNetwork, **changes: object) -> StackTask:
    x, y = _data(outputs=net.outputs)
    arguments = {
        "network": net,
        "seeds": [0, 1, 2],
        "x": x,
        "y": y,
        "x_test": x[:2] + 0.1,
        "y_test": y[:2],
        "step_size": 0.3,
        "steps": 12,
        "probed": frozenset(range(13)),
        "keep_kernels": frozenset({0}),
        "keep_last_kernel": True,
        "dtype": torch.float64,
    }
    return StackTask(**{**arguments, **changes})  # type: ignore[arg-type]


def _residual_rate(kernel: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """ε·K̂ε/‖ε‖² from K (N, N, O, O) and ε (N, O)."""
    return torch.einsum("ai,abij,bj->", residual, kernel, residual) / len(residual) / residual.square().sum()


def _with_limit(task: StackTask) -> StackTask:
    points = np.concatenate([task.x, task.x_test])
    return replace(task, limit=limit_kernels(task.network, points, task.x).ntk.numpy())


def _run(net: DenseNetwork, **changes: object) -> StackResult:
    return run_stack(_task(net, **changes), CPU)


def _columns(result: StackResult, position: int) -> dict[str, np.ndarray]:
    rows = [k for k, p in enumerate(result.steps["position"]) if p == position]
    return {name: np.array(values)[rows] for name, values in result.steps.items()}


def _effective_rank(kernel: np.ndarray) -> float:
    shares = [max(value, 0.0) for value in np.linalg.eigvalsh(kernel)]
    shares = [value / sum(shares) for value in shares if value > 0]
    return math.exp(-sum(share * math.log(share) for share in shares))


def test_the_effective_rank_is_one_for_a_single_direction_and_the_size_for_equal_ones() -> None:
    direction = torch.tensor([1.0, -2.0, 0.5, 3.0, 1.0, 0.25], dtype=torch.float64)
    single, equal = torch.outer(direction, direction), 0.3 * torch.eye(6, dtype=torch.float64)
    mixed = single + equal - 0.31 * torch.diag(torch.tensor([0.0, 0, 0, 0, 0, 1]))  # with a negative eigenvalue
    infinite = equal.clone()
    infinite[2, 3] = torch.inf
    kernels = torch.stack([single, equal, mixed, torch.zeros_like(equal), infinite, equal * torch.nan])
    found = eigenvalues(kernels.view(6, 3, 2, 3, 2).contiguous())["effective_rank"]
    # The five zeros of the first are off by up to some 1e-16 of the largest; -p log p of that is some 4e-15.
    expected = [1.0, 6.0, _effective_rank(mixed.numpy()), np.nan, np.nan, np.nan]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, nan_ok=True)
    assert np.linalg.eigvalsh(mixed.numpy())[0] < -0.005


@pytest.mark.parametrize("outputs", [1, 2])
def test_probes_equal_their_definitions(outputs: int) -> None:
    net = DenseNetwork(3, outputs, 3, (5, 4), "tanh", 0.3)
    task = _with_limit(_task(net))
    assert task.limit is not None
    limit = torch.tensor(task.limit[:6])[:, :, None, None] * torch.eye(outputs)
    result = run_stack(task, CPU)
    x, y = torch.tensor(task.x), torch.tensor(task.y)
    start = net.init([1], torch.float64)
    rows, layer_rows = _columns(result, 1), result.layers
    first_kernel, first_outputs = jacobian_ntk(net, start, x)[0], net.apply(start, x)[0]
    for state in states(problem_of(replace(task, seeds=[1]), CPU), range(13)):
        k, params = state.step, state.params
        outputs_now = net.apply(params, x)[0]
        kernel = jacobian_ntk(net, params, x)[0]
        spectrum = torch.linalg.eigvalsh(kernel.permute(0, 2, 1, 3).reshape(6 * outputs, -1)) / 6
        moved = [now - then for now, then in zip(params, start, strict=True)]
        expected = {
            "step": k,
            "time": k * task.step_size,
            "loss": ((outputs_now - y) ** 2).sum() / 12,
            "clipped_share": np.nan,
            "residual_rate": _residual_rate(kernel, outputs_now - y),
            "test_loss": ((net.apply(params, torch.tensor(task.x_test))[0] - torch.tensor(task.y_test)) ** 2).sum() / 4,
            "kernel_norm": kernel.norm(),
            "kernel_drift_absolute": (kernel - first_kernel).norm(),
            "kernel_drift": (kernel - first_kernel).norm() / first_kernel.norm(),
            "weight_distance": torch.cat([m.flatten() for m in moved]).norm(),
            "weight_drift": torch.cat([m.flatten() for m in moved]).norm()
            / torch.cat([p.flatten() for p in start]).norm(),
            "output_drift": ((outputs_now - first_outputs) ** 2).sum(dim=1).mean().sqrt(),
            "lambda_min": spectrum[0],
            "lambda_max": spectrum[-1],
            "effective_rank": _effective_rank(kernel.permute(0, 2, 1, 3).reshape(6 * outputs, -1).numpy()),
            "distance_to_limit": (kernel - limit).norm() / limit.norm(),
            "limit_projection": (kernel * limit).sum() / (limit * limit).sum(),
            "off_diagonal": (kernel * (1 - torch.eye(outputs))).norm() / kernel.norm() if outputs > 1 else np.nan,
        }
        flows = {f"{test}{flow}_{what}" for test in ("", "test_") for flow in FLOWS for what in ("gap", "loss")}
        flows |= {"linear_rms_gap", "test_linear_rms_gap", "linear_weight_drift", "flow_rms_gap"}
        # Other files of tests/engine have the flows, what detail steps measure, and what is stored.
        assert set(expected) | {"position"} | flows | set(pending_columns("steps")) == set(rows)
        for name, value in expected.items():
            # eigenvalues are good to 1e-15 of the largest one
            assert rows[name][k] == pytest.approx(float(value), rel=1e-10, abs=1e-13, nan_ok=True), (name, k)
        of_layer = [
            v
            for p, s, v in zip(layer_rows["position"], layer_rows["step"], layer_rows["weight_drift"], strict=True)
            if (p, s) == (1, k)
        ]
        drifts = [float(m.norm() / w.norm()) for m, w in zip(moved[:3], start.weights, strict=True)]
        assert of_layer == pytest.approx(drifts, rel=1e-10, abs=1e-15)


def test_kept_kernels_are_those_of_their_steps() -> None:
    net = DenseNetwork(3, 2, 3, 4, "erf")
    result, x = _run(net, keep_kernels=frozenset({0, 5})), torch.tensor(_data(outputs=2)[0])
    alone = states(problem_of(_task(net, seeds=[2]), CPU))
    expected = {state.step: jacobian_ntk(net, state.params, x)[0].numpy() for state in alone}
    assert sorted(result.kernels[2]) == [0, 5, 12]
    for step, kernel in result.kernels[2].items():
        assert np.allclose(kernel, expected[step], rtol=1e-10, atol=1e-13)


STOCHASTIC = {"batch": 2, "momentum": 0.5, "loss": "huber"}
CENTRED = {"scale": OutputScale(2.0, centred=True)}
either = pytest.mark.parametrize(
    "changes", [{}, STOCHASTIC, STOCHASTIC | CENTRED], ids=["full batch", "stochastic", "centred"]
)


@either
def test_a_stack_gives_each_run_what_it_gets_alone(changes: dict[str, object]) -> None:
    net = DenseNetwork(3, 1, 3, 16, "relu")
    together = _run(net, **changes)
    for position, seed in enumerate([0, 1, 2]):
        alone = _columns(_run(net, seeds=[seed], **changes), 0)
        for name, values in _columns(together, position).items():
            if name != "position":
                assert values == pytest.approx(alone[name], rel=1e-10, abs=1e-13, nan_ok=True)


@either
def test_equal_stacks_are_bitwise_equal(changes: dict[str, object]) -> None:
    net = DenseNetwork(3, 1, 3, 32, "relu")
    first, second = (_run(net, dtype=torch.float32, **changes) for _ in range(2))
    assert first.steps.keys() == second.steps.keys()
    for name, values in first.steps.items():
        np.testing.assert_array_equal(values, second.steps[name], err_msg=name)
    assert first.layers.keys() == second.layers.keys()
    for name, values in first.layers.items():
        np.testing.assert_array_equal(values, second.layers[name], err_msg=name)


@either
def test_sparse_probes_change_no_number(changes: dict[str, object]) -> None:
    net = DenseNetwork(3, 2, 3, 8, "erf")
    every, few = (_columns(_run(net, probed=frozenset(p), **changes), 0) for p in (range(13), (0, 6, 12)))
    assert few["step"].tolist() == [0, 6, 12]
    for name in ("loss", "test_loss", "kernel_drift", "weight_drift"):
        assert few[name] == pytest.approx(every[name][[0, 6, 12]], rel=1e-12)


def test_batches_are_drawn_with_replacement_and_by_each_run_for_itself() -> None:
    """Of 4 inputs, 4 draws have on average 4 (1 - (3/4)^4) = 2.73 different ones, and two runs agree in a quarter of
    their draws. Bounds are 5 standard errors of 1000 batches, whose standard deviations are below 0.7 and 0.22."""
    drawn = islice(batches(DenseNetwork(3, 1, 2, 4), [0, 1], 4, 4, torch.device("cpu")), 1000)
    table = torch.stack(list(drawn)).numpy()  # (steps, runs, B)
    distinct = [len(set(batch.tolist())) for batch in table[:, 0]]
    assert abs(np.mean(distinct) - 4 * (1 - 0.75**4)) < 5 * 0.7 / math.sqrt(1000)
    assert abs(np.mean(table[:, 0] == table[:, 1]) - 0.25) < 5 * 0.22 / math.sqrt(1000)


def test_the_losses_of_the_table_are_those_asked_for() -> None:
    net = DenseNetwork(3, 2, 3, 8, "erf")
    y = np.abs(_data(outputs=2)[1])
    y /= y.sum(axis=1, keepdims=True)
    params = net.init([0], torch.float64)
    for name, loss in LOSSES.items():
        y_of = np.sign(y - 0.5) if name == "logistic" else y
        found = _run(net, loss=name, y=y_of, y_test=y_of[:2], steps=0, probed=frozenset({0})).steps
        for column, x in (("loss", _data()[0]), ("test_loss", _data()[0][:2] + 0.1)):
            expected = loss(net.apply(params, torch.tensor(x)), torch.tensor(y_of[: len(x)]))
            assert found[column][0] == pytest.approx(float(expected), rel=1e-12)


@either
def test_a_diverging_run_stays_and_the_others_go_on(changes: dict[str, object]) -> None:
    """Seed 1 has weights a hundred times too large, so that its step is unstable; the others must not notice."""
    net = DenseNetwork(3, 1, 3, 16, "relu")

    class OneWild(DenseNetwork):
        def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
            params = super().init(seeds, dtype, device)
            params.weights[1][list(seeds).index(1)] *= 100
            return params

    wild = OneWild(3, 1, 3, 16, "relu")
    changes = changes and {**changes, "loss": "squared"}  # huber's gradient is bounded: nothing diverges
    calm, mixed = _run(net, **changes), _run(wild, **changes)
    (diverged,) = mixed.diverged
    assert diverged.position == 1
    assert 0 < diverged.step <= 12
    assert str(diverged.step) in diverged.reason
    assert _columns(mixed, 1)["step"].tolist() == list(range(diverged.step))
    assert max(mixed.kernels[1]) == diverged.step - 1
    for position in (0, 2):
        for name, values in _columns(mixed, position).items():
            assert values == pytest.approx(_columns(calm, position)[name], rel=1e-10, abs=1e-13, nan_ok=True)


def test_no_test_inputs_gives_nan_test_loss() -> None:
    result = _run(DenseNetwork(3, 1, 2, 8), x_test=np.ones((0, 3)), y_test=np.ones((0, 1)))
    assert np.isnan(result.steps["test_loss"]).all()
    assert np.isfinite(result.steps["loss"]).all()


def test_zero_steps_measures_the_start() -> None:
    result = _run(DenseNetwork(3, 1, 2, 8), steps=0, probed=frozenset({0}))
    assert result.steps["step"] == [0, 0, 0]
    assert result.steps["kernel_drift"] == [0.0, 0.0, 0.0]


def test_a_norm_in_float32_is_good_to_1e_6() -> None:
    """A plain float32 norm of this matrix is off by 1e-4; summing rows first keeps it below the rounding of one row."""
    w = torch.randn(1, 2048, 2048, generator=torch.Generator().manual_seed(0))
    start = w + 1e-3 * torch.randn(1, 2048, 2048, generator=torch.Generator().manual_seed(1))
    exact = (w - start).double().norm()
    assert float(norm(w - start)[0]) == pytest.approx(float(exact), rel=1e-6)


def test_a_copy_of_parameters_is_their_own() -> None:
    params = DenseNetwork(2, 1, 2, 3).init([0, 1, 2])
    copy = params.clone()
    copy.weights[0].zero_()
    assert params.weights[0].abs().sum() > 0


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@either
def test_reading_every_seventh_step_gives_the_same_tables(changes: dict[str, object], device: str) -> None:
    """Of runs that diverge between two readings too, and of one that goes on. The rounding of a product may depend on
    how many are stacked: 1e-10."""
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")

    class TwoWild(DenseNetwork):
        def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
            params = super().init(seeds, dtype, device)
            params.weights[1][0] *= 100
            params.weights[1][2] *= 20
            return params

    changes = changes and {**changes, "loss": "squared"}  # huber's gradient is bounded: nothing diverges
    # Far past the divergence: what was measured meanwhile is not finite, and must not be seen.
    task = _task(TwoWild(3, 1, 3, 16, "relu"), steps=33, probed=frozenset(range(34)), **changes)
    often, seldom = (run_stack(task, torch.device(device), read_every=k) for k in (1, 7))
    assert {run.position for run in often.diverged} == {0, 2}
    assert any(run.step % 7 for run in often.diverged)
    assert sorted(seldom.diverged, key=str) == sorted(often.diverged, key=str)
    for position in range(3):
        assert sorted(seldom.kernels[position]) == sorted(often.kernels[position])
        for name, values in _columns(often, position).items():
            found = _columns(seldom, position)[name]
            assert found == pytest.approx(values, rel=1e-10, abs=1e-13, nan_ok=True), (position, name)
    assert seldom.steps["step"] == often.steps["step"]
    assert seldom.layers.keys() == often.layers.keys()
    for name in often.layers:
        assert seldom.layers[name] == pytest.approx(often.layers[name], rel=1e-10, abs=1e-13, nan_ok=True)


@pytest.mark.parametrize(("where", "most", "seeds", "some"), [("cuda", 32, 16, 8), ("cpu", 16, 2, 2)])
def test_as_many_steps_pass_unread_as_the_host_can_hold_kernels(where: str, most: int, seeds: int, some: int) -> None:
    task, device = _task(DenseNetwork(3, 1, 3, 16, "relu")), torch.device(where)
    assert steps_unread(task, device) == most
    x, y = np.zeros((1024, 3)), np.zeros((1024, 1))  # a kernel of 8 MiB in float64: 1 GiB of them, or 32 MiB
    assert steps_unread(replace(task, x=x, y=y, seeds=list(range(seeds))), device) == some
    assert steps_unread(replace(task, x=x, y=y, seeds=list(range(1000))), device) == 1
    wide = replace(task, network=DenseNetwork(3, 1, 3, 4096, "relu"))  # a stop would wait for many of its steps
    assert steps_unread(wide, device) == (1 if where == "cpu" else most)


def test_a_stack_leaves_nothing_on_the_device() -> None:
    """Its memory is free for the next one as it returns, without a collection of garbage."""
    left: list[weakref.ref[torch.Tensor]] = []

    class Watched(DenseNetwork):
        def init(self, seeds, dtype=torch.float32, device="cpu"):  # type: ignore[no-untyped-def]
            params = super().init(seeds, dtype, device)
            left.extend(weakref.ref(p) for p in params)
            return params

    gc.disable()
    try:
        _run(Watched(3, 1, 3, 8))
        assert len(left) == 6
        assert all(p() is None for p in left)
    finally:
        gc.enable()
