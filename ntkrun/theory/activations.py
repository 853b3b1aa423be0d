"""The nonlinearities σ that a config may name.

One table: what σ is, and where it has kinks. A name may carry a parameter in brackets: `leaky_relu(0.2)`. A user's own
is registered from Python, never named by a file. The functions act by the methods of the tensor that they are given, or
import torch when they are called: a config is read and names are listed without it.
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


@dataclass(frozen=True)
class Activation:
    """A nonlinearity: `function` acts elementwise on a tensor; `kinks` are the points where it is not smooth.

    `derivative` gives σ'(z) from z and a = σ(z), where that is faster than autograd; without it, `slope` differentiates
    `function`.
    """

    name: str
    statement: str
    function: Elementwise
    kinks: tuple[float, ...] = ()
    derivative: "Slope | None" = None

    def slope(self, z: "Tensor", a: "Tensor") -> "Tensor":
        """σ'(z), elementwise, given a = σ(z); at a kink what torch takes it to be."""
        if self.derivative is not None:
            return self.derivative(z, a)
        import torch

        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(self.function(z), z, torch.ones_like(z))[0]


def _identity(z: "Tensor") -> "Tensor":
    # A copy, so that no caller ends up holding one tensor under two names.
    return z.clone()


def _relu(z: "Tensor") -> "Tensor":
    return z.relu()


def _torch(name: str, **options: float) -> Elementwise:
    """The function of that name in torch.nn.functional, of those for which tensors have no method."""

    def function(z: "Tensor") -> "Tensor":
        from torch.nn import functional

        found: Tensor = getattr(functional, name)(z, **options)
        return found

    return function


def _erf_slope(z: "Tensor") -> "Tensor":
    return 2 / math.sqrt(math.pi) * (-z * z).exp()


def _leaky_slope(z: "Tensor", a: "Tensor", s: float) -> "Tensor":
    return z.sign().clamp_(min=0).mul_(1 - s).add_(s)  # in a sixth of the time that torch.where takes


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
    Activation("gelu", "z·Φ(z), Φ the normal distribution function", _torch("gelu")),  # torch's own backward is faster
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
    Activation("square", "z² (not Lipschitz)", lambda z: z.square(), derivative=lambda z, a: 2 * z),
    Activation("cube", "z³ (not Lipschitz)", lambda z: z * z * z, derivative=lambda z, a: 3 * z * z),
    Activation(
        "relu_squared",
        "max(z, 0)² (not Lipschitz)",
        lambda z: z.relu().square(),
        (0.0,),
        derivative=lambda z, a: 2 * z.relu(),
    ),
    Activation("exp", "exp(z) (not Lipschitz)", lambda z: z.exp(), derivative=lambda z, a: a),
)

_REGISTERED: dict[str, Activation] = {}  # users' own

_WITH_SLOPE = re.compile(r"leaky_relu\((.*)\)")


def activation(name: str) -> Activation:
    """The nonlinearity called `name`. Raises UserError, naming the known ones, if there is none."""
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
    """Make a user's own σ known by name to networks, configs and limit kernels of this process.

    `function` acts elementwise on a tensor and is differentiable by torch; `kinks` are all points where σ is not
    smooth: the limit kernel is integrated between them, to 1e-10 (smooth σ) or 1e-9, and refused where an unlisted kink
    spoils that. A name stands for one function: registering the same again changes nothing. Raises UserError for a name
    that is taken or unusable, and for a function that is not elementwise, finite and differentiable.
    """
    if not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise UserError(f"activation {name!r}: a name is letters, digits and underscores, a letter first")
    chosen = Activation(name, statement or "registered by the user", function, tuple(sorted(map(float, kinks))))
    if not all(map(math.isfinite, chosen.kinks)):
        raise UserError(f"activation {name}: kinks must be finite numbers")
    _check_elementwise(chosen)
    taken = ACTIVATIONS.get(name) or _REGISTERED.get(name)
    if taken is not None and (name in ACTIVATIONS or not _same(taken, chosen)):
        raise UserError(f"activation {name!r} stands for another function already; choose another name")
    return _REGISTERED.setdefault(name, chosen)


def registered() -> tuple[Activation, ...]:
    """The users' own of this process."""
    return tuple(_REGISTERED.values())


def know(others: Sequence[Activation]) -> None:
    """Those that another process of the same program has registered are known in this one as well."""
    _REGISTERED.update({each.name: each for each in others})


def registered_values(name: str) -> list[float] | None:
    """What identifies a registered σ: its kinks and values, to ten digits; None for one of ours, known by its name."""
    if name not in _REGISTERED:
        return None
    chosen = _REGISTERED[name]
    return [float(f"{value:.9e}") for value in (*chosen.kinks, *chosen.function(_probes()).tolist())]


def _probes() -> "Tensor":
    """Where a user's σ is looked at."""
    import torch

    return torch.linspace(-4, 4, 33, dtype=torch.float64)


def _same(first: Activation, second: Activation) -> bool:
    return first.kinks == second.kinks and bool((first.function(_probes()) == second.function(_probes())).all())


def _check_elementwise(chosen: Activation) -> None:
    import torch

    where = f"activation {chosen.name}"
    z = _probes().requires_grad_()
    value = chosen.function(z)
    if not isinstance(value, torch.Tensor) or value.shape != z.shape or value.dtype != z.dtype:
        raise UserError(f"{where}: the function must map a tensor to one of the same shape and dtype, elementwise")
    # To rounding alone: vectorised code may round the last elements of a tensor otherwise.
    if not torch.allclose(chosen.function(z[5:16]), value[5:16], rtol=1e-12, equal_nan=True):
        raise UserError(f"{where}: the function must act on each element alone, whatever stands beside it")
    if not value.requires_grad or not torch.autograd.grad(value.sum(), z)[0].isfinite().all():
        raise UserError(f"{where}: torch cannot differentiate the function, or not to finite numbers on [-4, 4]")
    if not value.isfinite().all():
        raise UserError(f"{where}: the function must be finite on [-4, 4]")


def leaky_slope(name: str) -> float | None:
    """s of `leaky_relu(s)`; None for any other name. Raises UserError where s is no finite number."""
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
