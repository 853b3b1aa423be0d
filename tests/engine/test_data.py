"""Data sets: what they hold, and what is said of what cannot be loaded."""

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
from pydantic import TypeAdapter, ValidationError

from ntkrun.engine.data import DATA_SETS, Data, DataConfig, DataSet, describe
from ntkrun.errors import FieldError

CONFIG: TypeAdapter[DataSet] = TypeAdapter(DataConfig)


def _set(**keys: Any) -> DataSet:
    return CONFIG.validate_python(keys)


def _load(**keys: Any) -> Data:
    return _set(**keys).load()


def _problem(**keys: Any) -> FieldError:
    problems = _set(**keys).problems()
    assert len(problems) == 1
    return problems[0]


# ---------------------------------------------------------------- digits


def test_digits_are_centred_scaled_and_disjoint() -> None:
    data = _load(name="digits", samples=100, test_samples=50)
    assert data.x.shape == (100, 64)
    assert data.x_test.shape == (50, 64)
    for x in (data.x, data.x_test):
        assert np.linalg.norm(x, axis=1) == pytest.approx(8.0, rel=1e-12)
    rows = {row.tobytes() for row in data.x}
    assert not any(row.tobytes() in rows for row in data.x_test)
    assert not data.x.flags.writeable
    assert data.notes == ()


def test_digits_centre_is_the_training_mean() -> None:
    """Undo the scaling by solving for it: every centred training image is an image minus one common vector."""
    images, _ = sklearn.datasets.load_digits(return_X_y=True)
    order = np.random.Generator(np.random.PCG64(np.random.SeedSequence(3))).permutation(1797)
    chosen = images[order[:20]]
    centred = chosen - chosen.mean(axis=0)
    expected = centred / np.linalg.norm(centred, axis=1, keepdims=True) * 8
    assert _load(name="digits", samples=20, test_samples=5, seed=3).x == pytest.approx(expected, abs=1e-12)
    left = images[order[-5:]] - chosen.mean(axis=0)
    expected_test = left / np.linalg.norm(left, axis=1, keepdims=True) * 8
    assert _load(name="digits", samples=20, test_samples=5, seed=3).x_test == pytest.approx(expected_test, abs=1e-12)


def test_signed_targets_are_the_parity_and_one_hot_the_class() -> None:
    signed = _load(name="digits", samples=1797, test_samples=0)
    one_hot = _load(name="digits", samples=1797, test_samples=0, targets="one_hot")
    digit = one_hot.y.argmax(axis=1)
    assert one_hot.y.shape == (1797, 10)
    assert (one_hot.y.sum(axis=1) == 1).all()
    assert (signed.y[:, 0] == np.where(digit % 2 == 1, 1, -1)).all()


def test_two_classes_are_minus_and_plus_in_the_order_given() -> None:
    one_hot = _load(name="digits", classes=(8, 3), targets="one_hot", samples=30)
    signed = _load(name="digits", classes=(8, 3), samples=30)
    assert one_hot.outputs == 2
    assert (signed.y[:, 0] == np.where(one_hot.y[:, 1] == 1, 1, -1)).all()
    assert set(signed.y[:, 0]) == {-1.0, 1.0}


def test_the_seed_chooses_and_more_samples_keep_the_earlier() -> None:
    few, more = (_load(name="digits", samples=n, test_samples=10, targets="one_hot") for n in (20, 40))
    other = _load(name="digits", samples=20, test_samples=10, targets="one_hot", seed=1)
    assert (few.y == more.y[:20]).all()
    assert (few.y_test == more.y_test).all()
    assert not (few.y == other.y).all()


def test_digits_say_what_cannot_be() -> None:
    error = _problem(name="digits", samples=64, test_samples=2000)
    assert (error.field, error.what) == ("test_samples", "64 + 2000 test samples asked for, but digits has 1797")
    assert _problem(name="digits", samples=5000).field == "samples"
    assert "no class 12" in _problem(name="digits", classes=(3, 12)).what
    assert "twice" in _problem(name="digits", classes=(3, 3)).what
    assert "equals the mean" in _problem(name="digits", samples=1).what
    both = _set(name="digits", classes=(3, 12), samples=5000).problems()
    assert [error.field for error in both] == ["classes", "samples"]


# ---------------------------------------------------------------- synthetic


