"""Kernels of far more inputs than fit: a sentence before anything is computed, with advice for whoever asked."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ntkrun.config.reader import Sweep, parse_config
from ntkrun.engine import devices
from ntkrun.errors import TooLarge, UserError
from ntkrun.plan.limits import limit_kernel
from ntkrun.plan.problem import check_limits, inputs_of, limit_outputs, problem_of
from ntkrun.run.engines import EngineSelection
from ntkrun.run.forecast import dry_run_of
from ntkrun.run.kernels import empirical_arrays, empirical_in_blocks, limit_arrays
from ntkrun.run.sweep import run_sweep
from tests.engine.peak import peak_of

TEXT = """\
name: big
network: {depth: 3, width: 8, activation: relu}
data: {name: circle, samples: 4, test_samples: 4, targets: product}
training: {step_size: 0.5, steps: 2}
sweep: {seeds: 2}
"""
MILLION = "data.samples=1000000"


def _sweep(*overrides: str) -> Sweep:
    return parse_config(TEXT, overrides=overrides)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            limit_arrays,
            r"data\.samples: the limit kernels of 1000000 inputs take 1\.49e\+04 GiB and .* free; take fewer$",
        ),
        (
            empirical_arrays,
            r"data\.samples: the kernels of 2 networks on 1000000 inputs take 1\.12e\+04 GiB and .* GiB are free; take "
            "fewer, or fewer sweep.seeds, or --engine ray, which assembles them on disk$",
        ),
    ],
    ids=["limit", "empirical"],
)
def test_kernels_that_do_not_fit_are_a_sentence(make: Callable[[Sweep, str], object], said: str) -> None:
    with pytest.raises(TooLarge, match=said):
        make(_sweep(MILLION), "cpu")


def test_kernels_that_the_disk_does_not_hold_are_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"take 1\.49e\+04 GiB of disk and .* GiB are free; take fewer data\.samples"):
        empirical_in_blocks(_sweep(MILLION), "cpu", EngineSelection("ray"), tmp_path)
    with pytest.raises(UserError, match="nowhere: cannot be written"):
        empirical_in_blocks(_sweep(), "cpu", EngineSelection("ray"), tmp_path / "nowhere")


@pytest.mark.parametrize(
    "overrides",
    [
        (MILLION,),
        ("data.test_samples=1000000",),
        (MILLION, "training.step_size={relative: 1}"),
        (MILLION, "data.targets={component: 1, size: 1.0}"),
    ],
)
@pytest.mark.parametrize("act", [run_sweep, dry_run_of])
def test_a_sweep_that_needs_such_a_kernel_ends_before_it_begins(
    act: Callable[..., object], overrides: tuple[str, ...], tmp_path: Path
) -> None:
    with pytest.raises(
        UserError, match=r"^data\.samples: the limit kernels of 1000004 inputs take .* GiB are free; take"
    ):
        act(_sweep(*overrides), tmp_path, "cpu")
    assert list(tmp_path.iterdir()) == []


def test_what_the_outputs_of_infinite_width_take_is_foreseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """At sizes where the 20 MiB of a block's temporaries are few."""
    (point, _), *_ = _sweep("data.samples=900", "data.test_samples=300", "probes.outputs=[0, 1, 2]").points
    taken = peak_of(lambda: limit_outputs(inputs_of(point), [0, 1, 2]))
    assert peak_of(lambda: limit_kernel(point)) < 24 * 900 * 1200 + 2**25
    task = problem_of(point).task
    for free, fits in ((2 * taken, True), (0.6 * taken, False)):
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        if fits:
            check_limits(task)
        else:
            with pytest.raises(TooLarge):
                check_limits(task)


def test_empirical_kernels_of_several_seeds_are_put_together_in_their_place() -> None:
    together, _ = empirical_arrays(_sweep(), "cpu")
    alone, _ = empirical_arrays(_sweep("sweep.seeds=[1]"), "cpu")
    assert together["ntk"].shape == (2, 4, 4, 1, 1)
    np.testing.assert_array_equal(together["ntk"][1:], alone["ntk"])
