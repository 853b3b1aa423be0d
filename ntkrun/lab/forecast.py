"""How long the runs of several sweeps will take and how much memory, before they start."""

from collections.abc import Sequence
from dataclasses import dataclass

from ntkrun.engine.memory import GIB
from ntkrun.lab.execute import Outlook


@dataclass(frozen=True)
class Forecast:
    """Seconds for all the runs, and GiB for the largest stack of them: docs/performance.md says how good it is."""

    seconds: float
    gib: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        time = f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.0f} h"
        return f"about {'1 min' if minutes < 1 else time}, at most {self.gib:.2g} GiB"


def forecast(ahead: Outlook) -> Forecast:
    """What is missing of a sweep, one stack after the other."""
    each = ahead.estimates
    return Forecast(sum(part.seconds for part in each), max((part.bytes / GIB for part in each), default=0.0))


def together(forecasts: Sequence[Forecast]) -> Forecast:
    """One after the other."""
    return Forecast(sum(each.seconds for each in forecasts), max((each.gib for each in forecasts), default=0.0))
