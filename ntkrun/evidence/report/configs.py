"""A resolved config in a sentence."""

from collections.abc import Mapping
from typing import Any

from ntkrun.evidence.cases import told

COMMON = (  # what a reader wants to know first, and how it is said
    ("data.name", "{}"),
    ("data.samples", "N = {}"),
    ("network.depth", "L = {}"),
    ("network.activation", "{}"),
    ("network.beta", "β = {}"),
    ("network.weight_scale", "σ_w = {}"),
    ("network.parametrization", "{} parametrization"),
    ("training.loss", "{} loss"),
    ("training.steps", "{} steps"),
    ("training.batch", "batch {}"),
    ("training.dtype", "{}"),
)


def in_short(config: Mapping[str, Any]) -> str:
    """What a sweep's networks have in common, then what each of its blocks varies; '' of {}."""
    swept = config.get("sweep")
    blocks = [_mapping(block) for block in (swept if isinstance(swept, list) else [swept])]
    varied = {key for block in blocks for key in _varied(block)}
    common = [text.format(_value(value)) for key, text in COMMON if key not in varied and (value := _at(config, key))]
    return "; ".join(part for part in (", ".join(common), *(_block(block) for block in blocks if block)) if part)


def _varied(block: Mapping[str, Any]) -> dict[str, Any]:
    return {**_mapping(block.get("grid")), **_mapping(block.get("zip"))}


def _block(block: Mapping[str, Any]) -> str:
    axes = [f"{key.split('.')[-1].replace('_', ' ')} {_listed(values)}" for key, values in _varied(block).items()]
    seeds = block.get("seeds")
    return ", ".join([*axes, f"{len(seeds) if isinstance(seeds, list) else seeds} seeds"])


def _listed(values: Any) -> str:
    return " ".join(map(_value, values)) if isinstance(values, list) else _value(values)


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{told(inner)} ({key})" for key, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else told(value)


def _at(config: Mapping[str, Any], key: str) -> Any:
    section, name = key.split(".")
    return _mapping(config.get(section)).get(name)


def _mapping(value: Any) -> Mapping[str, Any]:
    """What is none says nothing: stored configs may come from anywhere."""
    return value if isinstance(value, Mapping) else {}
