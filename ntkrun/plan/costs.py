"""The cost of a stack in operations, by which runs are dealt to shards, and roughly in seconds."""

from ntkrun.plan.limits import network
from ntkrun.plan.problem import data_of
from ntkrun.plan.runs import Stack, detail_steps, probed_steps

ROUGH_RATE = 3e10  # multiplications per second, where nothing has been timed


def rough_seconds(stack: Stack) -> float:
    """Return the rough seconds of a stack, at a rate that is roughly right on every machine."""
    return operations(stack) / ROUGH_RATE


def operations(stack: Stack) -> int:
    """Return the cost of a stack in multiplications, as a whole number that depends on its sizes alone and is therefore
    the same on every machine.

    For P parameters, B inputs in a step, N training and M test inputs, O outputs, a run costs

        4e7 + 1600 P          to draw its weights
        P (6B + 60)           at a step: forward, backward and update, memory traffic
        P (6N + 2M + 60) + 200 (NO)³ + 2e6    at a probed step instead: with eigenvalues, and rows of the tables
        1700 P                more at a step with details

    and a stack of any number of runs 9e7 at each step, 3e8 more at a probed one and 7e8 more with details, the time of
    its small operations. What is not a product is counted as the multiplications that take as long; the factors are
    those of a laptop, to a fifth or so.
    """
    net, data, training = network(stack.point), data_of(stack.point), stack.point.training
    runs, probed = len(stack.runs), len(probed_steps(stack.point.probes, training.steps))
    plain, detailed = training.steps + 1 - probed, len(detail_steps(stack.point.probes, training.steps))
    inputs = len(data.x) if training.batch == "full" else training.batch
    per_probe = 6 * len(data.x) + 2 * len(data.x_test) + 60
    per_parameter = 1600 + plain * (6 * inputs + 60) + probed * per_probe + 1700 * detailed
    per_run = 4 * 10**7 + probed * (200 * (len(data.x) * data.outputs) ** 3 + 2 * 10**6)
    shared = 9 * 10**7 * (plain + probed) + 3 * 10**8 * probed + 7 * 10**8 * detailed
    return runs * (net.parameter_count * per_parameter + per_run) + shared
