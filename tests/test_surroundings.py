"""Terminals and pipes that know few letters, paths of any bytes, no HOME, no current directory to write to."""

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.table import Table

import ntkrun
from ntkrun import cli
from ntkrun.commands.progress_bar import TerminalProgress
from ntkrun.config.reader import load_config, parse_config
from ntkrun.engine.checkpoint import Checkpoint
from ntkrun.errors import ConfigError, UserError
from ntkrun.evidence.cells import PlainConsole
from ntkrun.evidence.report.gather import gather_page, write_page
from ntkrun.files.writing import write_text
from ntkrun.plan.runs import plan, stacks
from ntkrun.run import checkpoints
from ntkrun.run.sweep import run_sweep
from ntkrun.store.export import export
from ntkrun.store.results_directory import read_results
from ntkrun.text import spelled_out
from tests.command import CONFIG, ENVIRONMENT, NTKRUN
from tests.evidence.report.pages import SVG
from tests.store.store_of import filled, frames_of

CLAIMED = CONFIG + "claims: [{name: frozen-kernel, expect: refuted}, lazy-weights]\n"
NO_HOME = {"HOME": "/dev/null/home"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ROOT = Path(ntkrun.__file__).parents[1]
NO_UTF8 = os.fsdecode(b"caf\xe9 \xff \xcf\x83")  # a name that is no text: Latin-1, a stray byte, and σ
COMMANDS = {
    "activations": ["list", "activations"],
    "losses": ["list", "losses"],
    "claims of all": ["list", "claims"],
    "experiments": ["list", "experiments"],
    "schema": ["schema"],
    "help": ["sweep", "--help"],
    "no option": ["sweep", "--σ"],
    "bad config": ["validate", "bad.yaml", "network.β=1"],
    "sweep": ["sweep", "tiny.yaml", "--no-plots"],
    "sweep for machines": ["sweep", "tiny.yaml", "--no-plots", "--json"],
    "status": ["status", "results/tiny"],
    "claims": ["claims", "results/tiny"],
    "claims for machines": ["claims", "results/tiny", "--json"],
    "report": ["report", "results/tiny", "--markdown"],
    "report for machines": ["report", "results/tiny", "--json"],
    "slurm": ["slurm", "tiny.yaml", "--tasks", "2"],
}
FEW = ("latin-1", "cp1252")
SOURCES = sorted(path for folder in ("ntkrun", "experiments") for path in (ROOT / folder).rglob("*.py"))
Ran = tuple[int, str, str]  # exit code, standard output, standard error


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with configs, and a sweep that has run. Tests change nothing in it."""
    here = tmp_path_factory.mktemp("here")
    (here / "tiny.yaml").write_text(CLAIMED, encoding="utf-8")
    (here / "bad.yaml").write_text(CONFIG.replace("depth", "dépth"), encoding="utf-8")
    results = run_sweep(load_config(here / "tiny.yaml"), here / "results", "cpu")
    results.write_captions({"drift": "‖ΔK‖ falls like 1/√n, whatever σ."})
    (results.path / "figures" / "drift.svg").write_text(SVG, encoding="utf-8")
    return here


@pytest.fixture
def ran(here: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """The command in this process, on streams of an encoding that, as Python's own, fail for what it lacks."""

    def run(encoding: str, *arguments: str, cwd: Path = here) -> Ran:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding) for _ in range(2)]
        monkeypatch.chdir(cwd)
        monkeypatch.setenv("COLUMNS", "80")
        monkeypatch.setattr(sys, "argv", ["ntkrun", *arguments])
        for name, stream in zip(("stdout", "stderr"), streams, strict=True):
            monkeypatch.setattr(sys, name, stream)
        code = 0
        try:
            cli.main()
        except SystemExit as end:
            code = int(end.code or 0)
        for stream in streams:
            stream.flush()
        out, error = (stream.buffer.getvalue().decode(encoding) for stream in streams)  # type: ignore[attr-defined]
        return code, out, error

    return run


# ---------------------------------------------------------------- letters


