"""What the benchmarks share: routes timed by turns, the device that they run on, trainings, and a plain network."""

import itertools
import os
import statistics
import time
from collections.abc import Callable, Container, Iterator, Mapping

import torch
from torch import nn

from ntkrun.engine.calls import calls
from ntkrun.engine.clock import NO_CLOCK
from ntkrun.engine.divergence import Losses
from ntkrun.engine.stack import STEPS_UNREAD
from ntkrun.engine.training import Descent, LearningProblem, State

Route = Callable[[], object]
DEVICE = torch.device(os.environ.get("NTKRUN_BENCH_DEVICE", "cpu"))
AHEAD = 1 if DEVICE.type == "cpu" else 20  # calls that the host may send off before it waits, as in a training


def wait() -> None:
    """Until the device has done what it was told."""
    if DEVICE.type == "cuda":
        torch.cuda.synchronize(DEVICE)


def where() -> str:
    """The device, for a headline."""
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name(DEVICE)
    threads = torch.get_num_threads()
    return f"{threads} thread{'s' * (threads > 1)}"


def medians(
    routes: Mapping[str, Route], rounds: int, often: Mapping[str, int] | None = None, ahead: int = 1
) -> dict[str, float]:
    """Seconds of a call of each route, the routes taking turns, so that ratios do not depend on what else the machine
    does.

    `often`: how many times in a row a route is timed when it is its turn, 1 where not given. `ahead`: calls that are
    timed together, waiting for the device after the last. One turn before the first counts for nothing.
    """
    times: dict[str, list[float]] = {name: [] for name in routes}
    for round_ in range(rounds + 1):
        for name, route in routes.items():
            for _ in range((often or {}).get(name, 1)):
                wait()
                started = time.perf_counter()
                for _ in range(ahead):
                    route()
                wait()
                if round_ > 0:
                    times[name].append((time.perf_counter() - started) / ahead)
    return {name: statistics.median(found) for name, found in times.items()}


class Onlooker:
    """Lets a training go on without end. Its losses are read as often as in a sweep; nothing else is measured."""

    def __init__(self, problem: LearningProblem, probed: Container[int]):
        self.probed, self.losses = probed, Losses(len(problem.seeds))
        self.call = calls(problem.network, DEVICE, NO_CLOCK)

    def steps(self, descent: Descent) -> Iterator[int]:
        return itertools.count()

    def probes(self, step: int) -> bool:
        return step in self.probed

    def record(self, state: State) -> None:
        self.losses.add(state.loss)
        if state.step % STEPS_UNREAD[DEVICE.type] == 0:
            self.losses.check(state.step)


def plain_network(inputs: int, width: int, depth: int) -> nn.Sequential:
    """What a user of torch writes: `depth` Linear layers, relu between them, one output."""
    sizes = [inputs, *[width] * (depth - 1)]
    hidden = [module for n, m in itertools.pairwise(sizes) for module in (nn.Linear(n, m), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], 1))
