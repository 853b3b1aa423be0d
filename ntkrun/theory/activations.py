"""The nonlinearities σ that a config may name.

One table gives σ and the location of its kinks. A name may have a parameter in brackets: `leaky_relu(0.2)`. Users
register their own σ from Python; a file cannot define one. The functions use methods of their argument or import torch
when called, so that configs are read and names are listed without torch.
"""

import difflib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeAlias

from ntkrun.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

Elementwise: TypeAlias = "Callable[[Tensor], Tensor]"
Slope: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
BESIDE, JUMP = 1e-6, 1e-3  # a slope that changes by more than JUMP within twice BESIDE jumps


@dataclass(frozen=True)
class Activation:
    """A nonlinearity: `function` acts elementwise on a tensor; `kinks` are the points where it is not smooth.

    The theorems on training assume that σ is Lipschitz, which `lipschitz` tells, and more (`smoothness`). `derivative`
    computes σ'(z) from z and a = σ(z) where that is faster than autograd. Without it, `slope` differentiates
    `function`."""

    name: str
    statement: str
    function: Elementwise
    kinks: tuple[float, ...] = ()
    derivative: "Slope | None" = None
    lipschitz: bool = True

    @property
    def smoothness(self) -> str:
        """`smooth` without kinks, `C1` where σ' is continuous at every kink (elu), `kinked` where it jumps (relu)."""
        if not self.kinks:
            return "smooth"
        import torch

        sides = torch.tensor([[kink - BESIDE, kink + BESIDE] for kink in self.kinks], dtype=torch.float64)
        slopes = self.slope(sides, self.function(sides))
        return "C1" if float((slopes[:, 1] - slopes[:, 0]).abs().max()) < JUMP else "kinked"

    def slope(self, z: "Tensor", a: "Tensor") -> "Tensor":
        """Return σ'(z), elementwise, given a = σ(z). The value at a kink is torch's choice."""
        if self.derivative is not None:
            return self.derivative(z, a)
        import torch

        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(self.function(z), z, torch.ones_like(z))[0]


def _identity(z: "Tensor") -> "Tensor":
    # A copy, so that input and output never share memory.
    return z.clone()


def _relu(z: "Tensor") -> "Tensor":
    return z.relu()


def _torch(name: str, **options: float) -> Elementwise:
    """Return the function of this name in torch.nn.functional, for functions that are not tensor methods."""

    def function(z: "Tensor") -> "Tensor":
        from torch.nn import functional

        value: Tensor = getattr(functional, name)(z, **options)
        return value

    return function


def _erf_slope(z: "Tensor") -> "Tensor":
    return 2 / math.sqrt(math.pi) * (-z * z).exp()


def _leaky_slope(z: "Tensor", a: "Tensor", s: float) -> "Tensor":
    return z.sign().clamp_(min=0).mul_(1 - s).add_(s)  # six times faster than torch.where


def _silu_slope(z: "Tensor", a: "Tensor") -> "Tensor":
    p = z.sigmoid()
    return p + a * (1 - p)


def _table(*activations: Activation) -> MappingProxyType[str, Activation]:
    return MappingProxyType({a.name: a for a in activations})


ACTIVATIONS = _table(
    Activation("identity", "z", _identity, derivative=lambda z, a: z.new_ones(z.shape)),
    Activation("relu", "max(z, 0)", _relu, (0.0,), derivative=lambda z, a: a.sign()),
    Activation(
        "leaky_relu",
        "z for z > 0, else s·z; slope s = 0.01 or leaky_relu(s)",
        _torch("leaky_relu", negative_slope=0.01),
        (0.0,),
        derivative=partial(_leaky_slope, s=0.01),
    ),
    Activation("abs", "|z|", lambda z: z.abs(), (0.0,), derivative=lambda z, a: z.sign()),
    Activation("erf", "erf(z)", lambda z: z.erf(), derivative=lambda z, a: _erf_slope(z)),
    Activation("tanh", "tanh(z)", lambda z: z.tanh(), derivative=lambda z, a: 1 - a * a),
    Activation("sigmoid", "1/(1 + exp(-z))", lambda z: z.sigmoid(), derivative=lambda z, a: a * (1 - a)),
    Activation("softplus", "log(1 + exp(z))", _torch("softplus"), derivative=lambda z, a: z.sigmoid()),
    # torch's own backward pass of gelu is faster than a formula.
    Activation("gelu", "z·Φ(z), Φ the normal distribution function", _torch("gelu")),
    Activation("silu", "z/(1 + exp(-z))", _torch("silu"), derivative=_silu_slope),
    Activation(
        "elu",
        "z for z > 0, else exp(z) - 1",
        _torch("elu"),
        (0.0,),
        derivative=lambda z, a: a.clamp(max=0) + 1,
    ),
    Activation("sin", "sin(z)", lambda z: z.sin(), derivative=lambda z, a: z.cos()),
    Activation("cos", "cos(z)", lambda z: z.cos(), derivative=lambda z, a: -z.sin()),
    Activation("erf_sigmoid", "(1 + erf(z))/2", lambda z: (1 + z.erf()) / 2, derivative=lambda z, a: _erf_slope(z) / 2),
    Activation("gaussian", "exp(-z²)", lambda z: (-z * z).exp(), derivative=lambda z, a: -2 * z * a),
    Activation("square", "z² (not Lipschitz)", lambda z: z.square(), derivative=lambda z, a: 2 * z, lipschitz=False),
    Activation("cube", "z³ (not Lipschitz)", lambda z: z * z * z, derivative=lambda z, a: 3 * z * z, lipschitz=False),
    Activation(
        "relu_squared",
        "max(z, 0)² (not Lipschitz)",
        lambda z: z.relu().square(),
        (0.0,),
        derivative=lambda z, a: 2 * z.relu(),
        lipschitz=False,
    ),
    Activation("exp", "exp(z) (not Lipschitz)", lambda z: z.exp(), derivative=lambda z, a: a, lipschitz=False),
)

