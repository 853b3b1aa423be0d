"""The command as a user calls it, and a config that it runs in a second."""

import contextlib
import io
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

from ntkrun import cli

NTKRUN = str(Path(sys.executable).with_name("ntkrun"))
CONFIG = """\
name: tiny
network: {depth: 2, activation: erf}
data: {name: circle, samples: 4, test_samples: 4, targets: product}
training: {steps: 5}
sweep: {grid: {network.width: [32, 64]}, seeds: 2}
"""
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "80"}

Done = subprocess.CompletedProcess[str]


def ntkrun_process(*arguments: str, cwd: Path) -> Done:
    """The installed command in a process of its own: for what depends on that, and to see that it is the same."""
    return subprocess.run([NTKRUN, *arguments], cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)


def ntkrun_command(*arguments: str, cwd: Path) -> Done:
    """What the installed command says and its exit code, called in this process: importing torch takes a process of its
    own longer than most commands do."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", [NTKRUN, *arguments]),
        mock.patch.dict(os.environ, ENVIRONMENT),
    ):
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    said = [stream.buffer.getvalue().decode() for stream in (out, err)]  # type: ignore[attr-defined]
    return subprocess.CompletedProcess([NTKRUN, *arguments], code, *said)
