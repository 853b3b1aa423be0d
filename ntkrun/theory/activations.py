"""The nonlinearities σ that a config may name.

One table: what σ is, and where it has kinks. A name may carry a parameter in brackets: `leaky_relu(0.2)`.
"""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from ntkrun.errors import UserError


@dataclass(frozen=True)
class Activation:
    """A nonlinearity: `function` acts elementwise on a tensor; `kinks` are the points where it is not smooth.

    `derivative` gives σ'(z) from z and a = σ(z), where that is faster than autograd; without it, `slope` differentiates
    `function`.
    """

    name: str
    statement: str
    function: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] = ()
    derivative: Callable[[Tensor, Tensor], Tensor] | None = None

    def slope(self, z: Tensor, a: Tensor) -> Tensor:
        """σ'(z), elementwise, given a = σ(z); at a kink what torch takes it to be."""
        if self.derivative is not None:
            return self.derivative(z, a)
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            return torch.autograd.grad(self.function(z), z, torch.ones_like(z))[0]


def _identity(z: Tensor) -> Tensor:
    # A copy, so that no caller ends up holding one tensor under two names.
    return z.clone()


def _leaky_slope(z: Tensor, a: Tensor, s: float) -> Tensor:
    return z.sign().clamp_(min=0).mul_(1 - s).add_(s)  # in a sixth of the time that torch.where takes


def _silu_slope(z: Tensor, a: Tensor) -> Tensor:
    p = z.sigmoid()
    return p + a * (1 - p)


def _table(*activations: Activation) -> MappingProxyType[str, Activation]:
    return MappingProxyType({a.name: a for a in activations})


ACTIVATIONS = _table(
    Activation("identity", "z", _identity, derivative=lambda z, a: torch.ones_like(z)),
    Activation("relu", "max(z, 0)", F.relu, (0.0,), derivative=lambda z, a: a.sign()),
    Activation(
        "leaky_relu",
        "z for z > 0, else s·z; slope s = 0.01 or leaky_relu(s)",
        F.leaky_relu,
        (0.0,),
        derivative=partial(_leaky_slope, s=0.01),
    ),
    Activation("abs", "|z|", torch.abs, (0.0,), derivative=lambda z, a: z.sign()),
    Activation("erf", "erf(z)", torch.erf, derivative=lambda z, a: 2 / math.sqrt(math.pi) * (-z * z).exp()),
    Activation("tanh", "tanh(z)", torch.tanh, derivative=lambda z, a: 1 - a * a),
    Activation("sigmoid", "1/(1 + exp(-z))", torch.sigmoid, derivative=lambda z, a: a * (1 - a)),
    Activation("softplus", "log(1 + exp(z))", F.softplus, derivative=lambda z, a: z.sigmoid()),
    Activation("gelu", "z·Φ(z), Φ the normal distribution function", F.gelu),  # torch's own backward is faster
    Activation("silu", "z/(1 + exp(-z))", F.silu, derivative=_silu_slope),
    Activation("elu", "z for z > 0, else exp(z) - 1", F.elu, (0.0,), derivative=lambda z, a: a.clamp(max=0) + 1),
    Activation("sin", "sin(z)", torch.sin, derivative=lambda z, a: z.cos()),
    Activation("cos", "cos(z)", torch.cos, derivative=lambda z, a: -z.sin()),
)

_WITH_SLOPE = re.compile(r"leaky_relu\((.*)\)")


def activation(name: str) -> Activation:
    """The nonlinearity called `name`. Raises UserError, naming the known ones, if there is none."""
    slope = leaky_slope(name)
    if slope is not None:
        function = partial(F.leaky_relu, negative_slope=slope)
        return Activation(name, f"z for z > 0, else {slope}·z", function, (0.0,), partial(_leaky_slope, s=slope))
    if name not in ACTIVATIONS:
        near = difflib.get_close_matches(name, ACTIVATIONS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(ACTIVATIONS)}"
        raise UserError(f"unknown activation {name!r}; {hint}")
    return ACTIVATIONS[name]


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
