"""Data sets: what they hold, and what is said of what cannot be loaded."""

import math
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
from pydantic import ValidationError

from ntkrun.data import DATA_SETS, describe
from ntkrun.errors import FieldError
from tests.data.data_sets import data_set, load, problem

# ---------------------------------------------------------------- digits


def test_digits_are_centred_scaled_and_disjoint() -> None:
    data = load(name="digits", samples=100, test_samples=50)
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
    assert load(name="digits", samples=20, test_samples=5, seed=3).x == pytest.approx(expected, abs=1e-12)
    left = images[order[-5:]] - chosen.mean(axis=0)
    expected_test = left / np.linalg.norm(left, axis=1, keepdims=True) * 8
    assert load(name="digits", samples=20, test_samples=5, seed=3).x_test == pytest.approx(expected_test, abs=1e-12)


def test_signed_targets_are_the_parity_and_one_hot_the_class() -> None:
    signed = load(name="digits", samples=1797, test_samples=0)
    one_hot = load(name="digits", samples=1797, test_samples=0, targets="one_hot")
    digit = one_hot.y.argmax(axis=1)
    assert one_hot.y.shape == (1797, 10)
    assert (one_hot.y.sum(axis=1) == 1).all()
    assert (signed.y[:, 0] == np.where(digit % 2 == 1, 1, -1)).all()


def test_two_classes_are_minus_and_plus_in_the_order_given() -> None:
    one_hot = load(name="digits", classes=(8, 3), targets="one_hot", samples=30)
    signed = load(name="digits", classes=(8, 3), samples=30)
    assert one_hot.outputs == 2
    assert (signed.y[:, 0] == np.where(one_hot.y[:, 1] == 1, 1, -1)).all()
    assert set(signed.y[:, 0]) == {-1.0, 1.0}


def test_the_seed_chooses_and_more_samples_keep_the_earlier() -> None:
    few, more = (load(name="digits", samples=n, test_samples=10, targets="one_hot") for n in (20, 40))
    other = load(name="digits", samples=20, test_samples=10, targets="one_hot", seed=1)
    assert (few.y == more.y[:20]).all()
    assert (few.y_test == more.y_test).all()
    assert not (few.y == other.y).all()


def test_digits_say_what_cannot_be() -> None:
    error = problem(name="digits", samples=64, test_samples=2000)
    message = "64 training and 2000 test samples requested, but digits has 1797"
    assert (error.field, error.what) == ("test_samples", message)
    assert problem(name="digits", samples=5000).field == "samples"
    assert "no class 12" in problem(name="digits", classes=(3, 12)).what
    assert "twice" in problem(name="digits", classes=(3, 3)).what
    assert "equals the mean" in problem(name="digits", samples=1).what
    both = data_set(name="digits", classes=(3, 12), samples=5000).problems()
    assert [error.field for error in both] == ["classes", "samples"]


# ---------------------------------------------------------------- synthetic


def test_circle() -> None:
    data = load(name="circle", samples=4, test_samples=4, targets="product")
    assert data.x == pytest.approx(np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]), abs=1e-15)
    half = math.sqrt(0.5)
    assert data.x_test == pytest.approx(np.array([[half, half], [-half, half], [-half, -half], [half, -half]]))
    assert data.y_test[:, 0] == pytest.approx(np.array([0.5, -0.5, 0.5, -0.5]))
    assert np.linalg.norm(load(name="circle", radius=3.0).x, axis=1) == pytest.approx(3.0)


def test_inputs_at_random_may_be_tested_on_a_circle() -> None:
    plain = load(name="gaussian", dimension=3, samples=6, test_samples=4)
    data = load(name="gaussian", dimension=3, samples=6, test_samples=4, test_circle=2.0, targets="product")
    np.testing.assert_array_equal(data.x, plain.x)
    np.testing.assert_allclose(data.x_test, [[2, 0, 0], [0, 2, 0], [-2, 0, 0], [0, -2, 0]], atol=1e-15)
    np.testing.assert_allclose(data.y_test, 0, atol=1e-15)
    with pytest.raises(FieldError, match="dimension of at least 2"):
        load(name="gaussian", dimension=1, test_circle=1.0)


