"""What a kernel of many inputs needs before anything is computed, and what it does not."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ntkrun.commands.kernel import kernel_empirical
from ntkrun.config.reader import parse_config
from ntkrun.errors import UserError
from ntkrun.plan import problem
from ntkrun.run import kernels
from ntkrun.run.engines import EngineSelection
from ntkrun.run.kernels import empirical_in_blocks

TEXT = """\
name: room
data: {name: sphere, dimension: 3, samples: 40, test_samples: 0}
sweep: {grid: {network.width: [8]}, seeds: 1}
"""


@pytest.fixture(params=["reserved", "written"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on Linux, and as where room cannot be reserved."""
    if request.param == "written":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
        monkeypatch.setattr(kernels, "ZEROS", 1000)


@pytest.fixture
def little_room() -> Iterator[None]:
    """No file may have more than 10,000 bytes; a full disk fails at the same place."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("way")
def test_the_bytes_are_there(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        kernels._make_room(file, 123456)
        found = os.fstat(file.fileno())
    assert found.st_size == 123456
    assert found.st_blocks * 512 >= 123456


@pytest.mark.usefixtures("way", "little_room")
def test_a_disk_without_room_is_a_sentence_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"cannot be written \(File too large\); the kernel takes 1\.2e-05 GiB"):
        empirical_in_blocks(parse_config(TEXT), "cpu", EngineSelection("ray", 1), tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_step_size_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative one takes the eigenvalues of the limit kernel: minutes and gigabytes at N = 20,000, for nothing."""

    def wanted(*point: object) -> float:
        raise AssertionError

    monkeypatch.setattr(problem, "_relative", wanted)
    (tmp_path / "room.yaml").write_text(TEXT)
    kernel_empirical(tmp_path / "room.yaml", tmp_path / "k.npz", device="cpu")
    with np.load(tmp_path / "k.npz", allow_pickle=False) as found:
        assert found["ntk"].shape == (1, 40, 40, 1, 1)
