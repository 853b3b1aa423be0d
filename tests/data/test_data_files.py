"""Data from files, and data that are fetched."""

import gzip
import math
import struct
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets

from ntkrun.errors import FieldError
from tests.data.data_sets import data_set, load, problem

# ---------------------------------------------------------------- files


def _table(count: int = 12) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame({"a": draw.standard_normal(count), "b": np.arange(count), "y": draw.standard_normal(count)})


def _file(path: Path, **keys: Any) -> dict[str, Any]:
    common = {
        "name": "file",
        "path": str(path),
        "inputs": ("a", "b"),
        "targets": ("y",),
        "samples": 8,
        "test_samples": 4,
    }
    return {**common, **keys}


@pytest.mark.parametrize("ending", ["csv", "parquet", "npz"])
def test_own_tables_come_back(tmp_path: Path, ending: str) -> None:
    frame, path = _table(), tmp_path / f"data.{ending}"
    if ending == "csv":
        frame.to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        np.savez(path, **{name: frame[name].to_numpy() for name in frame})
    data = load(**_file(path))
    found = np.concatenate([np.hstack([data.x, data.y]), np.hstack([data.x_test, data.y_test])])
    order = np.argsort(found[:, 1])
    assert found[order] == pytest.approx(frame.to_numpy(), rel=1e-15)


def test_npz_takes_matrices_and_scale_scales(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((9, 5)), draw.standard_normal((9, 2))
    np.savez(tmp_path / "d.npz", x=x, y=y)
    keys = {"inputs": ("x",), "targets": ("y",), "samples": 9, "test_samples": 0}
    assert load(**_file(tmp_path / "d.npz", **keys)).outputs == 2
    scaled = load(**_file(tmp_path / "d.npz", scale=True, **keys)).x
    assert np.linalg.norm(scaled, axis=1) == pytest.approx(math.sqrt(5))


def test_identity_is_the_contents_not_the_path(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        _table().to_csv(tmp_path / name, index=False)
    one, two = (data_set(**_file(tmp_path / name)).identity() for name in ("one.csv", "two.csv"))
    assert one == two
    _table(13).to_csv(tmp_path / "two.csv", index=False)
    assert data_set(**_file(tmp_path / "two.csv")).identity() != one


def test_files_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    _table().to_csv(good, index=False)
    assert problem(**_file(tmp_path / "none.csv")).what.endswith("cannot be read (No such file or directory)")
    assert "no column 'c'; it has 'a', 'b', 'y'" in problem(**_file(good, inputs=("c",))).what
    assert problem(**_file(good, samples=20)).field == "samples"
    (tmp_path / "x.txt").write_text("a,b,y\n")
    assert "use .csv, .npz, .parquet" in problem(**_file(tmp_path / "x.txt")).what
    (tmp_path / "word.csv").write_text("a,b,y\n1,2,3\n4,five,6\n")
    assert "column 'b', row 2: 'five' is not a number" in problem(**_file(tmp_path / "word.csv")).what
    (tmp_path / "hole.csv").write_text("a,b,y\n1,2,3\n4,,6\n")
    assert "column 'b', row 2: nan is not finite" in problem(**_file(tmp_path / "hole.csv")).what
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    assert "is not a parquet table" in problem(**_file(tmp_path / "torn.parquet")).what
    (tmp_path / "head.csv").write_text("a,b,y\n")
    assert "has 0" in problem(**_file(tmp_path / "head.csv")).what
    (tmp_path / "wide.csv").write_text("a,b,y\n1,2,3,4\n5,6,7,8\n")  # pandas would take 1 and 5 for an index
    assert "more fields than its header" in problem(**_file(tmp_path / "wide.csv")).what
    (tmp_path / "comma.csv").write_text("a,b,y\n1,2,3,\n5,6,7,\n")
    comma = load(**_file(tmp_path / "comma.csv", samples=2, test_samples=0))
    assert sorted(comma.y[:, 0]) == [3, 7]  # an empty field at the end shifts nothing
    np.savez(tmp_path / "complex.npz", a=np.ones(3) * 1j, b=np.ones(3), y=np.ones(3))
    assert "complex numbers" in problem(**_file(tmp_path / "complex.npz")).what
    np.savez(tmp_path / "uneven.npz", a=np.ones(3), b=np.ones(3), y=np.ones(2), other=np.ones((7, 2)))
    assert "2 rows of targets for 3 rows of inputs" in problem(**_file(tmp_path / "uneven.npz")).what
    np.savez(tmp_path / "ragged.npz", a=np.ones(3), b=np.ones(4), y=np.ones(3))
    assert "different numbers of rows" in problem(**_file(tmp_path / "ragged.npz")).what
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.ones(3))
    assert "single array without a name" in problem(**_file(tmp_path / "bare.npz")).what
    (tmp_path / "empty.csv").write_text("")
    assert "is not a csv table" in problem(**_file(tmp_path / "empty.csv")).what


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.write_text, (tmp_path / "sprung", "!"))

    np.savez(tmp_path / "trap.npz", a=np.array([Trap()], dtype=object), b=np.ones(1), y=np.ones(1))
    assert "not an npz of plain arrays" in problem(**_file(tmp_path / "trap.npz", samples=1, test_samples=0)).what
    assert not (tmp_path / "sprung").exists()