@pytest.mark.parametrize(
    ("text", "ascii", "latin1"),
    [
        ("0.31 ± 0.02", "0.31 +- 0.02", "0.31 ± 0.02"),
        ("w⁰, 10⁻¹², x₁₂", "w^0, 10^-12, x_12", "w^0, 10^-¹², x_12"),
        ("ηλ_max(K̂_0) < 2", "eta lambda_max(K_0) < 2", "eta lambda_max(K_0) < 2"),
        ("αF on loss/α²", "alpha F on loss/alpha^2", "alpha F on loss/alpha²"),
        ("-(η/N) Σ_i ∂ℓ/∂F, O(1/√n), √η", "-(eta/N) Sigma_i dl/dF, O(1/sqrt n), sqrt eta", None),
        ("½ ≤ ‖Δw‖ → ∞", "1/2 <= ||Delta w|| -> inf", "½ <= ||Delta w|| -> inf"),
        ("“Höhe”, naïve…", '"Hohe", naive.', '"Höhe", naïve.'),
        ("数据/a.yaml", r"\u6570\u636e/a.yaml", r"\u6570\u636e/a.yaml"),
        (NO_UTF8, r"caf\udce9 \udcff sigma", r"caf\udce9 \udcff sigma"),
    ],
)
def test_letters_are_spelled_out(text: str, ascii: str, latin1: str | None) -> None:
    assert spelled_out(text, "ascii") == ascii
    assert spelled_out(text, "latin-1") == (latin1 or ascii)
    assert spelled_out(text, None) == text


def test_every_letter_in_what_is_printed_can_be_spelled() -> None:
    letters = {letter for path in SOURCES for letter in path.read_text("utf-8") if not letter.isascii()}
    assert len(letters) > 50
    assert [letter for letter in sorted(letters) if "\\" in spelled_out(letter, "ascii")] == []


@pytest.mark.parametrize(
    ("name", "encoding"),
    [(name, "ascii") for name in COMMANDS]
    + [(name, encoding) for name in ("losses", "schema", "help", "claims", "report") for encoding in FEW],
)
def test_a_command_says_the_same_in_fewer_letters(ran: Callable[..., Ran], name: str, encoding: str) -> None:
    code, out, error = ran("utf-8", *COMMANDS[name])
    in_fewer, out_in_fewer, error_in_fewer = ran(encoding, *COMMANDS[name])
    assert in_fewer == code
    if out.startswith("{"):
        assert json.loads(out_in_fewer) == json.loads(out)
    else:
        assert _words(out_in_fewer, encoding) == _words(out, encoding)
    assert _words(error_in_fewer, encoding) == _words(error, encoding)
    assert r"\u" not in error_in_fewer


def _words(text: str, encoding: str) -> list[str]:
    """Without the frames, and wherever the lines are broken."""
    plain = spelled_out(text.translate(str.maketrans("─│╭╮╰╯", "-|++++")), encoding)
    return re.sub(r"[-+]{2,}|[|]", " ", plain).split()


def test_columns_stay_columns(here: Path) -> None:
    console = PlainConsole(file=io.TextIOWrapper(io.BytesIO(), "ascii", "strict"), width=80)
    table = Table("σ", "mean ± error", "at", title="‖ΔK‖ [2]", box=None, pad_edge=False)
    table.add_row("relu_σ", "0.31 ± 0.02", "10⁻¹²")
    table.add_row("[bold]", ":star:", "K_∞")
    console.print(table)
    console.file.flush()
    lines = console.file.buffer.getvalue().decode("ascii").splitlines()
    assert [line.rstrip() for line in lines] == [
        "         ||Delta K|| [2]",
        "sigma       mean +- error  at",
        "relu_sigma  0.31 +- 0.02   10^-12",
        "[bold]      :star:         K_inf",
    ]


