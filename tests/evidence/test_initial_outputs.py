"""Statistics of untrained networks, on tables whose law is known and on tables where it is broken."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pandas as pd
import pytest

from ntkrun.evidence.estimates import initial_outputs
from ntkrun.evidence.estimates.cases import Case
from ntkrun.evidence.estimates.intervals import level
from tests.evidence.cases import case_of

SEEDS, INPUTS, OUTPUTS = 4000, 3, 3
SIGMA = np.array([[1.0, 0.6, -0.3], [0.6, 1.5, 0.2], [-0.3, 0.2, 0.8]])
CLOSE = 1 - 1e-4  # the confidence of the intervals below; each test's seed is fixed
LAWS = (initial_outputs.LIMIT, initial_outputs.GIVEN)

# What the tests break: standard normal numbers (SEEDS, INPUTS, OUTPUTS), before they get their covariance.
Break = Callable[[np.ndarray], np.ndarray]


def _sound(normal: np.ndarray) -> np.ndarray:
    return normal


def _table(width: int = 64, broken: Break = _sound, draw: int = 0, scatter: float = 0.2) -> pd.DataFrame:
    """Outputs at step 0 of networks whose conditional covariance is Σ times 1 + `scatter` times a uniform number of
    mean 0 and variance 1."""
    random = np.random.default_rng([draw, width])
    scale = 1 + scatter * np.sqrt(12) * (random.random(SEEDS) - 0.5)
    normal = broken(random.standard_normal((SEEDS, INPUTS, OUTPUTS)))
    values = np.sqrt(scale)[:, None, None] * np.einsum("xy,syo->sxo", np.linalg.cholesky(SIGMA), normal)
    seed, point, output = (part.ravel() for part in np.indices(values.shape))
    return pd.DataFrame(
        {"seed": seed, "input": point, "output": output, "value": values.ravel()}
        | {"variance": scale[seed] * SIGMA[point, point], "covariance": scale[seed] * SIGMA[point, 0]}
        | {"limit_variance": SIGMA[point, point], "limit_covariance": SIGMA[point, 0], "limit_mean": 0.0}
        | {"part": "train", "step": 0, "width": width, "kernel": scale[seed]}
    )


def _case(*, broken: Break = _sound, scatter: float = 0.2) -> Case:
    return case_of(_table(broken=broken, scatter=scatter))


def _holds(values: pd.Series, expected: float) -> bool:
    low, high = level(values, CLOSE).interval
    return low <= expected <= high


EXPECTED = [
    *((partial(initial_outputs.moment, power), 1 - power % 2) for power in (1, 2, 3, 4)),
    *((partial(initial_outputs.joint_moment, *powers), 0) for powers in ((1, 1), (1, 3), (0, 3))),
    *((partial(initial_outputs.joint_moment, *powers), 1) for powers in ((0, 2), (2, 2), (0, 4))),
    (partial(initial_outputs.between_outputs, 1), 0),
    (partial(initial_outputs.between_outputs, 2), 1),
]


def _named(value: object) -> str:
    """The name of a statistic or of a broken network, the same in every process."""
    if isinstance(value, partial):
        return f"{value.func.__name__}{value.args}"
    return getattr(value, "__name__", str(value))


@pytest.mark.parametrize(("statistic", "expected"), EXPECTED, ids=_named)
def test_given_the_hidden_layers_every_expectation_is_exact(statistic, expected: float) -> None:  # type: ignore[no-untyped-def]
    found = statistic(initial_outputs.GIVEN)(_case(), 64.0, "")
    assert len(found) == SEEDS
    assert _holds(found, expected)


def test_at_finite_width_the_limit_is_off_by_the_scatter_of_the_variance() -> None:
    """E v²/Σ² = 1.04 with a relative variance 0.04 of v: for the fourth moment, jointly for two inputs and two outputs;
    none of the second moments sees it."""
    case, limit = _case(), initial_outputs.LIMIT
    for statistic in (
        initial_outputs.moment(4, limit),
        initial_outputs.joint_moment(2, 2, limit),
        initial_outputs.between_outputs(2, limit),
    ):
        assert _holds(statistic(case, 64.0, ""), 1.04)
    assert _holds(initial_outputs.moment(2, limit)(case, 64.0, ""), 1)
    assert _holds(initial_outputs.covariance_part(case, 64.0), 1)


def _same_size(normal: np.ndarray) -> np.ndarray:
    """Signs instead of normal numbers: the second moments are right."""
    return np.sign(normal)


def _skewed(normal: np.ndarray) -> np.ndarray:
    return (normal**2 - 1) / np.sqrt(2)


def _signed_together(normal: np.ndarray) -> np.ndarray:
    """Each input's value is normal and any two are uncorrelated once whitened, but their sizes are the same."""
    return np.sign(normal) * np.abs(normal[:, :1])


def _outputs_equal(normal: np.ndarray) -> np.ndarray:
    return np.repeat(normal[:, :, :1], OUTPUTS, axis=2)


def _outputs_of_one_size(normal: np.ndarray) -> np.ndarray:
    """Uncorrelated outputs that are not independent."""
    return np.sign(normal) * np.abs(normal[:, :, :1])


def _shifted(normal: np.ndarray) -> np.ndarray:
    return normal + 0.15


