"""The resolved config of a sweep: its values with all defaults filled in, as they are stored and recognised later."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ntkrun.config.schema import Config, Point, SweepBlock
from ntkrun.validation import TAGS, models_in

DENSE = ("architecture", "dense")


def resolved(config: Config, written: Mapping[str, Any], blocks: Sequence[SweepBlock]) -> dict[str, Any]:
    """Return the config as plain values with all defaults filled in and the sections in their usual order.

    If the sweep varies the kind of a section, only the `written` keys and those that all kinds share are in it: other
    kinds would refuse the rest when the resolved config is read again.
    """
    dumped, sections = config.model_dump(mode="json"), tuple(Point.model_fields)
    for section in sections:
        if any({f"{section}.{tag}" for tag in TAGS} & {*block.grid, *block.zip} for block in blocks):
            kept = {*TAGS, *_shared_keys(section), *(written.get(section) or {})}
            dumped[section] = {key: value for key, value in dumped[section].items() if key in kept}
    return {key: dumped[key] for key in ("name", *sections, "sweep", "claims", "expect")}


def _shared_keys(section: str) -> set[str]:
    """Return the keys of a section that all its kinds have, with the same type and the same default."""
    kinds = [kind.model_fields for kind in models_in(Point.model_fields[section].annotation)]

    def same(key: str) -> bool:
        return all(
            key in kind
            and repr(kind[key].annotation) == repr(kinds[0][key].annotation)
            and repr(kind[key].default) == repr(kinds[0][key].default)
            for kind in kinds
        )

    return {key for key in kinds[0] if same(key)}


def hash_of(resolved: Mapping[str, Any]) -> str:
    """Return 16 hexadecimal digits for a resolved config, whatever the order of its keys. The words `architecture:
    dense` do not count, as configs had none before there were other architectures."""
    network = {key: value for key, value in resolved["network"].items() if (key, value) != DENSE}
    content = json.dumps({**resolved, "network": network}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
