"""Where a kernel is put together on disk: its bytes are there before anything is computed."""

import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ntkrun.errors import UserError
from ntkrun.lab import kernels
from ntkrun.lab.config import parse_config
from ntkrun.lab.engines.opening import Asked
from ntkrun.lab.kernels import empirical_in_blocks

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
        empirical_in_blocks(parse_config(TEXT), "cpu", Asked("ray", 1), tmp_path)
    assert not list(tmp_path.iterdir())
