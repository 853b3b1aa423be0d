"""Running experiments: sweeps once, results whole or not at all, exit codes by verdict."""

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.error import URLError

import pytest
import sklearn.datasets
import typer
from matplotlib.figure import Figure

from ntkrun.commands.reproduce import reproduce
from ntkrun.errors import UserError
from ntkrun.evidence.records import ExperimentResult, Row
from ntkrun.experiments import framework, recorded, runner, table
from ntkrun.experiments.drawing import canvas, shown_verdicts
from ntkrun.experiments.framework import Drawn, Evidence, Experiment, Planned
from ntkrun.run import commits, task
from ntkrun.run.progress import ProgressListener
from ntkrun.text import json_text

CONFIG = """\
name: tiny
network: {{depth: 2, activation: erf}}
data: {{name: circle, samples: 4, test_samples: 4, targets: product}}
training: {{steps: 5{step}}}
probes: {{detail: none, kernels: []}}
sweep: {{grid: {{network.width: [32, 64]}}, seeds: 2}}
claims: [{claim}]
"""


def _figures(found: Evidence) -> Iterator[Drawn]:
    yield "empty", canvas("nothing")[0], "A caption."
    yield from shown_verdicts(found)


def _rows(found: Evidence) -> Iterator[Row]:
    yield Row("runs | all of them", float(len(found.only.runs)), (3.5, 4.5), paper=4.0, note="counted")


def _experiment(name: str = "one", **changes: object) -> Experiment:
    arguments = {
        "name": name,
        "statement": "Something holds.",
        "references": "[X]",
        "sweeps": (Planned("tiny", smoke=()),),
        "figures": _figures,
        "rows": _rows,
    }
    return Experiment(**{**arguments, **changes})  # type: ignore[arg-type]


@pytest.fixture
def configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "configs"
    folder.mkdir()
    monkeypatch.setattr(framework, "configs", lambda: folder)
    _write(folder)
    return folder


def _write(folder: Path, claim: str = "frozen-kernel", step: str = "") -> None:
    (folder / "tiny.yaml").write_text(CONFIG.format(claim=claim, step=step))


class _Counting(ProgressListener):
    def __init__(self) -> None:
        self.ran = 0

    def committed(self, stack: object, result: object) -> None:
        self.ran += 1


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sweep's own figures, seconds of them, are drawn in one test."""
    monkeypatch.setattr(runner, "draw_figures", lambda results, more: [])


@pytest.mark.usefixtures("undrawn")
def test_a_shared_sweep_runs_once_and_a_second_call_runs_nothing(tmp_path: Path, configs: Path) -> None:
    both, watch = [_experiment("one"), _experiment("two", claims=())], _Counting()
    first = runner.reproduce(both, "laptop", tmp_path / "r", "cpu", lambda: watch).experiments
    assert watch.ran == 2  # the stacks of two widths
    assert [len(result.claims) for result in first] == [1, 0]
    again = runner.reproduce(both, "laptop", tmp_path / "r", "cpu", lambda: watch).experiments
    assert watch.ran == 2
    assert [result.model_dump_json() for result in again] == [result.model_dump_json() for result in first]


def test_a_damaged_result_that_is_written_again_is_in_no_ones_way(tmp_path: Path, configs: Path) -> None:
    both, root = [_experiment("one"), _experiment("two")], tmp_path / "r"
    runner.reproduce(both, "laptop", root, "cpu")
    path = root / "experiments" / "two" / "result.json"
    whole = path.read_text()
    later = whole.replace('"few-values"', '"of a later version"')
    assert later != whole
    for text in ("torn", later):
        path.write_text(text)
        said: list[str] = []
        runner.reproduce(both, "laptop", root, "cpu", say=said.append)
        assert any("no report yet" in line and "two" in line for line in said) == (text == "torn")
        assert path.read_text() == whole
    path.write_text("torn")
    with pytest.raises(UserError, match="`ntkrun reproduce` writes it again"):
        runner.reproduce(both[:1], "laptop", root, "cpu")


