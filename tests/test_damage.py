"""Whatever stands in a config, a data file or a results directory: a result or a sentence with a documented exit code,
no traceback, nothing written elsewhere, nothing that runs for ever.

Each example is an accident, drawn from a seed; the slow test has ten thousand of them.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ntkrun.doctor.machine import machine
from tests.damage import configs, data_files, stores
from tests.damage.harness import command, jailed

Examples = Callable[[random.Random], None]


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A room with a whole results directory, a secret outside it, and a place for each example."""
    room = tmp_path_factory.mktemp("room")
    (room / "config.yaml").write_text(stores.CONFIG)
    code, said = command("sweep", str(room / "config.yaml"), "--results", str(room))
    assert code == 0, said
    (room / "outside").mkdir()
    (room / "outside" / "secret").write_text("secret")
    return room


@pytest.fixture
def of_configs(room: Path, monkeypatch: pytest.MonkeyPatch) -> Examples:
    (room / "configs").mkdir(exist_ok=True)
    configs.data_files(room / "configs")
    monkeypatch.chdir(room / "configs")

    def example(draw: random.Random) -> None:
        Path("config.yaml").write_bytes(configs.config(draw))
        with jailed(room / "configs"):
            code, said = command("validate", "config.yaml", *_overrides(draw))
            assert code in (0, 2)
            assert said.startswith("config.yaml: valid") == (code == 0)
        assert not Path("sprung").exists()

    return example


def _overrides(draw: random.Random) -> list[str]:
    keys = ("network.depth", "sweep.grid.network.width", "name", "data", "x", "sweep.0.seeds", "", "training.")
    return [f"{draw.choice(keys)}={draw.choice(['3', '[', '{a: 1}', '[4, 8]', ''])}"] if draw.random() < 0.1 else []


@pytest.fixture
def of_data(room: Path) -> Examples:
    folder = room / "data"
    folder.mkdir(exist_ok=True)

    def example(draw: random.Random) -> None:
        config = data_files.data_file(folder, draw)
        with jailed(folder):
            code, _ = command("validate", str(config))
            assert code in (0, 2)

    return example


@pytest.fixture
def of_stores(room: Path, monkeypatch: pytest.MonkeyPatch) -> Examples:
    root = room / "copy"
    facts = machine(root)  # which no accident changes, and which takes longer than all the rest
    monkeypatch.setattr("ntkrun.doctor.machine.machine", lambda run_dir: facts)

    def example(draw: random.Random) -> None:
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(room / "small", root)
        for number in range(draw.choice([1, 1, 2])):
            stores.accident(root, draw, room / "outside", again=number > 0)
        with jailed(root):
            for name in ("status", draw.choice(["claims", "status"])):
                command(name, str(root))
            command("doctor", str(root), *(["--fix"] if draw.random() < 0.5 else []))
            if draw.random() < 0.05:
                command("plot", str(root))
        assert [path.name for path in (room / "outside").iterdir()] == ["secret"]
        shutil.rmtree(room / "y", ignore_errors=True)  # a stack that the accident put beside

    return example


def _try(example: Examples, count: int, part: int = 0) -> None:
    @settings(
        max_examples=count,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**32 - 1))
    def accidents(seed: int) -> None:
        example(random.Random(seed + 2**32 * part))  # hypothesis gives every part the same seeds

    accidents()


@pytest.mark.parametrize(("kind", "count"), [("of_configs", 150), ("of_data", 100), ("of_stores", 30)])
def test_accidents(kind: str, count: int, request: pytest.FixtureRequest) -> None:
    _try(request.getfixturevalue(kind), count)


PARTS = {"of_configs": 8, "of_data": 6, "of_stores": 6}  # of 500 each, so that many cores can share them


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "part"), [(kind, part) for kind, parts in PARTS.items() for part in range(parts)])
def test_ten_thousand_accidents(kind: str, part: int, request: pytest.FixtureRequest) -> None:
    _try(request.getfixturevalue(kind), 500, part)