def test_the_bar_is_drawn_in_ascii() -> None:
    screen = io.TextIOWrapper(io.BytesIO(), "ascii", "strict")
    console = PlainConsole(file=screen, force_terminal=True, width=80, _environ={"TERM": "xterm"})
    progress = TerminalProgress(console)
    progress.begin(stacks(plan(parse_config(CONFIG))), 0, 0)
    assert progress.bar is not None
    progress.bar.update(progress.task, numbers="données ± 1", completed=1)
    progress.bar.refresh()
    progress.note(stacks(plan(parse_config(CONFIG)))[0], "ησ")
    progress.close()
    screen.flush()
    drawn = screen.buffer.getvalue().decode("ascii")
    assert "donnees +- 1" in drawn
    assert "---" in drawn
    assert "width 32: eta sigma" in drawn


def test_a_sweep_exits_by_its_runs_whatever_the_locale(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(CLAIMED, encoding="utf-8")
    (tmp_path / "données.csv").write_text("a,b,y\n" + "".join(f"{k},{k * k},{k}\n" for k in range(8)), encoding="utf-8")
    table = "data={name: file, path: données.csv, inputs: [a, b], targets: [y], samples: 4, test_samples: 4}"
    done = _run("sweep", "tiny.yaml", table, "--no-plots", "--results", "données σ", cwd=tmp_path, **C_LOCALE)
    assert done.returncode == 0, done.stderr
    assert b"mean +- standard error" in done.stdout
    assert done.stdout.isascii()
    assert done.stderr.isascii()
    assert len(read_results(tmp_path / "données σ" / "tiny").runs) == 4


def test_the_command_itself_spells_out(tmp_path: Path) -> None:
    done = _run("list", "claims", cwd=tmp_path, PYTHONIOENCODING="ascii:strict")
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"O(1/sqrt n)" in done.stdout


def _run(*arguments: str, cwd: Path, **surroundings: str) -> subprocess.CompletedProcess[bytes]:
    asked = {**ENVIRONMENT, **surroundings}
    return subprocess.run([NTKRUN, *arguments], cwd=cwd, env=asked, capture_output=True, check=False)


# ---------------------------------------------------------------- paths


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    """A folder whose name is no text."""
    try:
        (folder := tmp_path / NO_UTF8).mkdir()
    except OSError:
        pytest.skip("this file system takes names in UTF-8 alone")
    return folder


def test_results_may_lie_in_a_folder_of_any_name(odd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in (odd, Path("s3:x")):  # which pyarrow would take for an address
        results = run_sweep(parse_config(CONFIG), folder, "cpu")
        assert len(read_results(results.path).runs) == 4
        assert export(results, "csv", folder / "csv").startswith("5 tables")


def test_a_checkpoint_goes_on_in_a_folder_of_any_name(odd: Path) -> None:
    kept = Checkpoint({"step": 3}, {"weights": torch.arange(3.0), "draws": torch.tensor(7)})
    checkpoints.write(odd / "a.safetensors", kept, {"runs": ["a"]})
    found = checkpoints.read(odd / "a.safetensors", {"runs": ["a"]})
    assert found.header == kept.header
    assert {name: values.tolist() for name, values in found.tensors.items()} == {"weights": [0.0, 1.0, 2.0], "draws": 7}


def test_a_report_names_folders_that_are_no_text(here: Path, odd: Path, tmp_path: Path) -> None:
    shutil.copytree(here / "results" / "tiny", odd, dirs_exist_ok=True)
    page = gather_page([odd])
    page_of = {
        ending: write_page(page, tmp_path / f"r{ending}").read_text("utf-8") for ending in (".html", ".md", ".json")
    }
    assert r"caf\udce9 \udcff σ" in page_of[".html"]
    assert "![drift](caf%E9%20%FF%20%CF%83/figures/drift.png)" in page_of[".md"]
    assert json.loads(page_of[".json"])["sections"][0]["name"] == NO_UTF8


def test_why_a_run_failed_may_name_a_folder_that_is_no_text(tmp_path: Path) -> None:
    store = filled(tmp_path / "s", ["a", "b"], ["a"])
    failed = frames_of("b")["runs"].assign(status="failed")
    with store.writing():
        log = store.commit_failed(failed, f'File "{NO_UTF8}/x.py"')
    assert r"caf\udce9 \udcff σ/x.py" in log.read_text("utf-8")


def test_overrides_are_utf8_whatever_the_locale(here: Path) -> None:
    as_in_c = "network.β=3".encode().decode("ascii", "surrogateescape")
    with pytest.raises(ConfigError, match=r"command line: network\.β: unknown key"):
        load_config(here / "tiny.yaml", [as_in_c])
    with pytest.raises(ConfigError, match=r"command line: network\.\\udcff=3: not text in UTF-8$"):
        load_config(here / "tiny.yaml", ["network.\udcff=3"])


def test_what_cannot_be_written_has_its_own_name(tmp_path: Path) -> None:
    (tmp_path / "there.txt").mkdir()
    with pytest.raises(UserError, match=r"there\.txt: cannot be written \(Is a directory\)"):
        write_text(tmp_path / "there.txt", "")


def test_what_only_reads_needs_no_folder_to_write_to(ran: Callable[..., Ran], here: Path, tmp_path: Path) -> None:
    (locked := tmp_path / "locked").mkdir(mode=0o555)
    config, run_dir = str(here / "tiny.yaml"), str(here / "results" / "tiny")
    for words in (
        ["validate", config],
        ["sweep", config, "--dry-run", "--results", str(here / "results")],
        ["status", run_dir],
        ["claims", run_dir],
        ["report", run_dir, "--markdown"],
        ["slurm", config],
    ):
        code, out, error = ran("utf-8", *words, cwd=locked)
        assert (code == 0 or words[0] == "claims", bool(out), error) == (True, True, ""), words
    assert list(locked.iterdir()) == []


def test_a_folder_that_is_gone_is_a_sentence(tmp_path: Path) -> None:
    code = "import os, sys; os.rmdir(os.getcwd()); os.execv(sys.argv[1], sys.argv[1:])"
    (tmp_path / "gone").mkdir()
    asked = [sys.executable, "-c", code, NTKRUN, "list", "losses"]
    done = subprocess.run(asked, cwd=tmp_path / "gone", env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "the current directory no longer exists; change to one that does\n"


# ---------------------------------------------------------------- HOME


def test_without_a_home_nothing_is_said_of_it(tmp_path: Path) -> None:
    done = _run("list", "experiments", cwd=tmp_path, **NO_HOME)
    assert (done.returncode, done.stderr) == (0, b"")


def test_without_a_home_no_completion_is_installed(tmp_path: Path) -> None:
    told = {"_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}  # the shell is the argument's, whatever runs the tests
    done = _run("--install-completion", "bash", cwd=tmp_path, **NO_HOME, **told)
    assert (done.returncode, done.stdout) == (2, b"")
    assert re.fullmatch(
        r"completion cannot be installed \(.*\); --show-completion prints the script\n", done.stderr.decode()
    )


# ---------------------------------------------------------------- files


def _of_the_locale(source: str) -> list[int]:
    """Lines that read or write text in whatever encoding the locale has."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if _is_text(call) and not _names_encoding(call)]


def _is_text(call: ast.Call) -> bool:
    name = ast.unparse(call.func)
    if name.rpartition(".")[2] == "open" and name not in ("os.open", "gzip.open"):
        return not any(isinstance(word, ast.Constant) and "b" in str(word.value) for word in call.args)
    listens = any(word.arg == "text" and ast.unparse(word.value) == "True" for word in call.keywords)
    return listens or name.endswith((".read_text", ".write_text"))


def _names_encoding(call: ast.Call) -> bool:
    named = {word.arg for word in call.keywords} | {ast.unparse(word) for word in call.args}
    return not named.isdisjoint({"encoding", "'utf-8'"})


def test_no_file_is_read_or_written_in_the_encoding_of_the_locale() -> None:
    every = [*SOURCES, *(ROOT / "benchmarks").glob("*.py"), *(ROOT / "docs").glob("*.py")]
    found = {str(path.relative_to(ROOT)): _of_the_locale(path.read_text("utf-8")) for path in every}
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "source",
    ["path.read_text()", "path.write_text(text)", "path.open()", "open(path, 'w')", "run(['git'], text=True)"],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert _of_the_locale(source) == [1]
