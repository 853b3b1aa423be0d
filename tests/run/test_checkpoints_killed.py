"""A sweep that is killed again and again in mid-run ends with the tables of one that was not."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

from ntkrun.columns import TABLES
from ntkrun.store.results_directory import read_results

KILLS = 5
CONFIG = """\
name: killed
network: {depth: 3, width: 64, activation: relu}
data: {name: sphere, dimension: 3, samples: 8, test_samples: 4}
training: {step_size: 0.3, steps: 2000, momentum: 0.5, batch: 4}
probes: {every: 20, kernels: [first, last]}
sweep: {seeds: 3}
"""
# A checkpoint every twentieth of a second, whatever its share of the time.
PROGRAM = """\
import sys
import torch
from ntkrun.run import checkpoints
from ntkrun.config.reader import load_config
from ntkrun.run.sweep import run_sweep
from ntkrun.run.progress import Watch

class Told(Watch):
    def note(self, stack, text):
        print(text, flush=True)

torch.set_num_threads(1)
checkpoints.INTERVAL, checkpoints.SHARE = 0.05, float("inf")
run_sweep(load_config(sys.argv[1]), sys.argv[2], "cpu", Told())
"""


def _start(config: Path, results: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(config), str(results)], stdout=subprocess.PIPE, text=True
    )


def _killed(process: "subprocess.Popen[str]", folder: Path, after: float) -> str:
    """What it said until it was killed, so many seconds after its next checkpoint."""
    started = time.time()
    while process.poll() is None and not any(path.stat().st_mtime > started for path in folder.glob("[!.]*")):
        time.sleep(0.02)
    time.sleep(after)
    os.kill(process.pid, signal.SIGKILL)
    return process.communicate()[0]


@pytest.mark.slow
def test_kills_at_random_moments_change_no_number(tmp_path: Path) -> None:
    (config := tmp_path / "killed.yaml").write_text(CONFIG)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    undisturbed = _start(config, whole)
    assert undisturbed.communicate()[0] == ""
    assert undisturbed.returncode == 0
    draw = random.Random(0)
    said = [
        _killed(_start(config, broken), broken / "killed" / "checkpoints", draw.uniform(0, 0.5)) for _ in range(KILLS)
    ]
    last = _start(config, broken)
    said.append(last.communicate()[0])
    assert last.returncode == 0
    steps = [int(step) for text in said for step in re.findall(r"continues from step (\d+)", text)]
    assert len(steps) == KILLS  # each was killed in mid-run and went on from there
    assert steps == sorted(steps)
    assert 0 < steps[0] < steps[-1] < 2000
    found, expected = read_results(broken / "killed"), read_results(whole / "killed")
    for table in TABLES:
        mine, theirs = (getattr(each, table).drop(columns="seconds", errors="ignore") for each in (found, expected))
        pd.testing.assert_frame_equal(mine, theirs, check_exact=True)
    assert list((broken / "killed" / "checkpoints").glob("[!.]*")) == []