# ---------------------------------------------------------------- idx


def _idx(array: np.ndarray, kind: int = 0x08) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def _mnist(folder: Path, packed: bool, count: int = 30) -> dict[str, Any]:
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 4, 3)).astype(np.uint8)
    labels = (np.arange(count) % 10).astype(np.uint8)
    paths = {"images": folder / "images", "labels": folder / "labels"}
    for path, array in zip(paths.values(), (images, labels), strict=True):
        raw = _idx(array)
        path.write_bytes(gzip.compress(raw) if packed else raw)
    return {"name": "idx", "samples": 20, "test_samples": 10, **{key: str(path) for key, path in paths.items()}}


@pytest.mark.parametrize("packed", [False, True])
def test_idx_files(tmp_path: Path, packed: bool) -> None:
    data = load(**_mnist(tmp_path, packed), targets="one_hot")
    assert data.x.shape == (20, 12)
    assert data.outputs == 10
    assert np.linalg.norm(data.x, axis=1) == pytest.approx(math.sqrt(12))


def test_idx_files_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    keys = _mnist(tmp_path, packed=False)
    images, whole = tmp_path / "images", (tmp_path / "images").read_bytes()
    images.write_bytes(whole[:-5])
    assert "is damaged: it has" in problem(**keys).what
    images.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1))
    assert "is damaged" in problem(**keys).what  # an allocation of that size would end the process
    images.write_bytes(b"GIF89a")
    assert "is not an idx file" in problem(**keys).what
    images.write_bytes(gzip.compress(whole)[:-20])
    assert "damaged gzip file" in problem(**keys).what
    images.write_bytes(_idx(np.zeros((29, 4, 3), np.uint8)))
    assert "but there are 30 labels" in problem(**keys).what
    images.write_bytes(b"")
    assert "is not an idx file" in problem(**keys).what


# ---------------------------------------------------------------- openml


def test_openml_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", unreachable)
    chosen = data_set(name="openml", dataset="offline-test")
    assert chosen.problems() == []  # a check fetches nothing
    with pytest.raises(FieldError, match="is not in the cache and cannot be downloaded") as caught:
        chosen.load()
    assert caught.value.field == "dataset"


def test_openml_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(name: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        assert (name, options["version"], options["as_frame"]) == ("fetched-test", 2, False)
        return np.random.default_rng(0).random((40, 6)), np.array([str(k % 10) for k in range(40)], dtype=object)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetched)
    data = load(name="openml", dataset="fetched-test", version=2, samples=30, test_samples=10, targets="one_hot")
    assert data.x.shape == (30, 6)
    assert data.outputs == 10


def test_repeated_inputs_are_reported(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 1.0, 3.0], "b": [0.0, 0.0, -0.0, 0.0], "y": [1.0, 1.0, -1.0, 1.0]})
    frame.to_csv(tmp_path / "d.csv", index=False)
    notes = load(**_file(tmp_path / "d.csv", samples=4, test_samples=0)).notes
    assert "2 of 4 training inputs are repeated" in notes[0]
    assert "with different targets: the loss cannot reach zero" in notes[1]
    frame.loc[2, "y"] = 1.0
    frame.to_csv(tmp_path / "e.csv", index=False)
    assert len(load(**_file(tmp_path / "e.csv", samples=4, test_samples=0)).notes) == 1
    assert "test inputs are also training inputs" in load(name="circle", samples=8, test_samples=4).notes[0]
