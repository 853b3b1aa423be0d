"""What the benchmarks share: routes timed by turns, and the plain network that they are compared with."""

import itertools
import statistics
import time
from collections.abc import Callable, Mapping

from torch import nn

Route = Callable[[], object]


def medians(routes: Mapping[str, Route], rounds: int, often: Mapping[str, int] | None = None) -> dict[str, float]:
    """Seconds of each route, the routes taking turns, so that ratios do not depend on what else the machine does.

    `often`: how many times in a row a route runs when it is its turn, 1 where not given. One turn before the first
    counts for nothing.
    """
    times: dict[str, list[float]] = {name: [] for name in routes}
    for round_ in range(rounds + 1):
        for name, route in routes.items():
            for _ in range((often or {}).get(name, 1)):
                started = time.perf_counter()
                route()
                if round_ > 0:
                    times[name].append(time.perf_counter() - started)
    return {name: statistics.median(found) for name, found in times.items()}


def plain_network(inputs: int, width: int, depth: int) -> nn.Sequential:
    """What a user of torch writes: `depth` Linear layers, relu between them, one output."""
    sizes = [inputs, *[width] * (depth - 1)]
    hidden = [module for n, m in itertools.pairwise(sizes) for module in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))
