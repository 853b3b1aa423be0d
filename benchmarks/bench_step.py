"""The training step, with what is measured at every step, against plain training: N=64, L=4, one output, relu, float32.

Plain training is a Sequential of Linear and ReLU layers, autograd and torch.optim.SGD. The routes of a row are timed by
turns in one process, so that their ratio does not depend on what else the machine does; the table compares medians.

    OMP_NUM_THREADS=1 python benchmarks/bench_step.py [alone|stacks ...]        on one thread; both tables by default
"""

import sys
from collections.abc import Callable

import torch
from common import AHEAD, DEVICE, Onlooker, medians, plain_network, where
from torch import Tensor

from ntkrun.engine.calls import calls
from ntkrun.engine.clock import NO_CLOCK
from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.output_scale import PLAIN
from ntkrun.engine.probes import eigenvalues, kernel_numbers
from ntkrun.engine.training import (
    Descent,
    LearningProblem,
    State,
    directions,
    forward,
    kernel_of,
    move,
    output_gradients,
    train,
)
from ntkrun.theory.losses import LOSSES

INPUTS, DEPTH, DIMENSION, BETA, SEEDS = 64, 4, 64, 0.1, 32
STEP_SIZE = 1e-3  # small: what a step costs does not depend on it, as long as no loss grows
ALONE = {256: 200, 1024: 40, 2048: 20, 4096: 11}  # steps timed at each width
STACKED = {64: 200, 256: 15}
FOREVER = range(10**9)

Step = Callable[[], object]


def _data() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    x, y = torch.randn(INPUTS, DIMENSION, generator=draw), torch.randn(INPUTS, 1, generator=draw).sign()
    return x.to(DEVICE), y.to(DEVICE)


def plain(width: int, seeds: int) -> Step:
    """A step of plain torch networks, one after the other."""
    x, y = _data()

    def one() -> Step:
        net = plain_network(DIMENSION, width, DEPTH).to(DEVICE)
        optimiser = torch.optim.SGD(net.parameters(), lr=STEP_SIZE / width)

        def step() -> None:
            optimiser.zero_grad()
            loss = (net(x) - y).square().sum() / (2 * INPUTS)
            loss.backward()
            optimiser.step()

        return step

    steps = [one() for _ in range(seeds)]
    return lambda: [step() for step in steps]


def trained(width: int, seeds: int, look: Callable[[State], object], probed: range) -> Step:
    """A step of `train`, and a look at the state it leaves."""
    problem = _problem(width, seeds)
    states = train(problem, Onlooker(problem, probed))
    return lambda: look(next(states))


def loss_and_kernel(width: int, seeds: int) -> Step:
    """The same step with the loss and the kernel alone, which `train` does not offer apart from the drift."""
    problem = _problem(width, seeds)
    descent, call = Descent(problem), calls(problem.network, DEVICE, NO_CLOCK)

    def step() -> object:
        now = forward(descent, True)
        deltas = output_gradients(descent, now)
        kernel = kernel_of(now, deltas)
        move(descent, now, directions(descent, now, deltas, True), True, False)
        return now.loss, kernel

    return lambda: call("update", step)


def loss_kernel_drift(width: int, seeds: int, spectrum: bool = False) -> Step:
    """The step with what `measure` computes of loss, kernel and weight drift (and of the eigenvalues)."""
    first = list[Tensor]()

    def numbers(state: State) -> dict[str, Tensor]:
        assert state.kernel is not None, "every step is probed"
        assert state.distances is not None, "every step is probed"
        first.extend([] if first else [state.kernel])
        return {"loss": state.loss, **kernel_numbers(state.kernel, first[0]), "drift": state.distances.norm(dim=1)}

    def look(state: State) -> object:
        assert state.kernel is not None, "every step is probed"
        found = state.call("probes", numbers, state)
        return found | (eigenvalues(state.kernel.cpu()) if spectrum else {})

    return trained(width, seeds, look, FOREVER)


def _problem(width: int, seeds: int) -> LearningProblem:
    net, (x, y) = DenseNetwork(DIMENSION, 1, DEPTH, width, "relu", BETA), _data()
    steps = len(FOREVER) - 1
    return LearningProblem(
        net, range(seeds), x, y, x[:0], y[:0], LOSSES["squared"], STEP_SIZE, 0.0, steps, None, PLAIN, None
    )


def table(widths: dict[int, int], seeds: int) -> None:
    routes: dict[str, Callable[[int, int], Step]] = {
        "plain": plain,
        "step": lambda n, s: trained(n, s, lambda state: state.loss, range(0)),
        "loss, kernel": loss_and_kernel,
        "loss, kernel, drift": loss_kernel_drift,
        "and eigenvalues": lambda n, s: loss_kernel_drift(n, s, spectrum=True),
    }
    print(f"\n{seeds} seed{'s' * (seeds > 1)}, {where()}\n")
    print("| n | plain, ms | " + " | ".join(f"{name} / plain" for name in list(routes)[1:]) + " |")
    print("|---" * (len(routes) + 1) + "|")
    for width, rounds in widths.items():
        found = medians(
            {name: make(width, seeds) for name, make in routes.items()}, max(5, rounds // AHEAD), ahead=AHEAD
        )
        ratios = " | ".join(f"{found[name] / found['plain']:.2f}" for name in list(routes)[1:])
        print(f"| {width} | {1e3 * found['plain']:.2f} | {ratios} |", flush=True)


def main() -> None:
    wanted = sys.argv[1:] or ["alone", "stacks"]
    if "alone" in wanted:
        table(ALONE, 1)
    if "stacks" in wanted:
        table(STACKED, SEEDS)


if __name__ == "__main__":
    main()
