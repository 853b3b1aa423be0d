"""A small stack task in float64, for tests that look at what a training measures."""

import torch
from torch import Tensor

from ntkrun.engine.network import DenseNetwork
from ntkrun.engine.stack import StackTask

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
