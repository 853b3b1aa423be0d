"""Work spread over threads is the work done in turn."""

import threading
from collections.abc import Iterator

import pytest
import torch

from ntkrun.engine.dense import DenseNetwork
from ntkrun.engine.torch_settings import spread


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_results_come_in_the_order_of_the_items(threads: int) -> None:
    assert spread(lambda k: k * k, range(20)) == [k * k for k in range(20)]
    assert spread(lambda k: k, []) == []


def test_many_items_go_to_threads_of_one_core_each_and_one_stays_here(threads: int) -> None:
    here = threading.current_thread()
    seen = spread(lambda _: (threading.current_thread() is here, torch.get_num_threads()), range(20))
    assert set(seen) == {(threads == 1, 1)}
    assert spread(lambda _: threading.current_thread() is here, [0]) == [True]
    assert torch.get_num_threads() == threads


def test_initial_weights_do_not_depend_on_the_threads(threads: int) -> None:
    net, seeds = DenseNetwork(3, 2, 3, 5), [4, 1, 7, 2]
    together = net.init(seeds)
    for position, seed in enumerate(seeds):
        for mine, alone in zip(together, net.init([seed]), strict=True):
            assert torch.equal(mine[position], alone[0])
