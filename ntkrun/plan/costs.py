"""The cost of a stack in operations, by which runs are dealt to shards, and roughly in seconds."""

from ntkrun.plan.limits import network
from ntkrun.plan.problem import data_of
from ntkrun.plan.runs import Stack, probed_steps

ROUGH_RATE = 3e10  # multiplications per second, where nothing has been timed


def rough_seconds(stack: Stack) -> float:
    """Return the rough seconds of a stack, at a rate that is roughly right on every machine."""
    return operations(stack) / ROUGH_RATE


def operations(stack: Stack) -> int:
    """Return the cost of a stack in multiplications, as a whole number that depends on its sizes alone and is therefore
    the same on every machine.

    A step of one run costs 6N multiplications per parameter for the forward and backward passes, 2M for the test inputs
    and about 60 for memory traffic. A probe adds about 150(NO)³ for the eigenvalues. In addition each step of a stack
    of any size costs some 6e7 and each probe 1.4e8.
    """
    net, data, training = network(stack.point), data_of(stack.point), stack.point.training
    probed = len(probed_steps(stack.point.probes, training.steps))
    step_cost = net.parameter_count * (6 * len(data.x) + 2 * len(data.x_test) + 60)
    probe_cost = 150 * (len(data.x) * data.outputs) ** 3
    trained = (training.steps + 1) * (len(stack.runs) * step_cost + 6 * 10**7)
    return trained + probed * (len(stack.runs) * probe_cost + 14 * 10**7)
