"""The report of directories: sweeps, experiments, what is unfinished, what is damaged."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ntkrun.config.reader import load_config
from ntkrun.errors import UserError
from ntkrun.evidence.regression import check
from ntkrun.evidence.report import gather
from ntkrun.evidence.report.conclusion import draw_figures
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Results, read_results
from tests.command import CONFIG, ntkrun_command
from tests.evidence.report.pages import SVG, experiment

OVERRIDES = ["claims=[frozen-kernel]", "probes.kernels=[]", "probes.detail=none"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("swept")
    (folder / "tiny.yaml").write_text(CONFIG)
    draw_figures(run_sweep(load_config(folder / "tiny.yaml", OVERRIDES), folder / "results", "cpu"))
    return folder / "results"


@pytest.fixture
def results(swept: Path, tmp_path: Path) -> Iterator[Path]:
    """A copy to spoil: the sweep `tiny`, and an experiment that names it."""
    shutil.copytree(swept, tmp_path / "results")
    folder = tmp_path / "results" / "experiments" / "lazy"
    folder.mkdir(parents=True)
    said = experiment()
    said["sweeps"] = {"papers/tiny": said["sweeps"]["one"] | {"results": "/elsewhere/tiny"}}
    (folder / "result.json").write_text(json.dumps(said))
    (folder / "kernel_drift.svg").write_text(SVG)
    return tmp_path / "results"


def test_a_sweep_has_its_figures_claims_and_closing_tables(results: Path) -> None:
    (section,) = gather.gather_page([results / "tiny"]).sections
    assert section.name == "tiny"
    assert {"kernel drift", "loss time"} <= {figure.title for figure in section.figures}
    assert [(claim.name, claim.verdict) for claim in section.claims] == [("frozen-kernel", "inconclusive")]
    levels, exponents = section.tables
    assert [row[0] for row in levels.rows] == ["32", "64"]
    assert exponents.head[0] == "quantity"
    assert "L = 2" in section.sweeps[0].conditions


def test_experiments_come_with_the_configs_of_their_sweeps(results: Path) -> None:
    (section,) = gather.gather_page([results]).sections
    assert section.name == "lazy"
    assert section.sweeps[0].config["name"] == "tiny"
    assert [figure.path for figure in section.figures] == [results / "experiments/lazy/kernel_drift.svg"]
    shutil.rmtree(results / "tiny")  # as in a folder that was carried away
    (section,) = gather.gather_page([results / "experiments" / "lazy"]).sections
    assert section.sweeps[0].text == ""


def test_experiments_stand_in_the_order_in_which_they_run(results: Path) -> None:
    for name in ("another", "jacot-1"):
        shutil.copytree(results / "experiments/lazy", results / "experiments" / name)
        (results / "experiments" / name / "result.json").write_text(json.dumps(experiment(name=name)))
    page = gather.gather_page([results], order=["jacot-1", "lazy"])
    assert [section.name for section in page.sections] == ["jacot-1", "lazy", "another"]


def test_one_directory_named_twice_is_one_section(results: Path) -> None:
    assert len(gather.gather_page([results / "tiny", results / "tiny" / "..", results / "tiny"][::2]).sections) == 1
    assert len(gather.gather_page([results / "tiny", results]).sections) == 2


def test_figures_that_are_not_of_these_tables_are_drawn_again(results: Path) -> None:
    shutil.rmtree(results / "tiny" / "figures")
    (section,) = gather.gather_page([results / "tiny"]).sections
    assert section.figures
    assert read_results(results / "tiny").figures_are_current()


def test_what_moved_since_a_baseline(results: Path, tmp_path: Path) -> None:
    baseline = tmp_path / "b.json"
    check.update(results / "tiny", baseline)
    page = gather.gather_page([results, results / "tiny"], baseline)
    assert page.change is not None
    assert page.change.sweep == "tiny"
    html, summary, told = (gather.page_text(page, ending) for ending in (".html", ".md", ".json"))
    assert 'id="against-the-baseline"' in html
    assert "## Comparison with the baseline: tiny" in summary
    assert "fine: none of" in summary
    assert json.loads(told)["change"]["verdict"] == "fine"
    known = json.loads(baseline.read_text())
    known["config"]["network"]["beta"] = 0.7
    known["config_hash"] = "0" * len(known["config_hash"])
    baseline.write_text(json.dumps(known))
    with pytest.raises(UserError, match=r"this baseline belongs to another config: network\.beta"):
        gather.gather_page([results / "tiny"], baseline)


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda made_from: {"made_from": made_from},
        lambda made_from: {"made_from": made_from, "captions": ["loss"]},
        lambda made_from: {"made_from": made_from, "captions": {"loss": 3}},
        lambda made_from: [made_from],
        lambda made_from: {"captions": {"loss": "of another"}},
    ],
)
def test_figures_whose_captions_are_not_ours_are_drawn_again(
    spoilt: Callable[[str], object], results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = results / "tiny" / "figures" / "captions.json"
    whole = json.loads(file.read_text())
    file.write_text(json.dumps(spoilt(whole["made_from"])))
    drawn: list[Path] = []

    def draw_again(found: Results) -> None:
        drawn.append(found.path)
        found.write_captions(whole["captions"])

    monkeypatch.setattr(gather, "draw_figures", draw_again)
    (section,) = gather.gather_page([results / "tiny"]).sections
    assert drawn == [results / "tiny"]
    assert len(section.figures) == len(whole["captions"])


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link_out(path: Path) -> None:
    path.rename(outside := path.parents[3] / "outside.svg")
    path.symlink_to(outside)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda root: shutil.rmtree(root / "tiny" / "stacks"), "tiny: no run is finished yet"),
        (lambda root: (root / "tiny" / "sweep.yaml").write_text("config: 3"), r"sweep\.yaml: cannot be read"),
        (
            lambda root: (root / "tiny" / "sweep.yaml").write_text("{config: {}, made_by: {}}"),
            r"sweep\.yaml: cannot be read \(made_by\.versions: Field required\)",
        ),
        (lambda root: (root / "tiny" / "sweep.yaml").write_text("["), r"sweep\.yaml: cannot be read"),
        (lambda root: (root / "tiny" / "plan.parquet").write_text("torn"), r"plan\.parquet: cannot be read"),
        (
            lambda root: (root / "tiny" / "figures" / "loss.svg").unlink(),
            r"loss\.svg: cannot be read \(.*\); draw it again",
        ),
        (lambda root: _pipe(root / "tiny" / "figures" / "loss.svg"), r"loss\.svg: cannot be read \(not a plain file\)"),
        (lambda root: _link_out(root / "tiny" / "figures" / "loss.svg"), r"loss\.svg: a link out of"),
        (lambda root: (root / "tiny" / "plan.parquet").unlink(), "tiny: holds neither a sweep nor experiments"),
    ],
)
def test_a_damaged_or_unfinished_sweep_is_a_sentence(results: Path, spoil: object, words: str) -> None:
    spoil(results)  # type: ignore[operator]
    with pytest.raises(UserError, match=words):
        gather.gather_page([results / "tiny"])


@pytest.mark.parametrize("torn", ["", "[]", '{"name": "x"}', "\x00", json.dumps(experiment(claims=[{}]))])
def test_a_damaged_experiment_is_a_sentence(results: Path, torn: str) -> None:
    (results / "experiments" / "lazy" / "result.json").write_text(torn)
    with pytest.raises(UserError, match=r"result\.json: cannot be read"):
        gather.gather_page([results])


def test_an_ending_tells_the_form(results: Path) -> None:
    page = gather.gather_page([results])
    assert "![kernel drift](experiments/lazy/kernel_drift.png)" in gather.write_page(page, results / "a.md").read_text()
    assert json.loads(gather.write_page(page, results / "a.json").read_text())["tally"]["supported"] == 1
    with pytest.raises(UserError, match=r"must end in \.html, \.md or \.json, not \.pdf"):
        gather.write_page(page, results / "a.pdf")
    assert not (results / "a.pdf").exists()


def test_a_page_lies_in_the_folder_that_holds_them_all(results: Path) -> None:
    assert gather.default_path([results]) == results / "report.html"
    assert gather.default_path([results / "tiny"]) == results / "tiny" / "report.html"
    assert gather.default_path([results / "tiny", results / "other"]) == results / "report.html"


def test_the_command_writes_a_page_or_prints_a_summary(results: Path) -> None:
    done = ntkrun_command("report", "tiny", cwd=results)
    assert (done.returncode, done.stdout) == (0, f"{results / 'tiny' / 'report.html'}\n"), done.stderr
    printed = ntkrun_command("report", ".", "--json", "--out", "r.md", cwd=results)
    assert [section["name"] for section in json.loads(printed.stdout)["sections"]] == ["lazy"]
    assert (results / "r.md").read_text().startswith("# Results")
    none = ntkrun_command("report", "nowhere", cwd=results)
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.startswith("nowhere: holds neither a sweep nor experiments")
