"""Parametrizations of a dense network: four numbers a layer, and nothing else of the engine knows which it is.

    z^(l+1) = s_l w^(l) a^(l) + c_l b^(l),    w^(l) entries start as N(0, sd_w²), b^(l) entries as N(0, sd_b²)

|            | s_l              | c_l        | sd_w      | sd_b |
|------------|------------------|------------|-----------|------|
| ntk        | σ_w/√n_l         | β          | 1         | 1    |
| standard   | 1                | 1          | σ_w/√n_l  | β    |
| mean_field | as ntk; in the last layer both over √n_{L-1} | | 1 | 1 |

(Jacot, Gabriel and Hongler 2018, section 2; Mei, Montanari and Nguyen 2018 and Yang and Hu 2021 for the last.) Without
hidden layers there is no n_{L-1} that grows, and mean_field is ntk.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from ntkrun.errors import UserError


class Scales(NamedTuple):
    """s_l and c_l before the weights and biases of a layer, and the standard deviations of these at the start."""

    weight: float
    bias: float
    weight_std: float = 1.0
    bias_std: float = 1.0


class Layer(NamedTuple):
    """The properties of a layer that its scales depend on: the root of its number of inputs, σ_w, β, and whether it is
    the last layer above a hidden one."""

    root: float
    weight_scale: float
    beta: float
    reads_out: bool


def _ntk(layer: Layer) -> Scales:
    return Scales(layer.weight_scale / layer.root, layer.beta)


def _standard(layer: Layer) -> Scales:
    return Scales(1.0, 1.0, layer.weight_scale / layer.root, layer.beta)


def _mean_field(layer: Layer) -> Scales:
    shrink = layer.root if layer.reads_out else 1.0
    return Scales(layer.weight_scale / layer.root / shrink, layer.beta / shrink)


PARAMETRIZATIONS: Mapping[str, Callable[[Layer], Scales]] = MappingProxyType(
    {"ntk": _ntk, "standard": _standard, "mean_field": _mean_field}
)


def scales(name: str, widths: tuple[int, ...], weight_scale: float, beta: float) -> tuple[Scales, ...]:
    """The scales of layers 0..L-1 between widths n_0..n_L. Raises UserError for a name that is none."""
    if name not in PARAMETRIZATIONS:
        raise UserError(f"parametrization {name!r}: choose {', '.join(PARAMETRIZATIONS)}")
    last = len(widths) - 2
    return tuple(
        PARAMETRIZATIONS[name](Layer(math.sqrt(n), weight_scale, beta, layer == last > 0))
        for layer, n in enumerate(widths[:-1])
    )
