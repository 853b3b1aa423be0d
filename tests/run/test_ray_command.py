"""Whole commands and programs with `--engine ray`, each in a process of its own: what comes out is what the local
engine gives, and no process is left."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest

import ntkrun
from ntkrun.columns import TABLES
from tests.command import ENVIRONMENT, NTKRUN, ntkrun_process
from tests.run.processes import descendants

pytestmark = [
    pytest.mark.slow,  # Ray has time limits of its own, which a busy machine does not keep
    pytest.mark.xdist_group("ray"),
    pytest.mark.skipif(find_spec("ray") is None, reason="needs ntkrun[ray]"),
]
# Enough stacks of about the same size that two workers need not cut any: equal stacks are equal to the bit.
CONFIG = """\
name: rays
network: {depth: 2, activation: ACTIVATION}
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {steps: 4}
probes: {kernels: [last]}
sweep: {grid: {network.width: [8, 9, 10, 11, 12, 13]}, seeds: 2}
"""
RAY = ("--engine", "ray", "--jobs", "2")


def _assert_equal(one: Path, other: Path) -> None:
    here, there = ntkrun.read_results(one / "rays"), ntkrun.read_results(other / "rays")
    assert len(here.runs) == 12
    for table in TABLES:
        frame = getattr(here, table)
        timeless = [name for name in frame if name != "seconds"]
        pd.testing.assert_frame_equal(getattr(there, table)[timeless], frame[timeless], check_exact=True)
    for run_id in here.runs["run_id"]:
        mine, theirs = here.kernels(run_id), there.kernels(run_id)
        assert mine is not None
        assert theirs is not None
        assert all((mine[name] == theirs[name]).all() for name in mine)


def test_a_sweep_with_two_workers_is_the_sweep_to_the_bit(tmp_path: Path) -> None:
    (tmp_path / "rays.yaml").write_text(CONFIG.replace("ACTIVATION", "tanh"))
    for folder, engine in (("local", ()), ("ray", RAY)):
        done = ntkrun_process("sweep", "rays.yaml", "--results", folder, "--no-plots", *engine, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    assert "12 runs to do" in done.stderr
    assert done.stderr.count("2 runs in") == 6
    assert len(done.stderr.splitlines()) == 7  # nothing of Ray's own
    _assert_equal(tmp_path / "local", tmp_path / "ray")


PROGRAM = """\
import ntkrun, torch
from ntkrun.run.engines import EngineSelection

def bump(z):
    return z * torch.exp(-z.square() / 2)

ntkrun.register_activation("bump", bump)
sweep = ntkrun.load_config("rays.yaml")
ntkrun.run_sweep(sweep, "local", "cpu")
ntkrun.run_sweep(sweep, "ray", "cpu", engine=EngineSelection("ray", 2))
"""


def test_a_users_own_function_is_known_to_the_workers(tmp_path: Path) -> None:
    (tmp_path / "rays.yaml").write_text(CONFIG.replace("ACTIVATION", "bump"))
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "program.py"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (ntkrun.read_results(tmp_path / "ray" / "rays").runs["status"] == "done").all()
    _assert_equal(tmp_path / "local", tmp_path / "ray")


@pytest.fixture
def started() -> Iterator[Callable[[subprocess.Popen[str]], subprocess.Popen[str]]]:
    """Remembers a process, which ends with the test."""
    running: list[subprocess.Popen[str]] = []
    yield lambda process: running.append(process) or process  # type: ignore[func-returns-value]
    for process in running:
        process.kill()
        process.wait()


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGHUP])
def test_a_kernel_that_is_stopped_leaves_nothing(
    stop: signal.Signals, tmp_path: Path, started: Callable[[subprocess.Popen[str]], subprocess.Popen[str]]
) -> None:
    (tmp_path / "rays.yaml").write_text(CONFIG.replace("ACTIVATION", "tanh"))
    large = ["data.samples=12000", "sweep={grid: {network.width: [512]}, seeds: 2}"]
    command = [NTKRUN, "kernel", "empirical", "rays.yaml", *large, "--out", "k.npz", *RAY]
    running = started(subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True))
    deadline = time.monotonic() + 120
    while not (busy := [pid for pid in descendants(running.pid) if _says(pid).startswith("ray::_kernel")]):
        assert time.monotonic() < deadline
        assert running.poll() is None
        time.sleep(0.2)
    ours = descendants(running.pid)
    assert len(ours) > len(busy) + 2  # the head of a local Ray and its scheduler among them
    running.send_signal(stop)
    _, said = running.communicate(timeout=120)
    assert running.returncode == 130
    assert said.splitlines()[-1] == "interrupted; k.npz was not written"
    assert "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["rays.yaml"]
    deadline = time.monotonic() + 20  # ended, and taken note of by their parents
    while left := [pid for pid in ours if _says(pid)]:
        assert time.monotonic() < deadline, [_says(pid) for pid in left]
        time.sleep(0.2)


def _says(pid: int) -> str:
    """The command line of a process, "" where there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""
