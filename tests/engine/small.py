"""A small stack task in float64, for tests that look at what a training measures; and trainings that measure nothing,
for those that look at its states."""

from collections.abc import Collection, Iterable, Iterator, Sequence

import torch
from torch import Tensor

from ntkrun.engine.calls import calls
from ntkrun.engine.clock import NO_CLOCK
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.network import Network
from ntkrun.engine.output_scale import PLAIN, OutputScale
from ntkrun.engine.task import StackTask
from ntkrun.engine.training import Descent, LearningProblem, State, train
from ntkrun.theory.losses import LOSSES

ETA = 0.3


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def points() -> tuple[Tensor, Tensor]:
    """Its training and test inputs."""
    return draw(6, 3, seed=0), draw(4, 3, seed=1)


def small_task(net: DenseNetwork, loss: str, steps: int, /, **changes: object) -> StackTask:
    """Two seeds, six inputs and four test inputs of three dimensions, targets that suit the loss, every step probed."""
    x, x_test = points()
    y, y_test = draw(6, net.outputs, seed=2), draw(4, net.outputs, seed=3)
    if loss == "cross_entropy":
        y, y_test = y.softmax(dim=1), y_test.softmax(dim=1)
    if loss == "logistic":
        y, y_test = y.sign(), y_test.sign()
    arguments = {
        "network": net,
        "seeds": [4, 7],
        "x": x.numpy(),
        "y": y.numpy(),
        "x_test": x_test.numpy(),
        "y_test": y_test.numpy(),
        "step_size": ETA,
        "steps": steps,
        "probed": frozenset(range(steps + 1)),
        "keep_kernels": frozenset(),
        "keep_last_kernel": False,
        "dtype": torch.float64,
        "loss": loss,
    }
    return StackTask(**{**arguments, **changes})  # type: ignore[arg-type]


def problem(
    net: Network,
    seeds: Sequence[int],
    x: Tensor,
    y: Tensor,
    step_size: float,
    steps: int,
    loss: str = "squared",
    momentum: float = 0.0,
    batch: int | None = None,
    scale: OutputScale = PLAIN,
) -> LearningProblem:
    """Return a problem without test inputs and without a limit kernel, in the precision of its inputs x."""
    return LearningProblem(net, seeds, x, y, x[:0], y[:0], LOSSES[loss], step_size, momentum, steps, batch, scale, None)


class Onlooker:
    """Lets a training pass without measuring anything. Its `batches` (S, B), where given, are those of the steps."""

    def __init__(self, problem: LearningProblem, probed: Collection[int], batches: Iterable[Tensor] | None):
        self.last, self.probed, self.batches = problem.steps, probed, batches
        self.call = calls(problem.network, problem.x.device, NO_CLOCK)

    def steps(self, descent: Descent) -> Iterator[int]:
        if self.batches is not None:
            descent.batches = iter(self.batches)
        yield from range(self.last + 1)

    def probes(self, step: int) -> bool:
        return step in self.probed

    def record(self, state: State) -> None: ...


def states(
    problem: LearningProblem, probed: Collection[int] = (), batches: Iterable[Tensor] | None = None
) -> Iterator[State]:
    """Yield the states of a training."""
    return train(problem, Onlooker(problem, probed, batches))
