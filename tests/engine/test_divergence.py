"""Diverged runs: when and why they are, that they stay so, and that they disturb no other run of their stack."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.divergence import GROWTH_LIMIT, Divergence, Losses
from ntkrun.engine.measured_rows import TABLES, Columns
from ntkrun.engine.network import Parameters
from ntkrun.engine.operators import DIRECT
from ntkrun.engine.stack import problem_of, run_stack
from ntkrun.engine.task import StackTask
from tests.engine.small import draw, points, small_task, states
from tests.engine.test_checkpoint import assert_equal, cut_at

CPU, STEPS = torch.device("cpu"), 12
AT_THE_END = 1000  # steps between two reads: no divergence is seen before the last step


def _losses(runs: list[list[float]], read_every: int) -> Losses:
    """Return what is noted of the losses of these runs, each a list by step."""
    noted = Losses(len(runs))
    for step, losses in enumerate(zip(*runs, strict=True)):
        noted.add(torch.tensor(losses))
        if step % read_every == 0 or step == len(runs[0]) - 1:
            noted.check(step)
    return noted


@pytest.mark.parametrize("read_every", [1, 2, 5])
def test_the_first_divergence_counts_whenever_it_is_read(read_every: int) -> None:
    runs = [
        [1.0, 2.0, 1.0, 9e5, 1.0, 0.5],
        [1.0, 3e6, 1.0, math.nan, 1.0, 2e6],  # comes back, and diverges again
        [2.0, 1.0, 1.0, 1.0, math.inf, math.nan],
        [1.0, 1.0, math.nan, 1.0, 1.0, 1.0],
        [0.0, 0.0, 0.0, 1e-9, 1.0, 1.0],
        [math.nan, 1.0, 1.0, 1.0, 1.0, 1.0],
    ]
    found = _losses(runs, read_every)
    reasons = {run.position: run.reason for run in found.diverged}
    assert len(reasons) == len(found.diverged) == 5
    assert [run.step for run in sorted(found.diverged, key=lambda run: run.position)] == [1, 4, 2, 3, 0]
    assert found.ends.tolist() == [math.inf, 1, 4, 2, 3, 0]
    assert reasons[1] == "the loss has grown 3.0e+06-fold by step 1"
    assert reasons[2] == "the loss is not finite at step 4"
    assert reasons[3] == "the loss is not finite at step 2"
    assert reasons[4] == "the loss has grown inf-fold by step 3"
    assert not found.all_diverged
    assert _losses(runs[1:], read_every).all_diverged


def _catapult() -> StackTask:
    """Seed 3 starts 1e-6 from its targets with an unstable step: its loss grows until its kernel has fallen to where
    the step is stable, and then falls (Lewkowycz et al. 2020). The loss of seed 7 starts large and grows 20-fold."""
    net, x = DenseNetwork(3, 1, 2, 64, "relu", 0.0), points()[0]
    y = net.apply(net.init([3], torch.float64), x)[0] + 1e-6 * draw(6, 1, seed=2)
    return small_task(
        net, "squared", 150, seeds=[3, 7], y=y.numpy(), step_size=8.0, probed=frozenset(range(0, 151, 10))
    )


@pytest.mark.parametrize("read_every", [1, 7, AT_THE_END])
def test_a_run_whose_loss_comes_back_stays_diverged(read_every: int) -> None:
    task = _catapult()
    losses = torch.stack([state.loss.clone() for state in states(problem_of(task, CPU))])
    growth = losses / losses[0]
    first = int((growth[:, 0] > GROWTH_LIMIT).nonzero()[0])
    assert growth[-1, 0] < GROWTH_LIMIT < growth[:, 0].max()
    assert growth[:, 1].max() < GROWTH_LIMIT
    result = run_stack(task, CPU, read_every=read_every)
    reason = f"the loss has grown {growth[first, 0]:.1e}-fold by step {first}"
    assert result.diverged == [Divergence(0, first, reason)]
    assert _of_runs(result.steps, [0])["step"].tolist() == list(range(0, first, 10))
    assert _of_runs(result.steps, [1])["step"].tolist() == sorted(task.probed)
    assert_equal(run_stack(task, CPU, read_every=7, resume=cut_at(task, 4, 7)), run_stack(task, CPU, read_every=7))


@dataclass(frozen=True)
class _Wild(DenseNetwork):
    """The second network of a stack starts with weights so many times too large."""

    size: float = 1.0

    def init(self, seeds, dtype=torch.float32, device="cpu") -> Parameters:  # type: ignore[no-untyped-def]
        params = super().init(seeds, dtype, device)
        params.weights[1][1] *= self.size
        return params


def _of_runs(columns: Columns, positions: list[int]) -> dict[str, np.ndarray]:
    chosen = np.isin(columns["position"], positions) if columns else np.zeros(0, dtype=bool)
    return {name: np.array(values)[chosen] for name, values in columns.items()}


def _task(width: int, size: float, loss: str = "squared", **changes: object) -> StackTask:
    """Three runs, all steps probed and some with all that is ever measured."""
    some, net = frozenset({0, 1, 5, STEPS}), _Wild(3, 2, 3, width, "relu", size=size)
    kept = {"keep_outputs": some, "keep_kernels": some, "detailed": some}
    return small_task(net, loss, STEPS, **{"seeds": [4, 5, 7], **kept, **changes})


# Infinite from the start, as is K_0, whose eigenvectors are taken; in float32 alone; and in mid-training.
SIZES = {
    "nan": (math.nan, torch.float64),
    "1e200": (1e200, torch.float64),
    "1e30 in float32": (1e30, torch.float32),
    "grows": (300.0, torch.float64),
}


@pytest.mark.parametrize("changes", [{}, {"batch": 2, "momentum": 0.5}], ids=["full batch", "stochastic"])
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("width", [DIRECT // 4, DIRECT + 6])  # operator norms with and without block iterations
def test_numbers_that_are_not_finite_disturb_no_other_run(width: int, name: str, changes: dict[str, object]) -> None:
    """The others have the numbers of a stack without such a run. Both make the same products of the same shapes; but
    block iterations go on as long as any matrix needs them, which may round differently: 1e-12."""
    size, dtype = SIZES[name]
    calm, wild = (
        run_stack(_task(width, each, dtype=dtype, **changes), CPU, read_every=AT_THE_END) for each in (1.0, size)
    )
    assert calm.diverged == []
    (diverged,) = wild.diverged
    assert diverged.position == 1
    assert diverged.step == (1 if name == "grows" else 0)
    for table in TABLES:
        found, expected = (_of_runs(getattr(result, table), [0, 2]) for result in (wild, calm))
        assert found.keys() == expected.keys()
        for column, values in expected.items():
            np.testing.assert_allclose(found[column], values, rtol=1e-12, atol=1e-14, err_msg=f"{table} {column}")
        own = set(_of_runs(getattr(wild, table), [1])["step"].tolist())
        assert own == {step for step in expected["step"].tolist() if step < diverged.step}, table
    for position in (0, 2):
        for step, kernel in calm.kernels[position].items():
            np.testing.assert_allclose(wild.kernels[position][step], kernel, rtol=1e-12, atol=1e-14)
    assert sorted(wild.kernels.get(1, {})) == list(range(diverged.step))


def test_other_losses_meet_them_too() -> None:
    """Bounded gradients keep their losses finite for longer than the numbers behind them."""
    for loss in ("huber", "cross_entropy"):
        for size, dtype in SIZES.values():
            result = run_stack(_task(DIRECT + 6, size, loss, dtype=dtype), CPU, read_every=5)
            assert {run.position for run in result.diverged} <= {1}
            assert np.isfinite(_of_runs(result.steps, [0, 2])["loss"]).all()


@pytest.mark.parametrize("read_every", [1, 3, AT_THE_END])
def test_rows_end_where_a_run_diverges_however_often_it_is_read(read_every: int) -> None:
    """To the bit: reading reads numbers, and makes none but the eigenvalues of each kernel by itself."""
    task = _task(16, 20.0, step_size=0.1, detailed=frozenset(range(STEPS + 1)))
    often, found = (run_stack(task, CPU, read_every=each) for each in (1, read_every))
    (diverged,) = often.diverged
    assert 1 < diverged.step < STEPS
    assert_equal(found, often)
    steps = _of_runs(found.steps, [1])
    assert steps["step"].tolist() == list(range(diverged.step))
    assert np.isnan(steps["descent_residual"][-1])  # its step led nowhere
    assert np.isfinite(steps["descent_residual"][:-1]).all()


def test_a_measurement_says_whose_numbers_mean_nothing() -> None:
    seen = {}

    def watch(state: object, measured: object) -> None:
        seen[measured.step] = (measured.diverged, measured.mean("loss"), measured.numbers["loss"].clone())  # type: ignore[attr-defined]

    run_stack(_task(16, math.nan), CPU, watch, read_every=1)
    assert sorted(seen) == list(range(STEPS + 1))
    for diverged, mean, losses in seen.values():
        assert diverged == (1,)
        assert losses[1].isnan()
        assert mean == pytest.approx(float(losses[[0, 2]].mean()), rel=1e-14)


def test_a_resumed_stack_keeps_what_is_not_finite() -> None:
    for size, dtype in SIZES.values():
        task = _task(16, size, dtype=dtype)
        whole = run_stack(task, CPU, read_every=2)
        for asked in (1, 3):
            cut = cut_at(task, asked, 2)
            assert cut.diverged == whole.diverged
            assert_equal(run_stack(task, CPU, read_every=2, resume=cut), whole)


@pytest.mark.parametrize(
    ("y", "read_every", "last"), [(1e200, 5, 0), (1.0, 1, 1), (1.0, 5, 5), (1.0, AT_THE_END, STEPS)]
)
def test_a_stack_ends_when_all_are_seen_to_have_diverged(y: float, read_every: int, last: int) -> None:
    seen: list[tuple[int, bool]] = []
    task = _task(16, 1.0, step_size=1e8, y=np.full((6, 2), y))
    result = run_stack(
        task, CPU, lambda state, measured: seen.append((state.step, measured is None)), read_every=read_every
    )
    assert [(run.position, run.step) for run in result.diverged] == [(k, min(last, 1)) for k in range(3)]
    assert seen == [(step, step == last) for step in range(last + 1)]  # nothing is measured of the last
    assert set(result.steps.get("step", ())) == set(range(min(last, 1)))
