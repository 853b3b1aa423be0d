"""`module_ntk` against the plain definition, in float64, by every route."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import ntkrun
from ntkrun.engine.torch_modules import memory_plan
from ntkrun.engine.torch_modules import state as state_module
from ntkrun.engine.torch_modules.state import checked, state
from ntkrun.engine.uses import PAIRS
from ntkrun.errors import UserError
from tests.engine.peak import peak_of
from tests.engine.torch_modules.zoo import CASES, TOLERANCE, TiedTwice, build, floats, ids, mlp, oracle, same


@pytest.mark.parametrize("name", CASES)
def test_every_kind_of_module(name: str) -> None:
    make, x = CASES[name]
    half = len(x) // 2
    same(build(make, x), x[: half + 1], x[half + 1 :])


@pytest.mark.parametrize("pay", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_pairs_of_positions_and_gradients_give_the_same(name: str, pay: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "pairs_pay", lambda *sizes: pay)
    test_every_kind_of_module(name)


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied transformer", "tied twice", "custom"])
@pytest.mark.parametrize("size", [1, 2, 3])
def test_tiles_of_any_size(name: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_plan, "CPU_INPUTS", size)
    test_every_kind_of_module(name)


def _routes(name: str) -> dict[str, str]:
    make, x = CASES[name]
    module = build(make, x)
    parameters = dict(module.named_parameters())
    layerwise = checked(module, parameters, x).layerwise
    uses = state(module, parameters, list(parameters), PAIRS, x).uses
    kinds = {p: type(use).__name__ for p, use in zip(parameters, uses, strict=True)}
    return {p: kind if p in layerwise else "Jacobian" for p, kind in kinds.items()}


def test_the_routes_are_the_cheapest_that_are_exact() -> None:
    routes = _routes("mlp")
    assert {routes[p] for p in routes if p.endswith("weight")} == {"Affine"}
    assert "Jacobian" not in _routes("cnn").values()
    # A table that is read once for all inputs has no axis of inputs; all else in the transformer is layerwise.
    for transformer in ("transformer", "tied transformer", "as many tokens as inputs"):
        assert [p for p, route in _routes(transformer).items() if route == "Jacobian"] == ["places.weight"]
    assert _routes("tied twice") == {"table.weight": "Tied"}
    custom = _routes("custom")
    assert {p for p, route in custom.items() if route == "Jacobian"} == {"gain", "unused", "hand", "second.weight"}
    assert set(_routes("functional").values()) == {"Jacobian"}
    assert "Jacobian" not in {*_routes("twice").values(), *_routes("folded inside").values()}


def test_a_dense_network_has_the_kernel_of_empirical_ntk() -> None:
    net = ntkrun.DenseNetwork(5, 3, 3, (7, 6), "tanh", 0.4, 1.2)
    params, x, x2 = net.init([0], torch.float64), floats(6, 5), floats(9, 5)[6:]

    class Scaled(nn.Module):
        """The scale in the forward pass, the weights as they are drawn: the network's own parametrization."""

        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList([w[0] for w in params.weights])
            self.biases = nn.ParameterList([b[0] for b in params.biases])

        def forward(self, a: Tensor) -> Tensor:
            for layer, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
                z = F.linear(net.scales[layer].weight * a, w) + net.beta * b
                a = torch.tanh(z)
            return z

    for second in (None, x2):
        expected = ntkrun.empirical_ntk(net, params, x, second)[0]
        assert (ntkrun.module_ntk(Scaled(), x, second) - expected).norm() <= TOLERANCE * expected.norm()


def test_a_kernel_of_x_alone_is_exactly_symmetric() -> None:
    module = build(mlp, floats(70, 6)).float()
    kernel = ntkrun.module_ntk(module, floats(70, 6).float())  # two tiles
    assert kernel.dtype == torch.float32
    assert torch.equal(kernel, kernel.permute(1, 0, 3, 2))
    trace = ntkrun.module_ntk(module, floats(70, 6).float(), outputs="trace")
    assert torch.equal(trace, trace.T)


def test_float32_agrees_to_its_rounding() -> None:
    make, x = CASES["tied transformer"]
    module = build(make, x)
    high = ntkrun.module_ntk(module, x)
    low = ntkrun.module_ntk(module.float(), x)
    assert low.dtype == torch.float32
    assert (low - high).norm() <= 1e-5 * high.norm()  # products of about 10 terms through 10 layers, each off by 6e-8


