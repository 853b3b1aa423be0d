"""Starting a config, exporting tables, and what the terminal says: help, completion, width."""

import io
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console
from typer.main import get_command

from ntkrun.cli import app
from ntkrun.commands.printing import under_way
from ntkrun.commands.progress_bar import TerminalProgress
from ntkrun.config.reader import load_config, parse_config
from ntkrun.config.template import SECTIONS, commented
from ntkrun.errors import UserError
from ntkrun.plan.runs import plan, stacks
from ntkrun.run.sweep import run_sweep
from ntkrun.store.export import _numbers, export, run_names
from ntkrun.store.results_directory import Results
from tests.command import CONFIG, ENVIRONMENT, NTKRUN, ntkrun_command, ntkrun_process

# ---------------------------------------------------------------- new


def test_new_writes_a_config_once(tmp_path: Path) -> None:
    done = ntkrun_command("new", "mine", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "mine.yaml"
    assert load_config(file).name == "mine"
    file.write_text("mine")
    again = ntkrun_command("new", "mine", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (2, "")
    assert again.stderr == "mine.yaml: already exists; choose another name\n"
    assert file.read_text() == "mine"


def test_a_new_config_says_what_every_key_means() -> None:
    lines = commented("mine").splitlines()
    assert max(map(len, lines)) <= 100
    keys = [k for k, line in enumerate(lines) if line and not line.lstrip().startswith("#")]
    assert len(keys) > 35
    assert all(lines[k - 1].lstrip().startswith("#") for k in keys)


def test_a_new_config_holds_the_defaults() -> None:
    start = "{grid: {network.width: [64, 128, 256, 512]}, seeds: 5}"
    short = (
        f"name: mine\ndata: {{name: digits}}\ntraining: {{steps: 200}}\nsweep: {start}\n"
        "claims: [frozen-kernel, lazy-weights, global-minimum]"
    )
    assert parse_config(commented("mine")).resolved == parse_config(short).resolved


@pytest.mark.parametrize("name", ["1e3", "0", "no", "a.b-c_d", "null", "x" * 100])
def test_a_new_config_keeps_its_name(name: str) -> None:
    assert parse_config(commented(name)).name == name


@pytest.mark.parametrize("name", ["../x", "", "a b", "-x", "ü", "x" * 101, "a\nb"])
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserError, match="not a valid name"):
        commented(name)


def test_the_schema_says_what_every_key_means() -> None:
    from ntkrun.data import DATA_SETS

    for section in (*SECTIONS.values(), *DATA_SETS):
        assert [key for key, field in section.model_fields.items() if not field.description] == []


# ---------------------------------------------------------------- export


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return run_sweep(parse_config(CONFIG), tmp_path_factory.mktemp("results"))


def test_csv_holds_every_table(results: Results, tmp_path: Path) -> None:
    export(results, "csv", tmp_path / "a" / "csv")
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"csv"}
    for table in ("runs", "steps", "layers", "modes", "outputs"):
        wanted = getattr(results, table)
        found = pd.read_csv(tmp_path / "a" / "csv" / f"{table}.csv")
        assert list(found) == list(wanted)
        numbers = wanted.select_dtypes("number")
        assert len(numbers.columns)
        # Every digit is written; pandas' reader may miss the last one.
        pd.testing.assert_frame_equal(found[list(numbers)], numbers, check_dtype=False, rtol=1e-14)


def test_an_export_is_whole_or_not_at_all(results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "there").mkdir()
    export(results, "csv", tmp_path / "there")  # an empty folder may be filled
    with pytest.raises(UserError, match="there: exists already"):
        export(results, "csv", tmp_path / "there")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file: exists already"):
        export(results, "csv", tmp_path / "file")
    with pytest.raises(UserError, match="cannot be written"):
        export(results, "csv", tmp_path / "file" / "within")
    with pytest.raises(UserError, match="--to xlsx: choose csv or tensorboard"):
        export(results, "xlsx", tmp_path / "x")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(results.modes), "to_csv", full)
    with pytest.raises(UserError, match="No space left"):
        export(results, "csv", tmp_path / "full")
    assert {path.name for path in tmp_path.iterdir()} == {"there", "file"}


def test_nothing_to_export_is_said(results: Results, tmp_path: Path) -> None:
    from dataclasses import replace

    with pytest.raises(UserError, match="nothing to export yet"):
        export(replace(results, runs=results.runs.iloc[:0]), "csv", tmp_path / "x")
    assert not list(tmp_path.iterdir())


def test_runs_are_named_by_what_varies_and_no_name_leaves_its_folder() -> None:
    rows = {
        "run_id": ["a", "b"],
        "seed": [0, 0],
        "network.width": [32, 32],
        "data.path": ["../x y.csv", "/z.csv"],
    }
    assert run_names(pd.DataFrame(rows)) == {"a": "path=.._xy.csv,seed=0", "b": "path=_z.csv,seed=0"}
    one = pd.DataFrame({"run_id": ["a"], "seed": [3], "network.width": [32]})
    assert run_names(one) == {"a": "width=32,seed=3"}


def test_numbers_of_a_row_are_its_values_alone(results: Results) -> None:
    """A layer's name, a step and an id are none."""
    (layer, *_), (step, *_) = results.layers.to_dict("records"), results.steps.to_dict("records")
    assert {"name", "layer", "step", "run_id"}.isdisjoint(numbers := _numbers(layer, "layers"))
    assert numbers["weight_drift"] == 0.0
    assert all(isinstance(value, float) for value in [*numbers.values(), *_numbers(step, "steps").values()])


