"""What is installed: one top-level package, whole, that runs in an empty directory."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import ntkrun

CHECKOUT = Path(ntkrun.__file__).parents[1]
BUILT_FROM = ("ntkrun", "experiments", "configs", "pyproject.toml", "README.md", "LICENSE")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"

pytestmark = pytest.mark.skipif(not (CHECKOUT / "pyproject.toml").exists(), reason="ntkrun is not run from a checkout")


def _built(kind: str, folder: Path) -> Path:
    """A wheel or an sdist, made from a copy of the checkout, links and all, without asking a registry for anything."""
    tree, made = folder / "tree", folder / kind
    made.mkdir()
    if not tree.exists():
        tree.mkdir()
        for name in BUILT_FROM:
            copy = shutil.copytree if (CHECKOUT / name).is_dir() else shutil.copy
            copy(CHECKOUT / name, tree / name, **({"symlinks": True} if copy is shutil.copytree else {}))
    command = [sys.executable, "-c", BUILD.format(kind), str(made)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, text=True)
    (found,) = made.iterdir()
    return found


def _files_of_the_checkout() -> set[str]:
    """Everything that is imported or read of the package, by its path from the top."""
    kinds = ("*.py", "*.pyi", "*.yaml", "*.css", "*.html", "*.mplstyle", "py.typed")
    found = set()
    for folder, within in (("ntkrun", "ntkrun"), ("experiments", "ntkrun/experiments"), ("configs", "ntkrun/configs")):
        home = CHECKOUT / folder
        found |= {f"{within}/{path.relative_to(home).as_posix()}" for kind in kinds for path in home.rglob(kind)}
    return found


def test_a_wheel_installs_ntkrun_alone_and_runs_in_an_empty_directory(tmp_path: Path) -> None:
    wheel = _built("wheel", tmp_path)
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"ntkrun"}
    assert _files_of_the_checkout() <= set(names)

    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(site)]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True, text=True)
    command = [str(site / "bin" / "ntkrun"), "reproduce", "--preset", "smoke", "lazy", "--json", "--quiet"]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=empty, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (experiment,) = json.loads(done.stdout)["experiments"]
    assert experiment["name"] == "lazy"
    assert all(claim["verdict"] for claim in experiment["claims"])
    assert (empty / "results" / "smoke" / "report.html").exists()


def test_an_sdist_holds_what_a_wheel_is_made_of(tmp_path: Path) -> None:
    with tarfile.open(_built("sdist", tmp_path)) as archive:
        members = {member.name.partition("/")[2]: member for member in archive.getmembers()}
    assert _files_of_the_checkout() | {"pyproject.toml", "README.md", "LICENSE"} <= set(members)
    assert all(member.isfile() or member.isdir() for member in members.values())  # no links: these are not followed


def test_nothing_is_imported_from_a_top_level_package_of_experiments() -> None:
    """In a checkout `import experiments` would work too, and give every module a second time."""
    sources = [path for folder in ("ntkrun", "experiments", "tests", "docs", "benchmarks")
               for path in (CHECKOUT / folder).rglob("*.py")]  # fmt: skip
    wrong = [
        path for path in sources if path != Path(__file__) and _imports_experiments(path.read_text(encoding="utf-8"))
    ]
    assert len(sources) > 200
    assert wrong == []


def _imports_experiments(source: str) -> bool:
    lines = (line.strip() for line in source.splitlines())
    return any(line.startswith(("import experiments", "from experiments")) for line in lines)
