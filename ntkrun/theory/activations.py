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
    """A nonlinearity: `function` acts elementwise on a tensor; `kinks` are the points where it is not smooth."""

    name: str
    statement: str
    function: Callable[[Tensor], Tensor]
    kinks: tuple[float, ...] = ()


def _identity(z: Tensor) -> Tensor:
    # A copy, so that no caller ends up holding one tensor under two names.
    return z.clone()


def _table(*activations: Activation) -> MappingProxyType[str, Activation]:
    return MappingProxyType({a.name: a for a in activations})


ACTIVATIONS = _table(
    Activation("identity", "z", _identity),
    Activation("relu", "max(z, 0)", F.relu, (0.0,)),
    Activation("leaky_relu", "z for z > 0, else s·z; slope s = 0.01 or leaky_relu(s)", F.leaky_relu, (0.0,)),
    Activation("abs", "|z|", torch.abs, (0.0,)),
    Activation("erf", "erf(z)", torch.erf),
    Activation("tanh", "tanh(z)", torch.tanh),
    Activation("sigmoid", "1/(1 + exp(-z))", torch.sigmoid),
    Activation("softplus", "log(1 + exp(z))", F.softplus),
    Activation("gelu", "z·Φ(z), Φ the normal distribution function", F.gelu),
    Activation("silu", "z/(1 + exp(-z))", F.silu),
    Activation("elu", "z for z > 0, else exp(z) - 1", F.elu, (0.0,)),
    Activation("sin", "sin(z)", torch.sin),
    Activation("cos", "cos(z)", torch.cos),
)

_WITH_SLOPE = re.compile(r"leaky_relu\((.*)\)")


def activation(name: str) -> Activation:
    """The nonlinearity called `name`. Raises UserError, naming the known ones, if there is none."""
    slope = leaky_slope(name)
    if slope is not None:
        function = partial(F.leaky_relu, negative_slope=slope)
        return Activation(name, f"z for z > 0, else {slope}·z", function, (0.0,))
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
