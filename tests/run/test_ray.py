"""Stacks as tasks of a local Ray: the numbers of the local engine, losses that are told, no socket for other machines,
and nothing left behind. One Ray serves all tests of this module."""

import os
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from ntkrun.config.reader import parse_config
from ntkrun.config.schema import Point
from ntkrun.engine.kernel import empirical_ntk
from ntkrun.plan.limits import network
from ntkrun.plan.problem import data_of, inputs_of
from ntkrun.plan.runs import Stack, plan, stacks
from ntkrun.plan.stacks import split_stack
from ntkrun.run import ray
from ntkrun.run.kernel_blocks import fill
from ntkrun.run.provenance import provenance
from ntkrun.run.ray import Ray, Workers, connected_workers, import_ray, in_flight, task
from ntkrun.run.task import Done, Failed, Lost, run_task
from tests.run.processes import descendants

# Found and not imported: what tames Ray has to be there before it is.
pytestmark = [
    pytest.mark.slow,  # Ray has time limits of its own, which a busy machine does not keep
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs ntkrun[ray]"),
]
CPU = torch.device("cpu")
TEXT = """\
name: rays
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {steps: 4}
probes: {kernels: [last]}
sweep: {grid: {network.width: [8, 9, 10]}, seeds: 2}
"""


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with connected_workers(None, 2, "cpu") as found:
        yield found


def _stacks(*overrides: str) -> list[Stack]:
    return stacks(plan(parse_config(TEXT, overrides=overrides)))


def test_stacks_give_bitwise_what_they_give_here(workers: Workers) -> None:
    made_by = provenance(CPU)
    ended = dict(Ray(workers, timed=False, stopping=lambda: False).run(deque(_stacks())))
    assert len(ended) == 3
    for stack, there in ended.items():
        here = run_task(stack, CPU, made_by)
        assert isinstance(there, Done)
        assert isinstance(here, Done)
        for table, frame in here.frames.items():
            timeless = [name for name in frame if name != "seconds"]
            pd.testing.assert_frame_equal(there.frames[table][timeless], frame[timeless], check_exact=True)
        for run_id, of_run in here.kernels.items():
            for step, kernel in of_run.items():
                np.testing.assert_array_equal(there.kernels[run_id][step], kernel)


def test_a_worker_loads_no_data_and_computes_no_limit_kernel(workers: Workers) -> None:
    """Its functions for both are taken away; the stack's numbers are those of above."""

    def without(*arguments: Any) -> Any:
        from ntkrun.data.base import DataSet
        from ntkrun.plan import limits
        from ntkrun.run.ray import _attempted

        with pytest.MonkeyPatch.context() as patched:
            for name in ("expected_kernel", "limit_kernels_with_error", "loaded"):
                patched.setattr(limits, name, None)
            patched.setattr(DataSet, "load", None)
            return _attempted(*arguments)

    for stack in _stacks("sweep.grid.network.width=[8]", "network.activation=silu"):
        inputs = import_ray().put(inputs_of(stack.point))
        ended = import_ray().get(task(without, 1, 0, 0).remote(stack, inputs, "cpu", 1, False, workers.registered))
        assert isinstance(ended, Done), ended
        assert ended.frames["outputs"]["limit_variance"].notna().all()
        assert ended.frames["steps"]["distance_to_limit"].notna().all()


def test_the_inputs_of_a_grid_point_are_sent_once(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Counter[Point]()
    monkeypatch.setattr(ray, "inputs_of", lambda point: sent.update([point]) or inputs_of(point))
    planned = [part for stack in _stacks("sweep.seeds=3") for part in split_stack(stack, 1)]
    ended = list(Ray(workers, timed=False, stopping=lambda: False).run(deque(planned)))
    assert [type(outcome) for _, outcome in ended] == [Done] * 9
    assert sent == {stack.point: 1 for stack in planned}


def test_a_stack_that_fails_there_fails_as_it_does_here(workers: Workers) -> None:
    (stack,) = _stacks("sweep={grid: {network.width: [8]}, seeds: 1}")
    broken = Stack(stack.point, (replace(stack.runs[0], seed=-1),))
    ((_, there),) = Ray(workers, False, lambda: False).run(deque([broken]))
    here = run_task(broken, CPU, provenance(CPU))
    assert isinstance(there, Failed)
    assert isinstance(here, Failed)
    assert (there.reason, there.last_step) == (here.reason, here.last_step)
    assert "Traceback" in there.log


def test_a_worker_that_dies_is_told_with_where_the_logs_are(workers: Workers) -> None:
    outcome = Ray(workers, False, lambda: False)._outcome(task(lambda: os._exit(9), 1, 0, 0).remote())
    assert isinstance(outcome, Lost)
    assert "its worker is gone" in outcome.reason
    assert str(workers.logs) in outcome.log
    assert workers.logs.is_dir()


def test_an_interrupt_leaves_nothing_running(workers: Workers) -> None:
    def wait(seconds: float) -> None:
        import time

        time.sleep(seconds)

    waiting = deque([60.0, 60.0, 60.0])
    with (
        pytest.raises(KeyboardInterrupt),
        closing(in_flight(waiting, lambda s: task(wait, 1, 0, 0).remote(s), 2, lambda: True)) as ended,
    ):
        next(ended)
    assert len(waiting) == 1  # never started
    import_ray().get(task(wait, 1, 0, 0).remote(0.0), timeout=50)  # the workers are free, or made anew


def test_no_socket_listens_beyond_this_machine(workers: Workers) -> None:
    ours = descendants(os.getpid())
    assert len(ours) >= 4  # the head of a local Ray, its scheduler and two workers
    listening = [place for pid in ours for place in _listening(pid)]
    assert listening
    assert {place for place in listening if not place.startswith(LOOPBACK)} == set()


# 127.0.0.1, ::1 and ::ffff:127.0.0.1 as the kernel of Linux writes them.
LOOPBACK = ("0100007F:", "00000000000000000000000001000000:", "0000000000000000FFFF00000100007F:")


def _listening(pid: int) -> list[str]:
    """Addresses on which a process waits for connections."""
    try:
        links = [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
    found = []
    for family in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                found.append(fields[1])
    return found


def test_a_kernel_in_blocks_is_the_kernel(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    from ntkrun.run import kernel_blocks

    monkeypatch.setattr(kernel_blocks, "SIDE", 4)
    monkeypatch.setattr(kernel_blocks, "CPU_TILE", 4)
    point = _stacks("data.samples=11")[0].point
    net, x = network(point), data_of(point).x
    result = np.empty((2, 11, 11, 1, 1))
    fill(result, net, [3, 4], x, torch.float64, workers)
    whole = empirical_ntk(net, net.init([3, 4], torch.float64), torch.tensor(x)).numpy()
    np.testing.assert_allclose(result, whole, rtol=1e-12)  # other tiles round differently, in float64
    np.testing.assert_array_equal(result, result.transpose(0, 2, 1, 4, 3))
