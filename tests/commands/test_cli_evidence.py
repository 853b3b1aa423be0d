"""Judging from the command line: claims, the check against a baseline, the experiments."""

import json
from pathlib import Path

import pytest

from tests.command import CONFIG
from tests.command import ntkrun_command as _ntkrun


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "tiny.yaml").write_text(CONFIG)
    return tmp_path


def test_check_writes_a_baseline_and_judges_by_it(here: Path) -> None:
    assert _ntkrun("sweep", "tiny.yaml", "--no-plots", "-q", cwd=here).returncode == 0
    check = ("check", "results/tiny", "--baseline", "baseline/tiny.json")
    none = _ntkrun(*check, cwd=here)
    assert (none.returncode, none.stdout) == (2, "")
    assert "`--update` writes one" in none.stderr

    assert _ntkrun(*check, "--update", cwd=here).stdout == "baseline/tiny.json: 4 runs\n  new\n"
    assert _ntkrun(*check, "--update", cwd=here).stdout.endswith("nothing changed\n")
    same = _ntkrun(*check, cwd=here)
    assert same.returncode == 0, same.stderr
    assert max(map(len, same.stdout.splitlines())) <= 80
    for ending in ("png", "svg"):
        assert (here / f"results/tiny/figures/check.{ending}").stat().st_size > 1000

    file = here / "baseline" / "tiny.json"
    document = json.loads(file.read_text())
    for run in document["runs"]:
        run["estimates"]["kernel_drift"] /= 1.05
    file.write_text(json.dumps(document))
    moved = _ntkrun(*check, cwd=here)
    assert moved.returncode == 3
    first = next(line for line in moved.stdout.splitlines() if line.startswith("kernel_drift"))
    assert "+5" in first
    assert first.rstrip().endswith("regression")
    told = json.loads(_ntkrun(*check, "--json", cwd=here).stdout)
    assert told["verdict"] == "regression"

    other = _ntkrun("sweep", "tiny.yaml", "network.beta=0.2", "--no-plots", "-q", cwd=here)
    assert other.returncode == 0
    wrong = _ntkrun(*check, cwd=here)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    expected = (
        "baseline/tiny.json: this baseline belongs to another config: network.beta (0.2 here, 0.1 in the baseline)\n"
    )
    assert wrong.stderr == expected


def test_check_pairs_seeds_under_another_name_and_is_inconclusive_with_one(here: Path) -> None:
    assert _ntkrun("sweep", "tiny.yaml", "--no-plots", "-q", cwd=here).returncode == 0
    assert _ntkrun("check", "results/tiny", "--baseline", "b.json", "--update", cwd=here).returncode == 0
    for seeds, code in ((3, 0), (1, 5)):
        assert (
            _ntkrun("sweep", "tiny.yaml", "name=x", f"sweep.seeds={seeds}", "--no-plots", "-q", cwd=here).returncode
            == 0
        )
        done = _ntkrun("check", "results/x", "--baseline", "b.json", cwd=here)
        assert done.returncode == code, done.stdout
    assert "width 32: 1 done here, 2 in the baseline; each side needs at least two seeds" in done.stdout
    file = here / "tiny.yaml"
    refused = _ntkrun("check", "results/tiny", "--baseline", "tiny.yaml", "--update", cwd=here)
    assert refused.returncode == 2
    assert file.read_text() == CONFIG  # what is no baseline is not replaced by one


def test_reproduce_says_what_is_wrong_and_what_lies_ahead(here: Path) -> None:
    for arguments, words in (
        (("jacot-9",), "jacot-9: no such experiment; choose from jacot-2"),
        (("--preset", "huge"), "--preset huge: choose smoke, laptop, paper"),
    ):
        failed = _ntkrun("reproduce", *arguments, cwd=here)
        assert failed.returncode == 2
        assert words in failed.stderr
        assert "Traceback" not in failed.stderr
    ahead = _ntkrun("reproduce", "jacot-1", "--preset", "smoke", "--dry-run", cwd=here)
    assert ahead.returncode == 0
    assert "jacot-1: about 1 min" in ahead.stderr
    assert not (here / "results").exists()
    assert "jacot-1" in _ntkrun("list", "experiments", cwd=here).stdout


