"""A commented config to start from, generated from the config sections: the defaults and the meaning of every key."""

import json
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel

from ntkrun.config.architectures import Dense
from ntkrun.config.reader import parse_config
from ntkrun.config.schema import Config, Probes, SweepBlock, Training
from ntkrun.config.yaml import read_value
from ntkrun.data.labelled import Digits
from ntkrun.errors import UserError

# Keys without useful defaults: data, a sweep over widths, and claims that this sweep can judge in about a minute.
START: Mapping[str, Any] = {
    "data": {"name": "digits"},
    "sweep": {"grid": {"network.width": [64, 128, 256, 512]}, "seeds": 5},
    "training": {"steps": 200},
    "claims": ["frozen-kernel", "lazy-weights", "global-minimum"],
}
SECTIONS: Mapping[str, type[BaseModel]] = {
    "network": Dense,
    "data": Digits,
    "training": Training,
    "probes": Probes,
    "sweep": SweepBlock,
}


def commented(name: str) -> str:
    """Return a valid config of this name with every key, its value and its meaning. Raises UserError for an invalid
    name."""
    resolved = _resolved(name)
    lines = [*_comment(f"A sweep for ntkrun: `ntkrun sweep {name}.yaml` runs it."), ""]
    for key, value in resolved.items():
        lines += [*(_section(key, value) if key in SECTIONS else _entry(Config, key, value)), ""]
    return "\n".join(lines[:-1]) + "\n"


def _resolved(name: str) -> Mapping[str, Any]:
    """Return the config's values with all defaults filled in. Raises UserError for an invalid name."""
    try:
        return parse_config(json.dumps({"name": name, **START})).resolved
    except UserError:
        raise UserError(
            f"{name}: not a valid name; use at most 100 letters, digits, `.`, `_` and `-`, starting with a letter or "
            "digit"
        ) from None


def _section(key: str, values: Mapping[str, Any]) -> Iterator[str]:
    yield from _comment(" ".join((SECTIONS[key].__doc__ or "").split()))
    yield f"{key}:"
    for field in sorted(values, key=lambda field: field != "name"):
        yield from _entry(SECTIONS[key], field, values[field], "  ")


def _entry(section: type[BaseModel], key: str, value: Any, indent: str = "") -> Iterator[str]:
    """Yield the lines of one key: its meaning as a comment, then the key and its value on one line."""
    yield from _comment(meaning(section, key), indent)
    yield f"{indent}{key}: {_on_one_line(value)}"


def _on_one_line(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1000)
    text = text.removesuffix("...\n").strip()
    # A name such as 1e3 is text for PyYAML but a number for our reader.
    return json.dumps(value) if isinstance(value, str) and read_value(text) != value else text


def _comment(text: str, indent: str = "") -> list[str]:
    return textwrap.wrap(
        text, 100, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ", break_on_hyphens=False
    )


def meaning(section: type[BaseModel], key: str) -> str:
    """Return the meaning of a key of a section on one line: the docstring of its field."""
    return " ".join((section.model_fields[key].description or "").split())
