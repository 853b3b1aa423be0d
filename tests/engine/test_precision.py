"""No entry computes float32 in tf32, whatever the caller has allowed torch to do."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ntkrun import DenseNetwork, empirical_ntk, module_ntk
from ntkrun.engine.kernel import jacobian_ntk
from ntkrun.engine.network import Forward, Parameters
from ntkrun.engine.stack import run_stack
from ntkrun.engine.task import StackTask


def _settings() -> tuple[str, bool]:
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32


@pytest.fixture
def tf32_allowed() -> Iterator[None]:
    before = _settings()
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.allow_tf32 = before[1]


class _Watched(nn.Linear):
    """Remembers the settings under which it was called."""

    def forward(self, x: Tensor) -> Tensor:
        self.seen = _settings()
        return super().forward(x)


class _WatchedNetwork(DenseNetwork):
    def forward(self, params: Parameters, x: Tensor) -> Forward:
        object.__setattr__(self, "seen", _settings())
        return super().forward(params, x)


def _run_stack(net: DenseNetwork) -> None:
    x, y = np.ones((2, 3)), np.ones((2, 1))
    probed, none = frozenset({0}), frozenset[int]()
    run_stack(StackTask(net, [0], x, y, x, y, 0.1, 1, probed, none, False, torch.float32), torch.device("cpu"))


@pytest.mark.usefixtures("tf32_allowed")
@pytest.mark.parametrize("entry", [_run_stack, lambda net: empirical_ntk(net, net.init([0]), torch.ones(2, 3))])
def test_entries_of_dense_networks_forbid_tf32_and_restore_it(entry) -> None:  # type: ignore[no-untyped-def]
    net = _WatchedNetwork(3, 1, 3, 4)
    entry(net)
    assert net.seen == ("highest", False)  # type: ignore[attr-defined]
    assert _settings() == ("high", True)


@pytest.mark.usefixtures("tf32_allowed")
def test_module_ntk_forbids_tf32_and_restores_it() -> None:
    module = _Watched(3, 1)
    module_ntk(module, torch.ones(2, 3))
    assert module.seen == ("highest", False)
    assert _settings() == ("high", True)


@pytest.mark.usefixtures("tf32_allowed")
def test_the_settings_come_back_after_an_error() -> None:
    net = DenseNetwork(3, 1, 3, 4)
    with pytest.raises(RuntimeError):
        jacobian_ntk(net, net.init([0]), torch.ones(2, 5))
    assert _settings() == ("high", True)