def test_circle() -> None:
    data = _load(name="circle", samples=4, test_samples=4, targets="product")
    assert data.x == pytest.approx(np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]), abs=1e-15)
    half = math.sqrt(0.5)
    assert data.x_test == pytest.approx(np.array([[half, half], [-half, half], [-half, -half], [half, -half]]))
    assert data.y_test[:, 0] == pytest.approx(np.array([0.5, -0.5, 0.5, -0.5]))
    assert np.linalg.norm(_load(name="circle", radius=3.0).x, axis=1) == pytest.approx(3.0)


def test_inputs_at_random_may_be_tested_on_a_circle() -> None:
    plain = _load(name="gaussian", dimension=3, samples=6, test_samples=4)
    data = _load(name="gaussian", dimension=3, samples=6, test_samples=4, test_circle=2.0, targets="product")
    np.testing.assert_array_equal(data.x, plain.x)
    np.testing.assert_allclose(data.x_test, [[2, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]], atol=1e-15)
    np.testing.assert_allclose(data.y_test, 0, atol=1e-15)
    with pytest.raises(FieldError, match="dimension of at least 2"):
        _load(name="gaussian", dimension=1, test_circle=1.0)


def test_sphere_and_gaussian() -> None:
    sphere, small = _load(name="sphere", dimension=7), _load(name="sphere", dimension=7, radius=0.5)
    assert np.linalg.norm(sphere.x, axis=1) == pytest.approx(math.sqrt(7))
    assert small.x_test == pytest.approx(sphere.x_test * 0.5 / math.sqrt(7))
    gaussian = _load(name="gaussian", dimension=50, samples=200)
    assert abs(gaussian.x.mean()) < 0.05  # 5 standard errors of 1e4 numbers
    assert abs(gaussian.x.var() - 1) < 0.07
    assert not np.isin(gaussian.x_test, gaussian.x).any()


def test_synthetic_targets() -> None:
    signs = _load(name="gaussian", samples=1000, targets="random_signs").y
    assert set(signs[:, 0]) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.16  # 5 standard errors
    given = _load(name="gaussian", samples=2, test_samples=1, targets=(0.5, -2.0, 7.0))
    assert given.y[:, 0].tolist() == [0.5, -2.0]
    assert given.y_test[:, 0].tolist() == [7.0]
    teacher = _load(name="sphere", samples=500, targets="teacher")
    assert 0.2 < teacher.y.std() < 2
    again = _load(name="sphere", samples=10, targets="teacher")
    assert again.y == pytest.approx(teacher.y[:10], rel=1e-12)  # one teacher, whatever the number of samples


def test_synthetic_data_say_what_cannot_be() -> None:
    assert _problem(name="gaussian", samples=2, test_samples=1, targets=(1.0, 2.0)).what.endswith("give 3")
    assert "dimension of at least 2" in _problem(name="gaussian", dimension=1, targets="product").what
    with pytest.raises(ValidationError):
        _set(name="circle", dimension=3)
    with pytest.raises(ValidationError) as caught:
        _set(name="gaussian", targets="randm")
    assert len(caught.value.errors()) == 1


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
    data = _load(**_file(path))
    found = np.concatenate([np.hstack([data.x, data.y]), np.hstack([data.x_test, data.y_test])])
    order = np.argsort(found[:, 1])
    assert found[order] == pytest.approx(frame.to_numpy(), rel=1e-15)