def test_frozen_parameters_do_not_count() -> None:
    make, x = CASES["custom"]
    module = build(make, x)
    for p in (module.first.weight, module.hand):
        p.requires_grad_(False)
    same(module, x[:4], x[4:])


@pytest.mark.parametrize("name", ["mlp", "cnn", "tied transformer", "tied twice", "custom"])
def test_tiny_budgets_give_the_same(name: str) -> None:
    make, x = CASES[name]
    module = build(make, x)
    expected = oracle(module, x)
    cuts = set()
    for kib in (4, 10, 20, 40, 80, 160, 320, 10000):
        memory = kib / 2**20
        try:
            kernel = ntkrun.module_ntk(module, x, memory=memory)
        except UserError as error:
            assert "too little" in str(error)  # noqa: PT017
            cuts.add("refused")
            continue
        assert (kernel - expected).norm() <= TOLERANCE * expected.norm()
        parameters = dict(module.named_parameters())
        groups = memory_plan.plan(module, parameters, x, len(x), expected.shape[2], kib * 1024)
        assert sorted(p for g in groups for p in g.names) == sorted(parameters)
        cuts.add(str(groups))
    assert len(cuts) >= 3


def test_parameters_of_two_precisions() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), _Cast(), nn.Linear(4, 2).double())
    kernel = ntkrun.module_ntk(module, floats(4, 3).float())
    assert kernel.dtype == torch.float64
    expected = oracle(module.double(), floats(4, 3))
    assert (kernel - expected).norm() <= 1e-5 * expected.norm()  # the first layer is float32


class _Cast(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.double()


class Aliased(nn.Module):
    """Reads a parameter through a list of its own, which a stand-in by name (torch.func) does not reach."""

    def __init__(self, aliased: bool) -> None:
        super().__init__()
        self.gain, self.leave = nn.Parameter(floats(6)), nn.Linear(6, 2).double()
        self.hidden = [self.gain] if aliased else None

    def forward(self, x: Tensor) -> Tensor:
        gain = self.gain if self.hidden is None else self.hidden[0]
        out: Tensor = self.leave(torch.tanh(gain * x))
        return out


def test_a_parameter_read_past_its_name() -> None:
    aliased, plain = Aliased(True), Aliased(False)
    plain.load_state_dict(aliased.state_dict())
    expected = oracle(plain, floats(4, 6))
    assert (ntkrun.module_ntk(aliased, floats(4, 6)) - expected).norm() <= TOLERANCE * expected.norm()


def test_autocast_takes_its_own_precision() -> None:
    module, x = build(mlp, floats(5, 6)).float(), floats(5, 6).float()
    expected = ntkrun.module_ntk(module, x)
    with torch.autocast("cpu", torch.bfloat16):
        kernel = ntkrun.module_ntk(module, x)
    assert kernel.dtype == torch.float32
    assert (kernel - expected).norm() <= 0.05 * expected.norm()  # bfloat16 rounds by 4e-3, through 3 layers


def _wide(name: str) -> nn.Module:
    if name == "mlp":
        return nn.Sequential(nn.Linear(6, 128), nn.ReLU(), nn.Linear(128, 64), nn.Linear(64, 5))
    if name == "cnn":
        return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(288, 5))
    if name == "tied twice":
        return TiedTwice(400, 16, 5)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    return nn.Sequential(layer, nn.Flatten(), nn.Linear(160, 5))


@pytest.mark.parametrize("mib", [2, 8, 40])
@pytest.mark.parametrize(
    ("name", "shape"), [("mlp", (6,)), ("cnn", (2, 16, 16)), ("encoder", (10, 16)), ("tied twice", (4,))]
)
def test_temporaries_stay_within_the_budget(name: str, shape: tuple[int, ...], mib: int) -> None:
    x = ids(24, *shape) if name == "tied twice" else floats(24, *shape)
    module = build(lambda: _wide(name), x)
    result = ntkrun.module_ntk(module, x, memory=1.0)
    peak = peak_of(lambda: ntkrun.module_ntk(module, x, memory=mib / 1024))
    assert peak - result.numel() * result.element_size() <= mib * 2**20
