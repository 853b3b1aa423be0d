"""Numbers as tables show them."""

import math

import pytest

from ntkrun.evidence.cells import decimals_for, interval_text, number_text


@pytest.mark.parametrize(
    ("margin", "decimals"),
    [((-1.2, -0.8), 2), ((0.0, 0.1), 2), ((0.97, 1.02), 2), ((0.98, 1.02), 3), ((0.995, 1.005), 3), ((1.0, 1.001), 4)],
)
def test_a_narrow_margin_takes_more_decimals(margin: tuple[float, float], decimals: int) -> None:
    """Enough that its two ends differ, and that a number between them does."""
    assert decimals_for(margin) == decimals
    low, high = (number_text(end, decimals) for end in margin)
    assert low != number_text(sum(margin) / 2, decimals) != high


def test_intervals_as_text() -> None:
    assert interval_text((-1.2, -0.8)) == "[-1.20, -0.80]"
    assert interval_text((0.995, 1.005), 3) == "[0.995, 1.005]"
    assert interval_text((-math.inf, 0.05)) == "< 0.05"
    assert interval_text((0.5, math.inf)) == "> 0.50"
    assert decimals_for((0.5, math.inf)) == 2