_REGISTERED: dict[str, Activation] = {}  # activations registered by users

_WITH_SLOPE = re.compile(r"leaky_relu\((.*)\)")


def activation(name: str) -> Activation:
    """Return the activation of this name. Raises UserError for an unknown name, with suggestions."""
    slope = leaky_slope(name)
    if slope is not None:
        function = _torch("leaky_relu", negative_slope=slope)
        return Activation(name, f"z for z > 0, else {slope}·z", function, (0.0,), partial(_leaky_slope, s=slope))
    known = {**ACTIVATIONS, **_REGISTERED}
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(known)}"
        raise UserError(f"unknown activation {name!r}; {hint}")
    return known[name]


def register_activation(
    name: str, function: Elementwise, kinks: Sequence[float] = (), statement: str = ""
) -> Activation:
    """Register a user's σ under a name for the networks, configs and limit kernels of this process.

    `function` acts elementwise on a tensor and is differentiable by torch. `kinks` are all points where σ is not
    smooth. The limit kernel is integrated between them, to 1e-10 (smooth σ) or 1e-9; if an unlisted kink makes that
    impossible, computing the kernel raises UserError. Registering the same function again under its name changes
    nothing. Returns the registered activation. Raises UserError for a name that is taken or invalid, and for a function
    that is not elementwise, finite and differentiable.

    >>> import ntkrun, torch
    >>> sigma = ntkrun.register_activation("leaky", lambda z: torch.where(z > 0, z, z / 10), kinks=[0])
    >>> net = ntkrun.DenseNetwork(inputs=2, outputs=1, depth=2, width=64, activation="leaky", beta=0.0)
    >>> nngp = ntkrun.limit_kernels(net, torch.ones(1, 2, dtype=torch.float64)).nngp
    >>> print(f"{float(nngp):.4f}")  # E[σ(u)²] = (1 + 1/10²)/2 for a standard normal u
    0.5050
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UserError(f"activation {name!r}: use letters, digits and underscores, starting with a letter")
    new = Activation(name, statement or "registered by the user", function, tuple(sorted(map(float, kinks))))
    if not all(map(math.isfinite, new.kinks)):
        raise UserError(f"activation {name}: kinks must be finite numbers")
    _check_elementwise(new)
    existing = ACTIVATIONS.get(name) or _REGISTERED.get(name)
    if existing is not None and (name in ACTIVATIONS or not _same(existing, new)):
        raise UserError(f"activation {name!r} is another function already; choose another name")
    return _REGISTERED.setdefault(name, new)


def registered() -> tuple[Activation, ...]:
    """Return the activations that were registered in this process."""
    return tuple(_REGISTERED.values())


def know(others: Sequence[Activation]) -> None:
    """Register activations that another process of the same program has registered."""
    _REGISTERED.update({other.name: other for other in others})


def registered_values(name: str) -> list[float] | None:
    """Return the numbers that identify a registered σ: its kinks and values, to ten digits. Return None for a built-in
    σ, which its name identifies."""
    if name not in _REGISTERED:
        return None
    sigma = _REGISTERED[name]
    return [float(f"{value:.9e}") for value in (*sigma.kinks, *sigma.function(_test_points()).tolist())]


def _test_points() -> "Tensor":
    """Return the points at which a registered σ is evaluated."""
    import torch

    return torch.linspace(-4, 4, 33, dtype=torch.float64)


def _same(first: Activation, second: Activation) -> bool:
    if first.kinks != second.kinks:
        return False
    return bool((first.function(_test_points()) == second.function(_test_points())).all())


def _check_elementwise(sigma: Activation) -> None:
    import torch

    where = f"activation {sigma.name}"
    z = _test_points().requires_grad_()
    value = sigma.function(z)
    if not isinstance(value, torch.Tensor) or value.shape != z.shape or value.dtype != z.dtype:
        raise UserError(f"{where}: the function must map a tensor to one of the same shape and dtype, elementwise")
    # Equal up to rounding only, because vectorised code may round the last elements of a tensor differently.
    if not torch.allclose(sigma.function(z[5:16]), value[5:16], rtol=1e-12, equal_nan=True):
        raise UserError(f"{where}: each output element must depend only on the same input element")
    if not value.requires_grad or not torch.autograd.grad(value.sum(), z)[0].isfinite().all():
        raise UserError(f"{where}: torch must be able to differentiate the function, with finite values on [-4, 4]")
    if not value.isfinite().all():
        raise UserError(f"{where}: the function must be finite on [-4, 4]")


def leaky_slope(name: str) -> float | None:
    """Return s of `leaky_relu(s)`, or None for any other name. Raises UserError where s is not a finite number."""
    match = _WITH_SLOPE.fullmatch(name)
    if match is None:
        return None
    try:
        slope = float(match.group(1))
    except ValueError:
        slope = math.nan
    if not math.isfinite(slope):
        raise UserError(f"{name}: the slope must be a finite number, as in leaky_relu(0.2)")
    return slope