def test_tensorboard_reads_what_is_exported(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed: pip install 'ntkrun[tensorboard]'")
    done = ntkrun_command("export", str(results.path), "--to", "tensorboard", "--out", "logs", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "logs: event files of 4 runs, for `tensorboard --logdir`\n"
    names = run_names(results.plan)
    assert {path.name for path in (tmp_path / "logs").iterdir()} == set(names.values())
    run_id = results.runs["run_id"].iloc[-1]
    scalars = dict(_scalars(tmp_path / "logs" / names[run_id]))
    steps = results.steps[results.steps["run_id"] == run_id]
    for column in ("loss", "kernel_drift"):
        wanted = dict(zip(steps["step"], steps[column], strict=True))
        assert scalars[column] == pytest.approx(wanted, rel=1e-7)  # event files hold float32
    first = results.layers[(results.layers["run_id"] == run_id) & (results.layers["layer"] == 0)]
    assert len(scalars["layer 0/weight_drift"]) == len(first)


def _scalars(folder: Path) -> Iterator[tuple[str, dict[int, float]]]:
    """Each scalar of a run as TensorBoard's own reader finds it, by step."""
    code = (
        "import sys, json\n"
        "from tensorboard.backend.event_processing.event_accumulator import EventAccumulator\n"
        "found = EventAccumulator(sys.argv[1], size_guidance={'scalars': 0})\n"
        "found.Reload()\n"
        "print(json.dumps({t: [(e.step, e.value) for e in found.Scalars(t)] for t in found.Tags()['scalars']}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=True)
    for tag, pairs in json.loads(done.stdout).items():
        yield tag, {int(step): value for step, value in pairs}


def test_without_tensorboard_there_is_a_sentence(
    results: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(UserError, match=r"pip install 'ntkrun\[tensorboard\]'"):
        export(results, "tensorboard", tmp_path / "logs")
    assert not list(tmp_path.iterdir())


# ---------------------------------------------------------------- the terminal


def _commands() -> dict[str, Any]:
    """Every command by its full name, as in 'kernel limit'."""
    found = {}
    for name, command in get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found |= {f"{name} {each}": inner[each] for each in inner} if inner else {name: command}
    return found


@pytest.mark.parametrize("name", sorted(_commands()))
def test_every_command_shows_examples_that_it_understands(name: str) -> None:
    command = _commands()[name]
    examples = [line.strip() for line in command.help.splitlines() if line.strip().startswith("Example: ")]
    assert examples
    for example in examples:
        words = shlex.split(example.removeprefix("Example: ").partition(" > ")[0])
        assert words[: 1 + len(name.split())] == ["ntkrun", *name.split()]
        command.make_context(name, words[1 + len(name.split()) :])


def test_the_shell_completes_commands_configs_and_formats(tmp_path: Path) -> None:
    (tmp_path / "configs").mkdir()
    for name in ("tiny.yaml", "notes.txt", "configs/deep.yaml"):
        (tmp_path / name).touch()
    for words, wanted in (
        (("ntkrun", "val"), ["validate"]),
        (("ntkrun", "sweep", ""), ["configs/deep.yaml", "tiny.yaml"]),
        (("ntkrun", "export", "results", "--to", ""), ["csv", "tensorboard"]),
    ):
        asked = {"_NTKRUN_COMPLETE": "complete_bash", "COMP_WORDS": " ".join(words), "COMP_CWORD": str(len(words) - 1)}
        done = subprocess.run(
            [NTKRUN], cwd=tmp_path, env={**ENVIRONMENT, **asked}, capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == wanted


def test_no_color_is_respected(tmp_path: Path) -> None:
    asked = {**ENVIRONMENT, "FORCE_COLOR": "1", "NO_COLOR": "1"}
    done = subprocess.run([NTKRUN, "sweep", "--fast"], cwd=tmp_path, env=asked, capture_output=True, text=True)
    assert "No such option" in done.stderr
    styles = set(re.findall(r"\x1b\[([0-9;]*)m", done.stderr))
    assert "1" in styles  # it takes this for a terminal
    assert styles <= {"0", "1", "2", "1;2"}  # bold and faint are no colours


@pytest.mark.parametrize(("terminal", "moves"), [("xterm", True), ("dumb", False)])
def test_the_bar_is_for_terminals_that_move_their_cursor(terminal: str, moves: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, _environ={"TERM": terminal})
    progress = TerminalProgress(console)
    progress.begin(stacks(plan(parse_config(CONFIG))), 0, 0)
    progress.close()
    assert ("\x1b" in screen.getvalue()) == moves
    assert "4 runs to do" in screen.getvalue()


# ---------------------------------------------------------------- what keeps a terminal waiting


@pytest.mark.parametrize(("terminal", "quiet"), [(True, False), (True, True), (False, False)])
def test_a_terminal_is_told_what_is_under_way_and_nothing_stays_of_it(
    terminal: bool, quiet: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stream(io.StringIO):
        def isatty(self) -> bool:
            return terminal

    stream = Stream()
    monkeypatch.setattr(sys, "stderr", stream)
    with under_way("drawing figures", quiet):
        assert stream.getvalue() == ("drawing figures ..." if terminal and not quiet else "")
    assert stream.getvalue().rpartition("\r")[2] == ""
    assert terminal or "\r" not in stream.getvalue()


def test_the_installed_command_says_what_it_says_in_this_process(tmp_path: Path) -> None:
    """Most tests call it in this process."""
    for arguments in (("list", "losses"), ("sweep", "no-such.yaml"), ("sweep", "--fast")):
        here, there = ntkrun_command(*arguments, cwd=tmp_path), ntkrun_process(*arguments, cwd=tmp_path)
        assert (here.returncode, here.stdout, here.stderr) == (there.returncode, there.stdout, there.stderr)