def test_sphere_and_gaussian() -> None:
    sphere, small = load(name="sphere", dimension=7), load(name="sphere", dimension=7, radius=0.5)
    assert np.linalg.norm(sphere.x, axis=1) == pytest.approx(math.sqrt(7))
    assert small.x_test == pytest.approx(sphere.x_test * 0.5 / math.sqrt(7))
    gaussian = load(name="gaussian", dimension=50, samples=200)
    assert abs(gaussian.x.mean()) < 0.05  # 5 standard errors of 1e4 numbers
    assert abs(gaussian.x.var() - 1) < 0.07
    assert not np.isin(gaussian.x_test, gaussian.x).any()


def test_synthetic_targets() -> None:
    signs = load(name="gaussian", samples=1000, targets="random_signs").y
    assert set(signs[:, 0]) == {-1.0, 1.0}
    assert abs(signs.mean()) < 0.16  # 5 standard errors
    given = load(name="gaussian", samples=2, test_samples=1, targets=(0.5, -2.0, 7.0))
    assert given.y[:, 0].tolist() == [0.5, -2.0]
    assert given.y_test[:, 0].tolist() == [7.0]
    teacher = load(name="sphere", samples=500, targets="teacher")
    assert 0.2 < teacher.y.std() < 2
    again = load(name="sphere", samples=10, targets="teacher")
    assert again.y == pytest.approx(teacher.y[:10], rel=1e-12)  # one teacher, whatever the number of samples


def test_synthetic_data_say_what_cannot_be() -> None:
    assert problem(name="gaussian", samples=2, test_samples=1, targets=(1.0, 2.0)).what.endswith("give 3")
    assert "dimension of at least 2" in problem(name="gaussian", dimension=1, targets="product").what
    with pytest.raises(ValidationError):
        data_set(name="circle", dimension=3)
    with pytest.raises(ValidationError) as caught:
        data_set(name="gaussian", targets="randm")
    assert len(caught.value.errors()) == 1


# ---------------------------------------------------------------- all of them


def test_every_data_set_is_described_deterministic_and_its_identity_names_it() -> None:
    assert [name for name, _ in describe()] == ["digits", "circle", "sphere", "gaussian", "file", "idx", "openml"]
    assert len(DATA_SETS) == 7
    for name in ("digits", "circle", "sphere", "gaussian"):
        first, second = data_set(name=name).make(), data_set(name=name).make()  # type: ignore[attr-defined]
        for a, b in zip(first, second, strict=True):
            assert (a == b).all()
        assert data_set(name=name).identity() == {"name": name}
        assert data_set(name=name, samples=64).identity() == {"name": name}
        assert data_set(name=name, samples=65).identity() == {"name": name, "samples": 65}


# ---------------------------------------------------------------- keys of every data set


def test_a_path_leads_from_one_training_input_to_another() -> None:
    """α x_i + (1-α) x_j, α evenly from 0 to 1; the training inputs are those without it, the targets nan."""
    for keys in ({"name": "gaussian", "dimension": 3}, {"name": "digits"}, {"name": "circle"}):
        plain = load(samples=6, test_samples=5, **keys)
        data = load(samples=6, test_samples=5, between=(2, 4), **keys)
        assert (data.x == plain.x).all()
        assert (data.y == plain.y).all()
        for k, alpha in enumerate((0, 0.25, 0.5, 0.75, 1)):
            assert data.x_test[k] == pytest.approx(alpha * data.x[2] + (1 - alpha) * data.x[4], abs=1e-14)
        assert data.y_test.shape == plain.y_test.shape
        assert np.isnan(data.y_test).all()
        assert data.notes == ()  # its ends are training inputs by their nature
    assert len(load(name="circle", test_samples=0, between=(0, 1)).x_test) == 0


def test_target_scale_multiplies_all_targets() -> None:
    for keys in ({"name": "circle", "targets": "teacher"}, {"name": "digits"}):
        plain, scaled = load(samples=6, **keys), load(samples=6, target_scale=2.5, **keys)
        assert (scaled.y == 2.5 * plain.y).all()
        assert (scaled.y_test == 2.5 * plain.y_test).all()


@pytest.mark.parametrize("keys", [{"name": "gaussian"}, {"name": "circle", "targets": "teacher"}, {"name": "digits"}])
def test_conflicts_repeat_the_first_inputs_with_opposite_targets(keys: dict[str, Any]) -> None:
    plain, data = load(samples=9, **keys), load(samples=9, conflicts=3, **keys)
    assert (data.x[:6] == plain.x[:6]).all()
    assert (data.x[6:] == data.x[:3]).all()
    assert (data.y[6:] == -data.y[:3]).all()
    assert (data.x_test == plain.x_test).all()
    assert [note for note in data.notes if "the loss cannot reach zero" in note]