BROKEN = [
    (_shifted, initial_outputs.moment, (1,), 0),
    (lambda normal: 1.1 * normal, initial_outputs.moment, (2,), 1),
    (_skewed, initial_outputs.moment, (3,), 0),
    (_same_size, initial_outputs.moment, (4,), 1),
    (lambda normal: normal[:, [0, 0, 2]], initial_outputs.joint_moment, (1, 1), 0),
    (lambda normal: normal * [[[1], [1.2], [1.2]]], initial_outputs.joint_moment, (0, 2), 1),
    (_signed_together, initial_outputs.joint_moment, (2, 2), 1),
    (_same_size, initial_outputs.joint_moment, (0, 4), 1),
    (_outputs_equal, initial_outputs.between_outputs, (1,), 0),
    (_outputs_of_one_size, initial_outputs.between_outputs, (2,), 1),
]


@pytest.mark.parametrize("law", LAWS, ids=_named)
@pytest.mark.parametrize(("broken", "statistic", "powers", "expected"), BROKEN, ids=_named)
def test_what_is_not_gaussian_or_not_independent_shows(broken: Break, statistic, powers, expected, law) -> None:  # type: ignore[no-untyped-def]
    assert not _holds(statistic(*powers, law)(_case(broken=broken, scatter=0.0), 64.0, ""), expected)


def test_against_plain_loops() -> None:
    table = _table()
    table = table[table["seed"] < 3]
    case, seed = case_of(table), 1
    rows = table[table["seed"] == seed].set_index(["input", "output"])
    z = {key: row["value"] / row["variance"] ** 0.5 for key, row in rows.iterrows()}
    pairs = []
    for x in (1, 2):
        for o in range(OUTPUTS):
            v0, v, c = rows.loc[(0, 0), "variance"], rows.loc[(x, 0), "variance"], rows.loc[(x, 0), "covariance"]
            rest = (rows.loc[(x, o), "value"] - c / v0 * rows.loc[(0, o), "value"]) / (v - c**2 / v0) ** 0.5
            pairs.append(z[0, o] ** 2 * rest**4 / 3)
    given = initial_outputs.GIVEN
    assert initial_outputs.joint_moment(2, 4, given)(case, 64.0, "")[seed] == pytest.approx(np.mean(pairs))
    assert initial_outputs.moment(4, given)(case, 64.0, "")[seed] == pytest.approx(
        np.mean([v**4 for v in z.values()]) / 3
    )
    products = [z[x, i] * z[x, j] for x in range(INPUTS) for i in range(OUTPUTS) for j in range(OUTPUTS) if i != j]
    assert initial_outputs.between_outputs(1)(case, 64.0, "")[seed] == pytest.approx(np.mean(products))


def test_one_output_and_copies_of_the_first_input_have_no_pairs() -> None:
    table = _table()
    table["covariance"] = table["variance"] = 1.0
    case = case_of(table)
    assert initial_outputs.joint_moment(1, 1, initial_outputs.GIVEN)(case, 64.0, "").empty
    assert initial_outputs.between_outputs(1)(case_of(table[table["output"] == 0]), 64.0, "").isna().all()


# ---------------------------------------------------------------- independence


def _in_pairs(normal: np.ndarray) -> np.ndarray:
    return normal[np.arange(SEEDS) // 2]


def _alike(normal: np.ndarray) -> np.ndarray:
    """Any two networks have the correlation 0.2."""
    return np.sqrt(0.8) * normal + np.sqrt(0.2) * normal[:1]


def test_seeds_that_share_numbers_show() -> None:
    assert _holds(initial_outputs.with_next_seed(_case(), 64.0), 0)
    for broken, expected in ((_in_pairs, 0.5), (_alike, None)):
        low, high = level(initial_outputs.with_next_seed(_case(broken=broken), 64.0), CLOSE).interval
        assert low > 0.02
        assert expected is None or low < expected < high


def test_a_copy_shows_wherever_it_is() -> None:
    assert initial_outputs.copies(_case(scatter=0.0), 64.0).eq(0).all()

    def one_copy(normal: np.ndarray) -> np.ndarray:
        return np.concatenate([normal[:-1], normal[17:18]])

    assert initial_outputs.copies(_case(broken=one_copy, scatter=0.0), 64.0).eq(1).all()
    few = _table()
    few = few[(few["input"] == 0) & (few["output"] < 2)]
    assert initial_outputs.copies(case_of(few), 64.0).isna().all()


def test_widths_that_share_numbers_show() -> None:
    narrow, wide = _table(64), _table(128)
    assert _holds(initial_outputs.with_narrower(case_of(pd.concat([narrow, wide])), 128.0), 0)
    assert initial_outputs.with_narrower(case_of(narrow), 64.0).empty
    same = narrow.assign(width=128)
    same["value"] = 0.1 * same["value"] + np.sqrt(0.99) * wide["value"]
    assert _holds(initial_outputs.with_narrower(case_of(pd.concat([narrow, same])), 128.0), 0.1)
    for column in ("variance", "kernel"):
        assert _holds(initial_outputs.with_narrower(case_of(pd.concat([narrow, wide])), 128.0, column), 0)
        found = initial_outputs.with_narrower(case_of(pd.concat([narrow, narrow.assign(width=128)])), 128.0, column)
        assert _holds(found, 1 - 1 / SEEDS)