def test_npz_takes_matrices_and_scale_scales(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    x, y = draw.standard_normal((9, 5)), draw.standard_normal((9, 2))
    np.savez(tmp_path / "d.npz", x=x, y=y)
    keys = {"inputs": ("x",), "targets": ("y",), "samples": 9, "test_samples": 0}
    assert _load(**_file(tmp_path / "d.npz", **keys)).outputs == 2
    scaled = _load(**_file(tmp_path / "d.npz", scale=True, **keys)).x
    assert np.linalg.norm(scaled, axis=1) == pytest.approx(math.sqrt(5))


def test_identity_is_the_contents_not_the_path(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        _table().to_csv(tmp_path / name, index=False)
    one, two = (_set(**_file(tmp_path / name)).identity() for name in ("one.csv", "two.csv"))
    assert one == two
    _table(13).to_csv(tmp_path / "two.csv", index=False)
    assert _set(**_file(tmp_path / "two.csv")).identity() != one


def test_files_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    good = tmp_path / "good.csv"
    _table().to_csv(good, index=False)
    assert _problem(**_file(tmp_path / "none.csv")).what.endswith("cannot be read (No such file or directory)")
    assert "no column 'c'; it has 'a', 'b', 'y'" in _problem(**_file(good, inputs=("c",))).what
    assert _problem(**_file(good, samples=20)).field == "samples"
    (tmp_path / "x.txt").write_text("a,b,y\n")
    assert "use .csv, .npz or .parquet" in _problem(**_file(tmp_path / "x.txt")).what
    (tmp_path / "word.csv").write_text("a,b,y\n1,2,3\n4,five,6\n")
    assert "column 'b', row 2: 'five' is not a number" in _problem(**_file(tmp_path / "word.csv")).what
    (tmp_path / "hole.csv").write_text("a,b,y\n1,2,3\n4,,6\n")
    assert "column 'b', row 2: nan is not finite" in _problem(**_file(tmp_path / "hole.csv")).what
    (tmp_path / "torn.parquet").write_bytes(b"PAR1 and no more")
    assert "is not a parquet table" in _problem(**_file(tmp_path / "torn.parquet")).what
    (tmp_path / "head.csv").write_text("a,b,y\n")
    assert "has 0" in _problem(**_file(tmp_path / "head.csv")).what
    (tmp_path / "wide.csv").write_text("a,b,y\n1,2,3,4\n5,6,7,8\n")  # pandas would take 1 and 5 for an index
    assert "more fields than its header" in _problem(**_file(tmp_path / "wide.csv")).what
    (tmp_path / "comma.csv").write_text("a,b,y\n1,2,3,\n5,6,7,\n")
    comma = _load(**_file(tmp_path / "comma.csv", samples=2, test_samples=0))
    assert sorted(comma.y[:, 0]) == [3, 7]  # an empty field at the end shifts nothing
    np.savez(tmp_path / "complex.npz", a=np.ones(3) * 1j, b=np.ones(3), y=np.ones(3))
    assert "complex numbers" in _problem(**_file(tmp_path / "complex.npz")).what
    np.savez(tmp_path / "uneven.npz", a=np.ones(3), b=np.ones(3), y=np.ones(2), other=np.ones((7, 2)))
    assert "2 rows of targets for 3 of inputs" in _problem(**_file(tmp_path / "uneven.npz")).what
    np.savez(tmp_path / "ragged.npz", a=np.ones(3), b=np.ones(4), y=np.ones(3))
    assert "different numbers of rows" in _problem(**_file(tmp_path / "ragged.npz")).what
    with (tmp_path / "bare.npz").open("wb") as file:
        np.save(file, np.ones(3))
    assert "single array without a name" in _problem(**_file(tmp_path / "bare.npz")).what
    (tmp_path / "empty.csv").write_text("")
    assert "is not a csv table" in _problem(**_file(tmp_path / "empty.csv")).what


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.write_text, (tmp_path / "sprung", "!"))

    np.savez(tmp_path / "trap.npz", a=np.array([Trap()], dtype=object), b=np.ones(1), y=np.ones(1))
    assert "not an npz of plain arrays" in _problem(**_file(tmp_path / "trap.npz", samples=1, test_samples=0)).what
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
    data = _load(**_mnist(tmp_path, packed), targets="one_hot")
    assert data.x.shape == (20, 12)
    assert data.outputs == 10
    assert np.linalg.norm(data.x, axis=1) == pytest.approx(math.sqrt(12))


def test_idx_files_say_what_is_wrong_with_them(tmp_path: Path) -> None:
    keys = _mnist(tmp_path, packed=False)
    images, whole = tmp_path / "images", (tmp_path / "images").read_bytes()
    images.write_bytes(whole[:-5])
    assert "is torn: its header promises" in _problem(**keys).what
    images.write_bytes(b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1))
    assert "is torn" in _problem(**keys).what  # an allocation of that size would end the process
    images.write_bytes(b"GIF89a")
    assert "is not an idx file" in _problem(**keys).what
    images.write_bytes(gzip.compress(whole)[:-20])
    assert "torn gzip file" in _problem(**keys).what
    images.write_bytes(_idx(np.zeros((29, 4, 3), np.uint8)))
    assert "but there are 30 labels" in _problem(**keys).what
    images.write_bytes(b"")
    assert "is not an idx file" in _problem(**keys).what


# ---------------------------------------------------------------- openml


