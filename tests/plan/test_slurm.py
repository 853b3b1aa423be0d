"""The sbatch script: what it asks of Slurm, that shellcheck finds nothing, and what bash does with it."""

import os
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ntkrun.config.reader import parse_config
from ntkrun.errors import UserError
from ntkrun.plan.slurm import Array, sbatch_script

TEXT = """\
name: array
data: {name: sphere, dimension: 3, samples: 6, test_samples: 2}
training: {steps: 10}
sweep: {grid: {network.width: [8, 64]}, seeds: 4}
"""
ARRAY = Array("my sweep.yaml", ["training.loss=huber", "data.targets=it's"], "/scratch/out", 3, 2, "cpu", 4.0)


def _script(*overrides: str, **changed: object) -> str:
    return sbatch_script(parse_config(TEXT, overrides=overrides), Array(**{**vars(ARRAY), **changed}))  # type: ignore[arg-type]


def _asked(script: str) -> dict[str, str]:
    lines = (line.removeprefix("#SBATCH --") for line in script.splitlines() if line.startswith("#SBATCH --"))
    return dict(line.partition("=")[::2] for line in lines)


def test_what_is_asked_of_slurm() -> None:
    asked = _asked(_script())
    assert asked["array"] == "0-2"
    assert asked["cpus-per-task"] == "2"
    assert asked["signal"] == "B:USR1@120"
    assert {"requeue", "mem", "time"} <= asked.keys()
    assert "gres" not in asked
    assert _asked(_script(device="cuda"))["gres"] == "gpu:1"


def test_time_memory_and_tasks_follow_the_cost_model() -> None:
    def asked(*overrides: str) -> tuple[int, int, int]:
        found = _asked(_script("sweep.grid.network.width=[4096]", *overrides, tasks=None))
        hours, minutes, _ = map(int, found["time"].split(":"))
        return int(found["array"].split("-")[1]) + 1, 60 * hours + minutes, int(found["mem"].removesuffix("G"))

    short, long = asked("training.steps=100"), asked("training.steps=20000")
    assert short[0] == 1
    assert long[0] == 3  # four runs of 3e7 parameters for 20000 steps: most of an hour each
    assert long[1] > 5 * short[1]  # two of them one after the other, against ten minutes to start
    assert asked("training.steps=200000")[0] == 4  # no more tasks than runs
    assert short[2] >= 3
    assert asked("network.depth=6", "training.steps=100")[2] > short[2]


@pytest.mark.parametrize(("changed", "named"), [({"tasks": 0}, "--tasks 0"), ({"cpus": 0}, "--cpus 0")])
def test_numbers_that_are_none_are_a_sentence(changed: dict[str, int], named: str) -> None:
    with pytest.raises(UserError, match=f"{named}: give 1 or more"):
        _script(**changed)


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="needs shellcheck (apt-get install shellcheck)")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_shellcheck_finds_nothing(device: str, tmp_path: Path) -> None:
    (tmp_path / "array.sbatch").write_text(_script(device=device))
    found = subprocess.run(["shellcheck", tmp_path / "array.sbatch"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def _started(folder: Path, task: int, **stubs: str) -> subprocess.Popen[str]:
    """The script as a task of the array, with these commands in place of those of that name."""
    for name, text in stubs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    (folder / "array.sbatch").write_text(_script())
    slurm = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_JOB_ID": str(70 + task), "SLURM_CPUS_PER_TASK": "2"}
    environment = {**os.environ, **slurm, "PATH": f"{folder}:{os.environ['PATH']}"}
    how = {"cwd": folder, "env": environment, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen(["bash", "array.sbatch"], **how)  # type: ignore[call-overload,no-any-return]


def test_each_task_sweeps_its_shard_and_ends_as_the_sweep_does(tmp_path: Path) -> None:
    for task in range(3):
        said, _ = (
            running := _started(tmp_path, task, ntkrun='printf "%s\\n" "$@" "$OMP_NUM_THREADS"; exit 1')
        ).communicate()
        assert running.returncode == 1
        words = said.split("\n")
        assert words[:4] == ["sweep", "my sweep.yaml", "training.loss=huber", "data.targets=it's"]
        assert words[words.index("--shard") + 1] == f"{task + 1}/3"
        assert words[-2] == "2"


@pytest.mark.parametrize(("sent", "code", "requeued"), [(signal.SIGUSR1, 0, "requeue 71\n"), (signal.SIGTERM, 130, "")])
def test_a_task_that_is_told_to_stop_lets_the_sweep_finish(
    sent: signal.Signals, code: int, requeued: str, tmp_path: Path
) -> None:
    stopping = "trap 'echo committed; exit 130' TERM; echo begun > begun; while :; do sleep 0.05; done"
    running = _started(tmp_path, 1, ntkrun=stopping, scontrol='echo "$@"')
    while not (tmp_path / "begun").exists():
        time.sleep(0.02)
    running.send_signal(sent)
    said, _ = running.communicate(timeout=60)
    assert (running.returncode, said) == (code, f"committed\n{requeued}")


def test_a_task_that_is_told_to_stop_before_it_began_stops() -> None:
    """As bash has it: told so while the lines before the sweep are still being read."""
    lines = _script()
    early = lines.replace("trap 'stop; exit 130' TERM", "trap 'stop; exit 130' TERM; kill -TERM $$ #")
    assert early != lines
    ended = subprocess.run(["bash", "-c", early], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


def test_words_of_the_config_are_words_of_the_command() -> None:
    (line,) = (
        line for line in _script(overrides=["name=$(touch x)", "a=b c"]).splitlines() if line.startswith("ntkrun")
    )
    assert shlex.split(line.removesuffix("\\"))[3:5] == ["name=$(touch x)", "a=b c"]


@pytest.mark.parametrize(
    "name", ["données σ.yaml", "it's é\\x41 $HOME.yaml", os.fsdecode(b"caf\xe9 \xff.yaml"), "é\n4.yaml"]
)
def test_names_beyond_ascii_keep_their_bytes_in_any_locale(name: str) -> None:
    script = _script(config=name)
    assert script.isascii()
    called = (
        "ntkrun() { printf '%s' \"$2\"; }; SLURM_ARRAY_TASK_ID=0\n" + script.partition("trap 'stop; exit 130' TERM")[2]
    )
    done = subprocess.run(["bash", "-c", called], capture_output=True, check=True)
    assert done.stdout == os.fsencode(name)
