"""Write an sbatch script that runs a sweep as a Slurm job array, sized by rough costs."""

import math
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ntkrun.config.reader import Sweep
from ntkrun.engine.devices import GIB
from ntkrun.engine.memory import stack_bytes
from ntkrun.errors import UserError
from ntkrun.plan.costs import rough_seconds
from ntkrun.plan.problem import problem_of
from ntkrun.plan.runs import Stack, plan
from ntkrun.plan.stacks import bytes_for, deal, stacks_within

MARGIN = 3.0  # factor between the rough estimate for a core and the time limit of a task
START = 600.0  # seconds for loading Python, torch, data and limit kernels from a busy file system, and for the tables
HOUR = 3600.0  # target seconds of a task if the number of tasks is not given
MOST_TASKS = 1000  # in an array, unless the user asks for more: Slurm's default limit
BESIDE = 2.0  # GiB that torch and the tables need in addition to a stack
NOTICE = 120  # seconds before the time limit at which Slurm sends USR1


@dataclass(frozen=True)
class Array:
    """The options of a job array: the config with its overrides, the results directory, the number of tasks and of
    cores per task, the device, and the GiB that a stack may take."""

    config: str
    overrides: Sequence[str]
    results: str
    tasks: int | None
    cpus: int
    device: str
    memory: float


def sbatch_script(sweep: Sweep, array: Array) -> str:
    """Return the script for `sbatch`. Raises UserError for invalid options and for networks that do not fit."""
    for option, value in (("--tasks", array.tasks), ("--cpus", array.cpus)):
        if value is not None and value < 1:
            raise UserError(f"{option} {value}: give 1 or more")
    if array.device not in ("cpu", "cuda"):
        raise UserError(f"--device {array.device}: choose cpu or cuda")
    runs, device = plan(sweep), torch.device(array.device)
    stacks = stacks_within(runs, bytes_for(array.memory, device), device)
    hours = math.ceil(sum(map(rough_seconds, stacks)) / HOUR)
    tasks = min(MOST_TASKS, len(runs), hours) if array.tasks is None else array.tasks
    longest = max(sum(map(rough_seconds, shard)) for shard in deal(runs, tasks))
    return _text(sweep.name, len(runs), array, tasks, _gib(stacks), START + MARGIN * longest)


def _gib(stacks: Sequence[Stack]) -> int:
    return math.ceil(max(stack_bytes(problem_of(s.point).task, len(s.runs)) for s in stacks) / GIB + BESIDE)


def _time(seconds: float) -> str:
    """Return a time in Slurm's format HH:MM:SS, rounded up to ten minutes."""
    hours, minutes = divmod(10 * math.ceil(seconds / 600), 60)
    return f"{hours:02}:{minutes:02}:00"


def _quoted(word: str) -> str:
    """Quote a word for bash in ASCII alone, since a terminal or editor could change the bytes of a file's name."""
    if word.isascii():
        return shlex.quote(word)
    escaped = (chr(byte) if byte < 128 and chr(byte) not in "\\'" else f"\\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(escaped)}'"


def _text(name: str, runs: int, array: Array, tasks: int, gib: int, seconds: float) -> str:
    words = ["ntkrun", "sweep", array.config, *array.overrides, "--results", array.results, "--device", array.device]
    command = " ".join(map(_quoted, [*words, "--memory", f"{array.memory:g}", "--no-plots"]))
    gpu = "#SBATCH --gres=gpu:1\n" if array.device == "cuda" else ""
    return f"""\
#!/bin/bash
# The sweep {name}, {runs} runs in {tasks} tasks. Submit it from a folder that all nodes share, with what your
# cluster requires: sbatch --partition=... --account=... FILE. Submitted again, it runs what is still missing.
#SBATCH --job-name={name}
#SBATCH --array=0-{tasks - 1}
#SBATCH --cpus-per-task={array.cpus}
{gpu}#SBATCH --mem={gib}G
#SBATCH --time={_time(seconds)}
#SBATCH --requeue
#SBATCH --signal=B:USR1@{NOTICE}
#SBATCH --open-mode=append
#SBATCH --output={name}-%A_%a.log

# Make `ntkrun` available here: module load ..., source .venv/bin/activate.
export OMP_NUM_THREADS="${{SLURM_CPUS_PER_TASK:-{array.cpus}}}"

# ntkrun keeps what is finished when it is told to stop. The task is queued again and continues from there.
# $! is set once ntkrun has started. Before that there is nothing to stop.
stop() {{
    if [ -n "$!" ]; then
        kill -TERM "$!"
        wait "$!"
    fi
}}
trap 'stop; scontrol requeue "$SLURM_JOB_ID"; exit 0' USR1 # time is nearly up
trap 'stop; exit 130' TERM                                 # preempted, or cancelled

{command} \\
    --shard "$((SLURM_ARRAY_TASK_ID + 1))/{tasks}" &
wait "$!"
"""