def test_reproduce_runs_an_experiment_and_tells_it_as_json(here: Path) -> None:
    done = _ntkrun("reproduce", "jacot-1", "--preset", "smoke", "--json", "-q", cwd=here)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (told,) = json.loads(done.stdout)["experiments"]
    assert told["name"] == "jacot-1"
    folder = here / "results" / "smoke" / "experiments" / "jacot-1"
    assert json.loads((folder / "result.json").read_text()) == told
    assert (folder / "kernel_on_the_circle.png").stat().st_size > 10000
    assert "### jacot-1" in (here / "results" / "smoke" / "summary.md").read_text()


# ---------------------------------------------------------------- claims

CLAIMED = """\
name: claimed
network: {depth: 2, activation: erf}
data: {name: circle, samples: 4, test_samples: 0, targets: product}
training: {steps: 20, dtype: float64}
probes: {detail: none, kernels: []}
sweep: {grid: {network.width: [64, 128, 256, 512]}, seeds: 20}
claims:
  - {name: frozen-kernel, exponent: [-1.4, -0.5]}
"""


def test_claims_are_judged_by_the_sweep_and_again_from_its_tables(tmp_path: Path) -> None:
    (tmp_path / "claimed.yaml").write_text(CLAIMED)
    swept = _ntkrun("sweep", "claimed.yaml", "--no-plots", cwd=tmp_path)
    assert swept.returncode == 0, swept.stderr
    assert "frozen-kernel" in swept.stdout
    assert max(map(len, swept.stdout.splitlines())) <= 80
    judged = _ntkrun("claims", "results/claimed", cwd=tmp_path)
    assert judged.returncode == 0, judged.stdout
    (row,) = (line.split() for line in judged.stdout.splitlines() if line.startswith("frozen-kernel"))
    assert row[-1] == "supported"
    told = json.loads(_ntkrun("claims", "results/claimed", "--json", cwd=tmp_path).stdout)
    assert told == json.loads((tmp_path / "results/claimed/claims.json").read_text())
    (claim,) = told["claims"]
    assert claim["expected"] == [-1.4, -0.5]
    assert claim["interval"][0] <= claim["estimate"] <= claim["interval"][1]
    # Other claims on the same runs: nothing is run again, and the exit code follows the verdict.
    for claims, code in (
        ("claims=[{name: frozen-kernel, exponent: [-0.2, 0.2]}]", 3),
        ("claims=[{name: frozen-kernel, exponent: [-0.2, 0.2], expect: refuted}]", 0),
        ("claims=[diagonal-kernel]", 5),
        ("claims=[]", 0),
    ):
        again = _ntkrun("sweep", "claimed.yaml", claims, "--no-plots", cwd=tmp_path)
        assert again.returncode == 0, again.stderr
        assert "nothing to run" in again.stderr
        assert _ntkrun("claims", "results/claimed", cwd=tmp_path).returncode == code, claims


def test_a_sweep_that_should_diverge(here: Path) -> None:
    wild = ("sweep", "tiny.yaml", "training.step_size=1e4", "training.steps=50", "--no-plots", "-q")
    assert _ntkrun(*wild, cwd=here).returncode == 1
    assert _ntkrun("claims", "results/tiny", cwd=here).returncode == 1
    assert _ntkrun(*wild, "expect=diverged", cwd=here).returncode == 0
    assert _ntkrun("claims", "results/tiny", cwd=here).returncode == 0
    for command in (("sweep", "tiny.yaml", "expect=diverged", "--no-plots", "-q"), ("claims", "results/tiny")):
        done = _ntkrun(*command, cwd=here)
        assert (done.returncode, done.stderr) == (3, "results/tiny: expect: diverged, but none of the runs did\n")


def test_a_torn_claim_in_a_results_directory_is_a_sentence(here: Path) -> None:
    """sweep.yaml may come from anywhere: what no config could have said is refused, not judged."""
    assert _ntkrun("sweep", "tiny.yaml", "--no-plots", "-q", cwd=here).returncode == 0
    file = here / "results/tiny/sweep.yaml"
    for bad in ("[nonsense]", "[{name: frozen-kernel, exponent: 3}]", "[{}]", "3", "[[frozen-kernel]]"):
        whole = file.read_text()
        file.write_text(whole.replace("claims: []", f"claims: {bad}"))
        done = _ntkrun("claims", "results/tiny", cwd=here)
        assert done.returncode == 2, bad
        assert "sweep.yaml" in done.stderr
        assert "Traceback" not in done.stderr
        file.write_text(whole)