def test_openml_offline_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", unreachable)
    chosen = _set(name="openml", dataset="offline-test")
    assert chosen.problems() == []  # a check fetches nothing
    with pytest.raises(FieldError, match="is not in the cache and cannot be fetched") as caught:
        chosen.load()
    assert caught.value.field == "dataset"


def test_openml_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetched(name: str, **options: Any) -> tuple[np.ndarray, np.ndarray]:
        assert (name, options["version"], options["as_frame"]) == ("fetched-test", 2, False)
        return np.random.default_rng(0).random((40, 6)), np.array([str(k % 10) for k in range(40)], dtype=object)

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetched)
    data = _load(name="openml", dataset="fetched-test", version=2, samples=30, test_samples=10, targets="one_hot")
    assert data.x.shape == (30, 6)
    assert data.outputs == 10


# ---------------------------------------------------------------- all of them


def test_repeated_inputs_are_reported(tmp_path: Path) -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0, 1.0, 3.0], "b": [0.0, 0.0, -0.0, 0.0], "y": [1.0, 1.0, -1.0, 1.0]})
    frame.to_csv(tmp_path / "d.csv", index=False)
    notes = _load(**_file(tmp_path / "d.csv", samples=4, test_samples=0)).notes
    assert "2 of 4 training inputs are repeated" in notes[0]
    assert "with different targets: the loss cannot reach zero" in notes[1]
    frame.loc[2, "y"] = 1.0
    frame.to_csv(tmp_path / "e.csv", index=False)
    assert len(_load(**_file(tmp_path / "e.csv", samples=4, test_samples=0)).notes) == 1
    assert "test inputs are training inputs" in _load(name="circle", samples=8, test_samples=4).notes[0]


def test_every_data_set_is_described_deterministic_and_its_identity_names_it() -> None:
    assert [name for name, _ in describe()] == ["digits", "circle", "sphere", "gaussian", "file", "idx", "openml"]
    assert len(DATA_SETS) == 7
    for name in ("digits", "circle", "sphere", "gaussian"):
        first, second = _set(name=name).make(), _set(name=name).make()  # type: ignore[attr-defined]
        for a, b in zip(first, second, strict=True):
            assert (a == b).all()
        assert _set(name=name).identity() == {"name": name}
        assert _set(name=name, samples=64).identity() == {"name": name}
        assert _set(name=name, samples=65).identity() == {"name": name, "samples": 65}


# ---------------------------------------------------------------- keys of every data set


def test_a_path_leads_from_one_training_input_to_another() -> None:
    """α x_i + (1-α) x_j, α evenly from 0 to 1; the training inputs are those without it, the targets nan."""
    for keys in ({"name": "gaussian", "dimension": 3}, {"name": "digits"}, {"name": "circle"}):
        plain = _load(samples=6, test_samples=5, **keys)
        data = _load(samples=6, test_samples=5, between=(2, 4), **keys)
        assert (data.x == plain.x).all()
        assert (data.y == plain.y).all()
        for k, alpha in enumerate((0, 0.25, 0.5, 0.75, 1)):
            assert data.x_test[k] == pytest.approx(alpha * data.x[2] + (1 - alpha) * data.x[4], abs=1e-14)
        assert data.y_test.shape == plain.y_test.shape
        assert np.isnan(data.y_test).all()
        assert data.notes == ()  # its ends are training inputs by their nature
    assert len(_load(name="circle", test_samples=0, between=(0, 1)).x_test) == 0


def test_target_scale_multiplies_all_targets() -> None:
    for keys in ({"name": "circle", "targets": "teacher"}, {"name": "digits"}):
        plain, scaled = _load(samples=6, **keys), _load(samples=6, target_scale=2.5, **keys)
        assert (scaled.y == 2.5 * plain.y).all()
        assert (scaled.y_test == 2.5 * plain.y_test).all()


@pytest.mark.parametrize("keys", [{"name": "gaussian"}, {"name": "circle", "targets": "teacher"}, {"name": "digits"}])
def test_conflicts_repeat_the_first_inputs_with_opposite_targets(keys: dict[str, Any]) -> None:
    plain, data = _load(samples=9, **keys), _load(samples=9, conflicts=3, **keys)
    assert (data.x[:6] == plain.x[:6]).all()
    assert (data.x[6:] == data.x[:3]).all()
    assert (data.y[6:] == -data.y[:3]).all()
    assert (data.x_test == plain.x_test).all()
    assert [note for note in data.notes if "the loss cannot reach zero" in note]