def test_what_is_left_on_disk(tmp_path: Path, configs: Path) -> None:
    root = tmp_path / "r"
    (result,) = runner.reproduce([_experiment()], "laptop", root, "cpu").experiments
    folder = root / "experiments" / "one"
    assert {path.name for path in folder.iterdir()} == {
        *(f"{stem}.{ending}" for stem in ("empty", "verdicts") for ending in ("png", "svg")),
        "result.json",
    }
    stored = json.loads((folder / "result.json").read_text())
    assert stored["claims"][0]["name"] == "frozen-kernel"
    assert stored["claims"][0]["verdict"] == "inconclusive"  # two widths are no trend
    assert stored["rows"][0]["ours"] == 4
    assert stored["figures"]["empty"] == "A caption."
    assert stored["sweeps"]["tiny"]["done"] == stored["sweeps"]["tiny"]["planned"] == 4
    assert stored["sweeps"]["tiny"]["made_by"]["versions"]["torch"]
    assert stored["claims"][0]["reason"] == "few-values"
    again = ExperimentResult.model_validate(stored)
    assert json_text(again.model_dump()) == json_text(result.model_dump()) == json_text(stored)
    assert (root / "tiny" / "claims.json").exists()
    assert (root / "tiny" / "figures" / "kernel_drift.png").exists()


def test_a_figure_that_fails_leaves_no_result_behind(tmp_path: Path, configs: Path) -> None:
    def broken(found: Evidence) -> Iterator[Drawn]:
        yield "fine", Figure(), "Drawn."
        raise RuntimeError("no such column")

    with pytest.raises(RuntimeError, match="no such column"):
        runner.reproduce([_experiment(figures=broken)], "smoke", tmp_path, "cpu")
    assert not (tmp_path / "experiments" / "one" / "result.json").exists()
    assert not list(tmp_path.rglob(".tmp-*"))


