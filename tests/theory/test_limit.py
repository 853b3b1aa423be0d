"""The limit kernels against independent calculations."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import ntkrun
from ntkrun.engine.dense import DenseNetwork
from ntkrun.errors import UserError
from ntkrun.theory.activations import ACTIVATIONS, Activation, activation, register_activation
from ntkrun.theory.limit import expected_kernel, limit_kernels, limit_layers, relative_step_size

REFERENCE = json.loads(Path(__file__).with_name("limit_kernels.json").read_text())


def _net(activation: str = "relu", depth: int = 3, beta: float = 0.1, weight_scale: float = 1.0, inputs: int = 3):
    return DenseNetwork(inputs, 1, depth, 1, activation, beta, weight_scale)


@pytest.mark.parametrize(
    "case", REFERENCE["cases"], ids=lambda c: f"{c['activation']}-{c['depth']}-{c['beta']}-{c['weight_scale']}"
)
def test_limit_kernels_equal_the_reference(case: dict) -> None:
    # The reference (another library, float64) and we round differently; both keep about 1e-15 a layer.
    net = _net(case["activation"], case["depth"], case["beta"], case["weight_scale"])
    found = limit_kernels(net, np.array(REFERENCE["x"]))
    for name in ("nngp", "ntk"):
        wanted = torch.tensor(case[name], dtype=torch.float64)
        assert (getattr(found, name) - wanted).abs().max() <= 1e-12 * wanted.abs().max()


def test_check_values_of_jacot_figure_1() -> None:
    """L=4, n_0=2, β=0.1, relu on the unit circle: five digits known from two independent codes."""
    angles = torch.arange(5, dtype=torch.float64) * math.pi / 4
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    kernel = limit_kernels(_net(depth=4, inputs=2), torch.tensor([[1.0, 0.0]]), circle).ntk[0]
    assert torch.allclose(kernel, torch.tensor([0.2825, 0.16997, 0.0927, 0.06604, 0.06435]).double(), atol=5e-6, rtol=0)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_limit_kernel_is_the_mean_of_wide_networks(name: str) -> None:
    """At L=2 the mean of K_0 over seeds is K_inf at any width; within 4 standard errors of 400 networks."""
    net = DenseNetwork(3, 1, 2, 64, name, 0.3, 1.2)
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    kernels = ntkrun.empirical_ntk(net, net.init(range(400), torch.float64), x)[..., 0, 0]
    error = kernels.std(dim=0) / math.sqrt(len(kernels))
    assert ((kernels.mean(dim=0) - limit_kernels(net, x).ntk).abs() <= 4 * error + 1e-12).all()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "depth"), [("silu", 3), ("silu", 4), ("tanh", 4)])  # tanh's bias at 3 is in the noise
def test_the_mean_of_networks_approaches_the_limit_as_one_over_width(name: str, depth: int) -> None:
    """n·(mean K_0 - K_inf) is the same at n = 4, 8 and 16, up to terms of order 1/n and 4 standard errors. Narrow:
    the bias falls like 1/n and the noise of the mean like 1/sqrt(n)."""
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    scaled, errors = [], []
    for width in (4, 8, 16):
        net = DenseNetwork(3, 1, depth, width, name, 0.3, 1.2)
        kernels = torch.cat(
            [
                ntkrun.empirical_ntk(net, net.init(range(s, s + 2000), torch.float64), x)[..., 0, 0]
                for s in range(0, 20000, 2000)
            ]
        )
        bias = kernels.mean(dim=0) - limit_kernels(net, x).ntk
        scaled.append(float(width * bias.trace()))
        errors.append(float(width * kernels.diagonal(dim1=1, dim2=2).sum(dim=1).std() / math.sqrt(len(kernels))))
    assert abs(scaled[0]) > 4 * errors[0]  # there is a bias to speak of
    for k in (0, 1):
        assert abs(scaled[k] - scaled[k + 1]) <= 4 * math.hypot(errors[k], errors[k + 1]) + 0.35 * abs(scaled[k])


def _hard_inputs() -> torch.Tensor:
    """Two inputs, one of them again, its opposite, and zero."""
    x = np.array(REFERENCE["x"])
    return torch.tensor(np.stack([x[0], x[1], x[0], -x[0], 0 * x[0]]))


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize(
    "name", ["relu", "erf", "gelu", "abs", "gaussian", "tanh", pytest.param("elu", marks=pytest.mark.slow)]
)
def test_fifty_layers_stay_finite_symmetric_and_positive(name: str, beta: float) -> None:
    for kernel in limit_kernels(_net(name, depth=50, beta=beta, weight_scale=1.4), _hard_inputs()):
        assert kernel.isfinite().all()
        assert (kernel == kernel.T).all()
        assert torch.allclose(kernel[0], kernel[2], rtol=1e-12, atol=0)  # equal inputs
        spectrum = torch.linalg.eigvalsh(kernel)
        assert spectrum[0] >= -1e-12 * spectrum[-1]  # rounding of 50 layers, and 3e-14 a layer of a numerical dual


@pytest.mark.parametrize("name", ["tanh", "sigmoid", "relu"])
def test_zero_and_opposite_inputs_at_two_layers(name: str) -> None:
    """With β = 0: K(0, x) = σ_w² σ(0) E[σ(v)], K(x, -x) from E[σ(u)σ(-u)] by a one-dimensional quadrature."""
    x, net = _hard_inputs(), _net(name, depth=2, beta=0.0)
    kernel = limit_kernels(net, x)
    z, w = np.polynomial.hermite_e.hermegauss(160)
    z, w = torch.tensor(z), torch.tensor(w / math.sqrt(2 * math.pi))
    root = float(x[0].norm()) / math.sqrt(3)
    sigma = activation(name).function
    up, down = ((z * root * sign).requires_grad_() for sign in (1.0, -1.0))
    du, dd = (torch.autograd.grad(sigma(t).sum(), t)[0] for t in (up, down))
    su, sd = sigma(up).detach(), sigma(down).detach()
    zero = sigma(torch.zeros(1, dtype=torch.float64))[0]
    # 160 Gauss-Hermite nodes: exact to 1e-12 for a smooth σ of this size; relu is integrated by hand.
    if name == "relu":
        assert float(kernel.nngp[0, 4]) == float(kernel.nngp[0, 3]) == float(kernel.ntk[0, 3]) == 0.0
        return
    assert float(kernel.nngp[0, 4]) == pytest.approx(float(zero * (su * w).sum()), abs=1e-11)
    assert float(kernel.nngp[0, 3]) == pytest.approx(float((su * sd * w).sum()), abs=1e-11)
    expected = (su * sd * w).sum() - root**2 * (du * dd * w).sum()
    assert float(kernel.ntk[0, 3]) == pytest.approx(float(expected), abs=1e-11)


@pytest.mark.parametrize(("inputs", "count", "name"), [(3, 4, "relu"), (3, 4, "elu"), (784, 1000, "relu")])
def test_equal_inputs_in_two_sets_give_the_diagonal(inputs: int, count: int, name: str) -> None:
    """Near ρ = 1 the inverse cosine loses half the digits; equal inputs must not suffer. x·x by a matrix product and by
    a sum differ by up to 1.8e-15 at 784 pixels."""
    x = 1 + torch.randn(count, inputs, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    net = _net(name, depth=3, inputs=inputs)
    found, diagonal = limit_kernels(net, x, x.clone()).ntk.diagonal(), limit_kernels(net, x).ntk.diagonal()
    assert torch.allclose(found, diagonal, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["relu", "tanh"])
def test_blocks_change_no_number(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(30, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = [limit_kernels(_net(name), x), limit_kernels(_net(name), x, x[:7])]
    monkeypatch.setitem(ntkrun.theory.limit.BLOCK, "cpu", 50)
    for before, after in zip(whole, [limit_kernels(_net(name), x), limit_kernels(_net(name), x, x[:7])], strict=True):
        for one, other in zip(before, after, strict=True):
            assert torch.allclose(one, other, rtol=1e-13, atol=1e-15)  # matrix products of other shapes round otherwise


@pytest.mark.parametrize("name", ["relu", "silu"])
def test_layers_are_the_kernels_of_every_depth(name: str) -> None:
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    layers = limit_layers(_net(name, depth=4), x, x[:2])
    for depth in range(1, 5):
        kernels = limit_kernels(_net(name, depth=depth), x, x[:2])
        assert torch.allclose(layers.nngp[depth - 1], kernels.nngp, rtol=1e-13, atol=1e-15)
        assert torch.allclose(layers.ntk[depth - 1], kernels.ntk, rtol=1e-13, atol=1e-15)
    rebuilt = layers.nngp[1] + layers.ntk[0] * layers.slopes[0]
    assert torch.allclose(layers.ntk[1], rebuilt, rtol=1e-14, atol=0)
    assert 0 <= layers.error <= 1e-12
    assert (layers.error == 0) == (name == "relu")


def _standard_kernel(net: DenseNetwork, seeds: range, x: torch.Tensor) -> torch.Tensor:
    """Σ_l [a·a' + 1] δ·δ' in the standard parametrization, whose network has the same F: δ and a are the same."""
    forward = net.forward(net.init(seeds, torch.float64), x)
    deltas = net.output_gradients(forward)
    pairs = zip([x.expand(len(seeds), -1, -1), *forward.activations[:-1]], deltas, strict=True)
    parts = [(a @ a.mT + 1) * (d[:, :, 0] @ d[:, :, 0].mT) for a, d in pairs]
    return torch.stack(parts).sum(dim=0)


def test_the_standard_parametrization_has_its_limit_per_width() -> None:
    """Means of 400 networks of width 256 within 4 standard errors and 2 % (order 1/n) of the expected kernel; lim K_n/n
    is what that tends to."""
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    net = DenseNetwork(3, 1, 3, 256, "erf", 0.3, 1.2)
    kernels = _standard_kernel(net, range(400), x)
    expected = expected_kernel(net, x, parametrization="standard")
    error = kernels.std(dim=0) / math.sqrt(len(kernels))
    assert ((kernels.mean(dim=0) - expected).abs() <= 4 * error + 0.02 * expected.abs()).all()
    wide = DenseNetwork(3, 1, 3, 10**8, "erf", 0.3, 1.2)
    limit = limit_kernels(net, x, parametrization="standard")
    assert torch.allclose(expected_kernel(wide, x, parametrization="standard") / 10**8, limit.ntk, rtol=1e-6)
    assert torch.equal(limit.nngp, limit_kernels(net, x).nngp)


def test_mean_field_is_the_ntk_over_the_width() -> None:
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    net = DenseNetwork(3, 1, 3, 256, "erf")
    assert torch.allclose(expected_kernel(net, x, parametrization="mean_field") * 256, limit_kernels(net, x).ntk)
    assert torch.equal(limit_kernels(net, x, parametrization="mean_field").ntk, limit_kernels(net, x).ntk)


def test_relative_step_size_is_r_over_the_largest_eigenvalue() -> None:
    x = np.array(REFERENCE["x"])
    for name in ("relu", "tanh"):
        kernel = limit_kernels(_net(name), x).ntk.numpy() / len(x)
        assert relative_step_size(_net(name), x, 0.5) == pytest.approx(0.5 / np.linalg.eigvalsh(kernel)[-1], rel=1e-12)


def test_bad_input_is_a_sentence() -> None:
    with pytest.raises(UserError, match="shape"):
        limit_kernels(_net(), np.ones((3, 4)))
    with pytest.raises(UserError, match="finite"):
        limit_kernels(_net(), np.array([[1.0, math.nan, 0.0]]))
    with pytest.raises(UserError, match="overflows float64 at layer"):
        limit_kernels(_net("exp", depth=6), 3 * np.ones((2, 3)))
    with pytest.raises(UserError, match="vanishes"):
        relative_step_size(_net(beta=0.0), np.zeros((2, 3)), 1.0)
    with pytest.raises(UserError, match="slope"):
        _net("leaky_relu(x)")
    with pytest.raises(UserError, match="choose ntk, standard, mean_field"):
        limit_kernels(_net(), np.ones((2, 3)), parametrization="mup")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"always x·x' \+ 1"):
        limit_kernels(_net(depth=1), np.ones((2, 3)), parametrization="standard")


def test_a_registered_activation_has_its_limit_and_an_unlisted_kink_is_found() -> None:
    x = torch.tensor(REFERENCE["x"], dtype=torch.float64)
    register_activation("hard_tanh_test", torch.nn.functional.hardtanh, kinks=[-1, 1])
    net = DenseNetwork(3, 1, 2, 64, "hard_tanh_test", 0.3, 1.2)
    kernels = ntkrun.empirical_ntk(net, net.init(range(400), torch.float64), x)[..., 0, 0]
    error = kernels.std(dim=0) / math.sqrt(len(kernels))
    assert ((kernels.mean(dim=0) - limit_kernels(net, x).ntk).abs() <= 4 * error).all()
    register_activation("unlisted_test", lambda z: torch.nn.functional.hardtanh(z))
    with pytest.raises(UserError, match="register it with all of them"):
        limit_kernels(DenseNetwork(3, 1, 2, 1, "unlisted_test"), x)


def test_registering_is_checked() -> None:
    first = register_activation("mine_test", torch.sinh)
    assert isinstance(first, Activation)
    assert register_activation("mine_test", torch.sinh) is first
    for name, function, match in (
        ("mine_test", torch.cosh, "another function"),
        ("relu", torch.cosh, "another function"),
        ("a b", torch.cosh, "letters"),
        ("norm_test", lambda z: z / z.norm(), "only on the same input element"),
        ("sum_test", lambda z: z.sum(), "same shape"),
        ("log_test", torch.log, "finite"),
        ("sign_test", lambda z: z.detach().sign(), "differentiate"),
    ):
        with pytest.raises(UserError, match=match):
            register_activation(name, function)
    with pytest.raises(UserError, match="kinks"):
        register_activation("kink_test", torch.cosh, kinks=[math.inf])
