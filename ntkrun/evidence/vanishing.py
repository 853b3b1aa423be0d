"""Whether the loss vanishes in every run."""

from dataclasses import dataclass, replace

from ntkrun.evidence.cases import AT, Case
from ntkrun.evidence.conditions import RESOLVED
from ntkrun.evidence.estimates import CONFIDENCE, Interval
from ntkrun.evidence.judging import Estimate
from ntkrun.evidence.parts import Extremes, Measure

STILL_FALLING = 0.99  # of the loss at half the steps: what has fallen no further has come to rest


@dataclass(frozen=True)
class Vanishes:
    """The loss at the last step over that at the first, from the smallest to the largest of all runs. A run whose loss
    is above the margin and still falls says nothing yet."""

    key: str
    expected: Interval

    def margin(self, case: Case) -> Interval:
        return self.expected

    def measures(self, case: Case, margin: Interval) -> list[tuple[str, Measure]]:
        return [(self.key, lambda _: self._measure(case, margin))]

    def _measure(self, case: Case, margin: Interval) -> Estimate:
        ((_, extremes),) = Extremes(self.key, "loss_ratio", self.expected).measures(case, margin)
        found = extremes(CONFIDENCE)
        if found.trouble:
            return found
        table = case.statistics[case.statistics[AT] >= case.smallest]
        above = table[table["loss_ratio"] > margin[1]]
        falling = above[above["late_ratio"] < STILL_FALLING]
        if falling.empty:
            return replace(found, remark=_smallest_eigenvalue(case))
        slowest = falling["late_ratio"].max()
        what = f"{len(falling)} of {len(table)} runs are above {margin[1]:g} and still falling (by a factor"
        return replace(found, trouble=f"{what} {slowest:.3g} in the last half of the steps): more steps")


def _smallest_eigenvalue(case: Case) -> str:
    """λ_min of K̂_0 in words."""
    table = case.statistics
    share = (table["lambda_min_0"] / table["lambda_max_0"]).median()
    dtype = str(case.first["training.dtype"])
    if share < RESOLVED[dtype]:
        return f"λ_min of K̂_0 is 0 to rounding in {dtype} ({share:.0e} λ_max)"
    return f"λ_min of K̂_0 is {table['lambda_min_0'].median():.3g}"
