"""The command line as a user meets it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

import ntkrun
from tests.command import CONFIG, ENVIRONMENT, NTKRUN
from tests.command import ntkrun_command as _ntkrun


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """A directory where the sweep has run, and what the command said. Tests read it and change nothing."""
    here = tmp_path_factory.mktemp("swept")
    (here / "tiny.yaml").write_text(CONFIG)
    return here, _ntkrun("sweep", "tiny.yaml", cwd=here)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


Swept = tuple[Path, subprocess.CompletedProcess[str]]


def test_sweep_says_what_came_out_and_leaves_the_files_of_the_contract(swept: Swept) -> None:
    here, done = swept
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.split()[:2] == ["64", "2"] for line in lines)
    assert "kernel drift" in done.stdout
    assert lines[-1] == "results in results/tiny"
    # Piped progress is plain lines, one a stack, on standard error.
    assert [line.split(":")[0] for line in done.stderr.splitlines()[1:]] == ["width 32", "width 64"]
    assert "\x1b" not in done.stderr + done.stdout
    found = {path.name for path in (here / "results" / "tiny").iterdir()}
    assert {"sweep.yaml", "runs.parquet", "steps.parquet", "layers.parquet", "figures"} <= found
    for stem in (
        "kernel_drift",
        "weight_drift",
        "loss",
        "kernel_drift_time",
        "flows_time",
        "weight_drift_time",
        "loss_time",
        "kernel",
    ):
        for ending in ("png", "svg"):
            assert (here / "results" / "tiny" / "figures" / f"{stem}.{ending}").stat().st_size > 1000


def test_repeating_a_sweep_runs_and_draws_nothing(swept: Swept) -> None:
    here, first = swept
    figure = here / "results" / "tiny" / "figures" / "loss.png"
    drawn = figure.stat().st_mtime_ns
    again = _ntkrun("sweep", "tiny.yaml", cwd=here)
    assert again.returncode == 0
    assert again.stderr == "nothing to run: all 4 runs are finished\n"
    assert again.stdout == first.stdout
    assert figure.stat().st_mtime_ns == drawn


def test_json_is_one_document_and_nothing_else(swept: Swept) -> None:
    here, _ = swept
    document = json.loads(_ntkrun("sweep", "tiny.yaml", "--json", cwd=here).stdout)
    (group,) = document["groups"]
    assert [row["width"] for row in group["widths"]] == [32, 64]
    assert group["exponents"]["kernel_drift"]["fit_range"] == [32, 64]
    status = json.loads(_ntkrun("status", "results/tiny", "--json", cwd=here).stdout)
    assert (status["planned"], status["done"], status["missing"]) == (4, 4, 0)
    ahead = json.loads(_ntkrun("sweep", "tiny.yaml", "sweep.seeds=3", "--dry-run", "--json", cwd=here).stdout)
    assert (ahead["runs"], len(ahead["missing"])) == (6, 2)
    assert [row["runs"] for row in ahead["estimates"]] == [1, 1]
    assert all(row["seconds"] > 0 and row["gib"] > 0 for row in ahead["estimates"])


def test_quiet_says_nothing(swept: Swept) -> None:
    done = _ntkrun("sweep", "tiny.yaml", "-q", cwd=swept[0])
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_dry_run_says_what_would_run_and_touches_nothing(here: Path) -> None:
    done = _ntkrun("sweep", "tiny.yaml", "--dry-run", cwd=here)
    assert done.returncode == 0
    assert done.stdout.splitlines()[0] == "4 runs, 4 of them missing in results/tiny"
    assert "width 32: 2 seeds, 129 parameters, 5 steps, step size" in done.stdout
    assert done.stdout.count("1 stack of ") == 2
    assert done.stdout.splitlines()[-1].endswith("GiB at a time")
    assert not (here / "results").exists()


def test_a_profile_says_where_the_time_went(here: Path) -> None:
    done = _ntkrun("sweep", "tiny.yaml", "--profile", "--no-plots", "--memory", "0.5", cwd=here)
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    table = lines[lines.index("where the time went, in seconds, by width") + 1 :]
    assert table[0].split() == ["32", "64", "all"]
    assert [line.split("  ")[0] for line in table[1:12]] == [
        *("initialisation", "forward", "backward", "kernel", "update", "probes", "detail", "flows"),
        *("reading back", "writing", "together"),
    ]
    more = _ntkrun("sweep", "tiny.yaml", "sweep.seeds=3", "--profile", "--no-plots", "--json", cwd=here)
    profile = json.loads(more.stdout)["profile"]
    assert [row["width"] for row in profile] == ["32", "64"]
    assert all(row["seconds"]["kernel"] > 0 for row in profile)


def test_a_shard_says_where_its_own_time_went(here: Path) -> None:
    shard = ["sweep", "tiny.yaml", "--profile", "--no-plots", "--shard"]
    first = _ntkrun(*shard, "1/3", "--json", cwd=here)
    second = _ntkrun(*shard, "2/3", cwd=here)
    document, lines = json.loads(first.stdout), second.stdout.splitlines()
    assert document["to_come"] > 0
    assert [row["width"] for row in document["profile"]] == ["64"]  # one of the two runs that take longest
    assert lines[0].startswith("shard 2/3: ")
    assert lines[1] == "where the time went, in seconds, by width"
    assert lines[-2].split()[0] == "together"


def test_no_plots_draws_nothing_and_plot_makes_up_for_it(here: Path) -> None:
    assert _ntkrun("sweep", "tiny.yaml", "--no-plots", "--results", "elsewhere", cwd=here).returncode == 0
    figures = here / "elsewhere" / "tiny" / "figures"
    assert not figures.exists()
    done = _ntkrun("plot", "elsewhere/tiny", cwd=here)
    assert done.returncode == 0
    drawn = {path for path in figures.iterdir() if path.suffix in (".png", ".svg", ".pdf")}
    assert {here / line for line in done.stdout.splitlines()} == drawn
    assert {path.suffix for path in drawn} == {".png", ".svg"}


def test_a_pdf_is_drawn_where_it_is_asked_for_and_never_outlives_its_tables(
    swept: Swept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ntkrun.evidence.figures import draw as figures

    def one(setting: figures.Setting) -> Iterator[figures.Drawn]:
        yield "kernel_drift", Figure(), "A caption."

    monkeypatch.setattr(figures, "_figures", one)
    shutil.copytree(swept[0] / "results" / "tiny", tmp_path / "tiny")
    folder = tmp_path / "tiny" / "figures"

    def plotted(*options: str) -> set[str]:
        assert _ntkrun("plot", "tiny", *options, cwd=tmp_path).returncode == 0
        return {path.suffix for path in folder.glob("kernel_drift.*")}

    assert plotted("--format", "pdf") == {".png", ".svg", ".pdf"}
    assert (folder / "kernel_drift.pdf").read_bytes()[:4] == b"%PDF"
    assert plotted("--format", " PNG,pdf") == {".png", ".svg", ".pdf"}
    assert plotted() == {".png", ".svg"}  # the PDF would go on showing what the tables were
    wrong = _ntkrun("plot", "tiny", "--format", "svg,eps", cwd=tmp_path)
    assert (wrong.returncode, wrong.stderr) == (2, "--format eps: choose png, svg, pdf\n")


def test_nothing_to_draw_is_said(here: Path) -> None:
    from ntkrun.config.reader import load_config
    from ntkrun.plan.runs import plan, run_row
    from ntkrun.store.results_directory import Store

    store = Store(here / "results" / "tiny")
    with store.writing():
        store.begin({}, [run_row(run) for run in plan(load_config(here / "tiny.yaml"))])
    done = _ntkrun("plot", "results/tiny", cwd=here)
    assert (done.returncode, done.stdout) == (0, "")
    assert "nothing to draw yet" in done.stderr


def test_status_is_a_table(swept: Swept) -> None:
    done = _ntkrun("status", "results/tiny", cwd=swept[0])
    assert done.returncode == 0
    assert done.stdout.splitlines()[-1].split()[:3] == ["all", "4", "4"]


def test_validate(here: Path) -> None:
    done = _ntkrun("validate", "tiny.yaml", cwd=here)
    assert (done.returncode, done.stdout) == (0, "tiny.yaml: valid; 4 runs at 2 grid points\n")
    (here / "bad.yaml").write_text(CONFIG.replace("depth", "detph").replace("steps: 5", "steps: -5"))
    done = _ntkrun("validate", "bad.yaml", "sweep.seeds=0", cwd=here)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "bad.yaml:2: network.detph: unknown key; did you mean 'depth'?",
        "bad.yaml:4: training.steps: must be at least 0, not -5",
        "command line: sweep.seeds: must be at least 1, not 0",
    ]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["sweep", "none.yaml"], "none.yaml: cannot be read"),
        (["sweep", "."], ".: cannot be read"),
        (["sweep", "tiny.yaml", "network.width=0"], "network.width"),
        (["sweep", "tiny.yaml", "--device", "tpu"], "--device tpu: choose auto, cpu, cuda or cuda:K"),
        (["sweep", "tiny.yaml", "--dry-run", "--device", "cuda:99"], "no such CUDA device"),
        (["sweep", "tiny.yaml", "--results", "tiny.yaml"], "cannot write results here"),
        (["sweep", "tiny.yaml", "--memory", "0"], "--memory 0: give the GiB that a stack may take"),
        (["sweep", "tiny.yaml", "--memory", "-1", "--dry-run"], "--memory -1: give the GiB"),
        (["sweep", "tiny.yaml", "--memory", "much"], "Invalid value for '--memory'"),
        (["sweep", "tiny.yaml", "--memory", "1e-6"], "network.width 32: one network of 129 parameters takes"),
        (["sweep"], "Missing argument 'CONFIG'"),
        (["sweep", "tiny.yaml", "--fast"], "No such option"),  # what follows is click's, and changes
        (["status", "nothing"], "nothing: no sweep here"),
        (["plot", "nothing"], "nothing: no sweep here"),
        (["list", "colours"], "choose architectures, activations, data, losses, claims or experiments"),
        (["swep"], "No such command 'swep'"),
    ],
)
def test_a_mistake_is_a_sentence_and_exit_code_2(here: Path, arguments: list[str], sentence: str) -> None:
    done = _ntkrun(*arguments, cwd=here)
    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not (here / "results").exists()


def test_divergence_exits_1_and_says_where(here: Path) -> None:
    done = _ntkrun("sweep", "tiny.yaml", "training.step_size=1e6", "training.steps=60", cwd=here)
    assert done.returncode == 1
    assert "width 32, seed 0: diverged; the loss" in done.stderr
    assert "diverged: 2 of width 32, 2 of width 64" in done.stdout
    assert _ntkrun("status", "results/tiny", cwd=here).stdout.splitlines()[-1].split()[:5] == [
        "all",
        "4",
        "0",
        "4",
        "0",
    ]


def test_a_directory_in_use_exits_4(here: Path) -> None:
    from ntkrun.store.results_directory import Store

    with Store(here / "results" / "tiny").writing():
        done = _ntkrun("sweep", "tiny.yaml", cwd=here)
    assert done.returncode == 4
    assert "another ntkrun process is writing here" in done.stderr


def _started(here: Path, *words: str, ignored: tuple[signal.Signals, ...]) -> subprocess.Popen[str]:
    """The command, once a first stack is committed, where these signals were ignored as it began and no others."""

    def heard_and_ignored() -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)

    how = {"cwd": here, "env": ENVIRONMENT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [NTKRUN, "sweep", "tiny.yaml", *words]
    process = subprocess.Popen(command, preexec_fn=heard_and_ignored, **how)  # type: ignore[call-overload]
    deadline = time.monotonic() + 60
    while not list((here / "results" / "tiny" / "stacks").glob("[!.]*")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process  # type: ignore[no-any-return]


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupt_keeps_what_is_finished(here: Path, stop: signal.Signals) -> None:
    long = "sweep=[{grid: {network.width: [8]}, seeds: 1}, {grid: {training.steps: [1000000]}, seeds: 1}]"
    # A shell's background jobs ignore SIGINT: the others must work all the same.
    process = _started(here, long, ignored=() if stop == signal.SIGINT else (signal.SIGINT,))
    process.send_signal(stop)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted; finished runs are kept in results/tiny")
    assert "Traceback" not in said
    kept = ntkrun.read_results(here / "results" / "tiny")
    assert kept.runs["network.width"].tolist() == [8]
    assert not list((here / "results").rglob(".tmp-*"))
    status = json.loads(_ntkrun("status", "results/tiny", "--json", cwd=here).stdout)
    assert (status["done"], status["missing"], status["running"]) == (1, 1, False)


def test_what_was_ignored_as_the_command_began_does_not_end_it(here: Path) -> None:
    ignored = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    some = "sweep=[{grid: {network.width: [8]}, seeds: 1}, {grid: {training.steps: [3000]}, seeds: 1}]"
    process = _started(here, some, "--no-plots", ignored=ignored)
    for number in ignored:
        process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert len(ntkrun.read_results(here / "results" / "tiny").runs) == 2


def test_lists_name_what_a_config_may(here: Path) -> None:
    activations = _ntkrun("list", "activations", cwd=here).stdout
    assert ["relu", "max(z,", "0)"] in [line.split() for line in activations.splitlines()]
    assert {line.split()[0] for line in _ntkrun("list", "data", cwd=here).stdout.splitlines()} == {
        "digits",
        "circle",
        "sphere",
        "gaussian",
        "file",
        "idx",
        "openml",
    }
    losses = _ntkrun("list", "losses", cwd=here).stdout.splitlines()
    assert [line.split()[0] for line in losses] == ["squared", "cross_entropy", "logistic", "huber"]


def test_schema_is_a_json_schema_of_the_config(here: Path) -> None:
    schema = json.loads(_ntkrun("schema", cwd=here).stdout)
    assert set(schema["required"]) == {"name", "data"}
    assert {"network", "data", "training", "probes", "sweep"} <= set(schema["properties"])
    assert schema["additionalProperties"] is False


def test_version_and_help_answer_without_torch(here: Path) -> None:
    assert _ntkrun("--version", cwd=here).stdout == f"ntkrun {ntkrun.__version__}\n"
    script = "import sys; from ntkrun.cli import main; main()"
    code = f"import sys, atexit; atexit.register(lambda: print('torch' in sys.modules)); {script}"
    done = subprocess.run([sys.executable, "-c", code, "--help"], cwd=here, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
    for command in ("sweep", "validate", "status", "plot", "list", "schema"):
        assert command in done.stdout


def test_kernel_limit_and_empirical(here: Path) -> None:
    done = _ntkrun("kernel", "limit", "tiny.yaml", "--out", "out/limit.npz", cwd=here)
    assert done.stdout.startswith("out/limit.npz: ntk (4, 4), nngp (4, 4), x (4, 2); closed form")
    with np.load(here / "out" / "limit.npz", allow_pickle=False) as arrays:
        limit = {name: arrays[name] for name in arrays.files}
    assert set(limit) == {"ntk", "nngp", "x"}
    assert limit["ntk"].dtype == np.float64
    net = ntkrun.DenseNetwork(2, 1, 2, 1, "erf")
    expected = ntkrun.limit_kernels(net, limit["x"])
    np.testing.assert_allclose(limit["ntk"], expected.ntk, rtol=1e-13)
    np.testing.assert_allclose(limit["nngp"], expected.nngp, rtol=1e-13)
    one = "sweep={grid: {network.width: [8]}, seeds: [3, 1]}"
    _ntkrun("kernel", "empirical", "tiny.yaml", one, "training.dtype=float64", "--out", "k.npz", cwd=here)
    with np.load(here / "k.npz", allow_pickle=False) as arrays:
        found, seeds = arrays["ntk"], arrays["seeds"]
    assert seeds.tolist() == [3, 1]
    net = ntkrun.DenseNetwork(2, 1, 2, 8, "erf")
    x = torch.tensor(limit["x"])
    np.testing.assert_allclose(found, ntkrun.empirical_ntk(net, net.init([3, 1], torch.float64), x), rtol=1e-12)


def test_kernel_mistakes_are_a_sentence(here: Path) -> None:
    for arguments, words in (
        (("empirical", "tiny.yaml", "--out", "k.npz"), "choose one, as in 'sweep={grid: {network.width: ["),
        (("limit", "tiny.yaml", "sweep={grid: {network.depth: [2, 3]}}", "--out", "k.npz"), "network.depth: 2, 3"),
        (("limit", "tiny.yaml", "--out", "k.csv"), "must end in .npz"),
        (("limit", "tiny.yaml", "--out", "tiny.yaml/k.npz"), "cannot be written"),
        (("limit", "tiny.yaml", "--device", "gpu", "--out", "k.npz"), "choose auto, cpu, cuda"),
        (("limit", "tiny.yaml", "training.step_size=abc", "--out", "k.npz"), "training.step_size: must be a number"),
        (("limit", "tiny.yaml", "network.activation=exp", "network.weight_scale=100", "--out", "k.npz"), "float64"),
    ):
        failed = _ntkrun("kernel", *arguments, cwd=here)
        assert failed.returncode == 2
        assert words in failed.stderr
        assert "Traceback" not in failed.stderr
        assert not list(here.glob("k.*"))
