"""Grid points as the engine takes them: expected kernels and step sizes."""

import pytest
import torch

from ntkrun.engine.network import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.lab import points
from ntkrun.lab.config import parse_config
from ntkrun.lab.kernels import limit_arrays
from ntkrun.lab.sections import Point
from ntkrun.theory.limit import expected_kernel, relative_step_size

TEXT = """\
name: test
network: {depth: 3, width: 8, activation: erf}
data: {name: gaussian, dimension: 3, samples: 6, test_samples: 2}
training: {step_size: {relative: 0.5}, steps: 4}
sweep: {seeds: 2}
"""


def _points(*overrides: str) -> list[Point]:
    return [point for point, _ in parse_config(TEXT, overrides=overrides).points]


@pytest.mark.parametrize("name", ["ntk", "standard", "mean_field"])
def test_kernel_and_step_are_those_expected_at_the_width(name: str) -> None:
    for point in _points("sweep.grid.network.width=[8, [4, 9]]", f"network.parametrization={name}"):
        net = DenseNetwork(3, 1, 3, point.network.width, "erf", parametrization=name)
        data = point.data.load()
        assert points.network(point) == net
        wanted = torch.cat([expected_kernel(net, data.x), expected_kernel(net, data.x_test, data.x)])
        assert torch.equal(points.limit_kernel(point), wanted)
        assert points.step_size(point) == pytest.approx(relative_step_size(net, data.x, 0.5), rel=1e-12)


def test_one_limit_serves_all_widths_of_a_sweep() -> None:
    points._limit_kernel.cache_clear()
    for point in _points("sweep.grid.network.width=[8, 16, 32]"):
        points.limit_kernel(point)
    assert points._limit_kernel.cache_info().misses == 1


def test_the_limit_that_is_written_says_which_it_is() -> None:
    for name, says in (("standard", "limit of K_n/n"), ("mean_field", "limits of n times")):
        sweep = parse_config(TEXT, overrides=["sweep.grid.network.width=[8, 16]", f"network.parametrization={name}"])
        assert says in limit_arrays(sweep, "cpu")[1]
    uneven = parse_config(TEXT, overrides=["network.width=[8, 9]", "network.parametrization=standard"])
    with pytest.raises(UserError, match=r"network\.width: K_n/n has a limit"):
        limit_arrays(uneven, "cpu")