@pytest.mark.parametrize(
    ("claim", "step", "code", "strict"),
    [
        ("frozen-kernel", "", 0, 5),  # inconclusive: two widths are no trend
        ("{name: lazy-regime, kernel_drift: [0, 10]}", "", 0, 5),  # two seeds
        ("lazy-regime", ", step_size: 1e9", 1, 1),  # diverged
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_open_verdicts_are_listed_and_only_strictly_an_error(
    tmp_path: Path, configs: Path, claim: str, step: str, code: int, strict: int
) -> None:
    _write(configs, claim, step)
    left = runner.reproduce([_experiment()], "smoke", tmp_path / "r", "cpu")
    assert (left.code(), left.code(strict=True)) == (code, strict)
    (line,) = left.open
    assert line.startswith(f"one: {'frozen-kernel' if claim == 'frozen-kernel' else 'lazy-regime'} (tiny): ")


def test_a_refuted_claim_exits_3_unless_that_is_expected(tmp_path: Path, configs: Path) -> None:
    many = _experiment(sweeps=(Planned("tiny", smoke=("sweep.seeds=4",)),))
    for claim, code in (("[5, 6]", 3), ("[5, 6], expect: refuted", 0), ("[-1, 2]", 0)):
        _write(configs, f"{{name: lazy-regime, kernel_drift: {claim}}}")
        left = runner.reproduce([many], "smoke", tmp_path / "r", "cpu")
        assert left.code() == left.code(strict=True) == code
        assert left.open == []


@pytest.mark.parametrize(
    ("codes", "lost", "code", "strict"),
    [
        ({0, 5, 3}, [], 3, 3),
        ({5, 3, 1}, [], 1, 1),
        ({5, 0}, [], 0, 5),
        (set(), [], 0, 0),
        ({0, 5}, ["frozen-kernel"], 3, 3),
        ({1}, ["frozen-kernel"], 1, 1),
    ],
)
def test_the_worst_code_wins(codes: set[int], lost: list[str], code: int, strict: int) -> None:
    left = runner.Reproduced([], frozenset(codes), [], lost)
    assert (left.code(), left.code(strict=True)) == (code, strict)


@pytest.mark.usefixtures("undrawn")
def test_a_main_claim_that_was_supported_must_not_pass_in_silence(
    tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded as supported; then the margin is one that the same runs straddle: open, which alone would exit 0."""
    main = Planned("tiny", smoke=("sweep.seeds=4",))
    monkeypatch.setattr(runner, "WIDTH_SWEEP", main)
    monkeypatch.setattr(recorded, "WIDTH_SWEEP", main)
    committed = tmp_path / "docs"
    monkeypatch.setattr(recorded.lost, "__defaults__", (committed,))
    _write(configs, "{name: lazy-regime, kernel_drift: [-1, 2]}")
    assert runner.reproduce([_experiment(sweeps=(main,))], "smoke", tmp_path / "r", "cpu").code() == 0
    assert recorded.record(tmp_path / "r", committed) == "smoke"
    assert json.loads((committed / "verdicts.json").read_text()) == {"smoke": {"lazy-regime": "supported"}}
    drift = runner.reproduce([_experiment(sweeps=(main,))], "smoke", tmp_path / "r", "cpu")
    assert (drift.code(), drift.lost) == (0, [])
    (claim,) = drift.experiments[0].claims
    _write(configs, f"{{name: lazy-regime, kernel_drift: [-1, {claim.estimate}]}}")
    left = runner.reproduce([_experiment(sweeps=(main,))], "smoke", tmp_path / "r", "cpu")
    assert left.code() == 3
    (line,) = left.lost
    assert line.startswith("lazy-regime: inconclusive now, but supported in the committed results of this preset")
    assert recorded.lost("laptop", [("lazy-regime", "refuted")], committed) == []  # of another preset nothing is known
    with pytest.raises(SystemExit, match=r"no results of jacot-2, .*; let `make reproduce` finish first"):
        recorded.main(tmp_path / "r")  # a part of a run replaces no whole one
    assert recorded.lost("smoke", [("lazy-regime", "refuted")], tmp_path / "no-checkout") == []


def test_an_interrupt_keeps_what_is_finished(tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "HOLD", 0.0)  # else all stacks are committed at once

    class Interrupting(ProgressListener):
        def committed(self, stack: object, result: object) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runner.reproduce([_experiment()], "smoke", tmp_path, "cpu", Interrupting)
    watch = _Counting()
    runner.reproduce([_experiment()], "smoke", tmp_path, "cpu", lambda: watch)
    assert watch.ran == 1


@pytest.mark.usefixtures("configs")
def test_quiet_hides_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run_stack(*arguments: object, **options: object) -> None:
        raise ArithmeticError("too large")

    monkeypatch.setattr(task, "run_stack", run_stack)
    monkeypatch.setattr(table, "EXPERIMENTS", {"one": _experiment(figures=lambda found: (), rows=lambda found: ())})
    with pytest.raises(typer.Exit) as ended:
        reproduce([], "smoke", tmp_path, "cpu", quiet=True)
    assert ended.value.exit_code == 1
    said = capsys.readouterr()
    assert said.out == ""
    lines = [line.split("; log in")[0] for line in said.err.splitlines()]
    why = "failed at step 0; ArithmeticError: too large"
    assert lines == [f"width {width}, seed {seed}: {why}" for width in (32, 64) for seed in (0, 1)]


def test_presets_have_folders_of_their_own() -> None:
    folders = {preset: runner.root_of(Path("results"), preset) for preset in framework.PRESETS}
    assert folders == {"smoke": Path("results/smoke"), "laptop": Path("results"), "paper": Path("results/paper")}


def test_what_lies_ahead_is_told_before_it_starts(tmp_path: Path, configs: Path) -> None:
    expected = runner.ahead([_experiment()], "smoke", tmp_path, "cpu")
    first, last = runner.lines(expected)
    assert first.startswith("  tiny: about 1 min, at most ")
    assert last.startswith("in all: about 1 min")
    runner.reproduce([_experiment()], "smoke", tmp_path, "cpu")
    assert runner.lines(runner.ahead([_experiment()], "smoke", tmp_path, "cpu"))[0] == "  tiny: done"


def test_data_that_are_not_at_hand_stop_a_run_before_it_starts(
    tmp_path: Path, configs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*arguments: object, **keys: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", unreachable)
    missing = "data={name: openml, dataset: no-such, samples: 4, test_samples: 0}"
    away = _experiment(sweeps=(Planned("tiny", smoke=(missing,)), Planned("tiny", smoke=("name=two",))))
    expected = runner.ahead([away], "smoke", tmp_path, "cpu")
    first, second, last = runner.lines(expected)
    assert first.startswith("  tiny: no estimate; data.dataset: no-such")
    assert second.startswith("  two: about 1 min")
    assert last.endswith("without the sweeps that have no estimate")
    with pytest.raises(UserError, match="no-such"):
        runner.check(expected)
    runner.check(expected[1:])


def test_the_summary_and_the_report_are_made_of_what_is_stored(tmp_path: Path, configs: Path) -> None:
    runner.reproduce([_experiment()], "smoke", tmp_path, "cpu")
    page = (tmp_path / "summary.md").read_text()
    claim, row = [line for line in page.splitlines() if "| one | " in line]
    assert claim.startswith("| ? | one | frozen-kernel, exponent |  | inconclusive | ")
    assert row == r"| one | runs \| all of them | 4 |  | 4 | [3.5, 4.5] | counted |"
    assert "Preset smoke; 4 runs" in page
    assert "python " in page
    assert "commit " in page or "system " in page
    assert "![empty](experiments/one/empty.png)" in page
    html = (tmp_path / "report.html").read_text()
    assert "runs | all of them" in html
    assert html.count("<figure ") == 2
