"""A claim as a config lists it: a name, or a mapping with margins of its own and the expected verdict."""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    PlainSerializer,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from ntkrun.errors import UserError
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.evidence.estimates.intervals import Interval
from ntkrun.evidence.records import interval_of


class ClaimEntry(BaseModel):
    """A claim to judge, as in `{name: frozen-kernel, exponent: [-1.2, -0.8], expect: refuted}`. Every key besides
    `name` and `expect` is one of the claim's margins: an interval whose ends may be null (open). A name alone stands
    for an entry with the claim's own margins, which is expected to be supported."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str
    expect: Literal["supported", "refuted"] = "supported"

    @property
    def thresholds(self) -> dict[str, Interval]:
        """The margins that the entry sets, by their keys."""
        return {key: interval_of(ends) for key, ends in (self.model_extra or {}).items()}

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return _known_claim(name)

    @model_validator(mode="after")
    def _margins(self) -> "ClaimEntry":
        for key, value in (self.model_extra or {}).items():
            margins = CLAIMS[self.name].keys
            if key not in margins:
                raise ValueError(f"{key}: {self.name} has no such margin; its margins are {', '.join(margins)}")
            if not _is_margin(value):
                raise ValueError(
                    f"{key}: must be two numbers, the smaller first, as in [-1.2, -0.8]; use null for an open end"
                )
        return self


def _known_claim(name: str) -> str:
    """Return the name if a claim has it. Raises ValueError with the closest known name otherwise."""
    if name not in CLAIMS:
        near = difflib.get_close_matches(name, CLAIMS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`ntkrun list claims` lists the known ones"
        raise ValueError(f"unknown claim {name!r}; {hint}")
    return name


def _is_margin(value: Any) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    if any(isinstance(end, bool) or not isinstance(end, int | float | None) for end in value):
        return False
    low, high = interval_of(value)
    return bool(low < high)


def _form(value: Any) -> str:
    return "<mapping>" if isinstance(value, Mapping | BaseModel) else "<text>"


def _named(name: str) -> ClaimEntry:
    return ClaimEntry(name=name)


def _written(entry: ClaimEntry) -> str | dict[str, Any]:
    """Return the entry as a config has it: a name alone where the entry sets nothing else."""
    return entry.model_dump() if entry.model_extra or entry.expect != "supported" else entry.name


def _once(entries: tuple[ClaimEntry, ...]) -> tuple[ClaimEntry, ...]:
    """Return the entries. Raises ValueError if a claim is listed twice."""
    names = [entry.name for entry in entries]
    repeated = [name for k, name in enumerate(names) if name in names[:k]]
    if repeated:
        raise ValueError(f"{repeated[0]} is listed twice; list each claim once")
    return entries


_Name = Annotated[str, AfterValidator(_known_claim), AfterValidator(_named), Tag("<text>")]
_Entry = Annotated[
    _Name | Annotated[ClaimEntry, Tag("<mapping>")],
    Discriminator(_form),
    PlainSerializer(_written, str | dict[str, Any]),
]
Claims = Annotated[tuple[_Entry, ...], AfterValidator(_once)]


class _Stored(BaseModel):
    """The keys of a stored config that concern judging. The other keys were checked before anything ran."""

    model_config = ConfigDict(extra="ignore", strict=True)

    claims: Claims = ()
    expect: Literal["diverged"] | None = None


def stored_claims(config: Mapping[str, Any], where: Path) -> tuple[tuple[ClaimEntry, ...], str | None]:
    """Return the claims of a sweep's stored config, and its `expect`. Raises UserError for values that no config can
    have: the file may come from anywhere."""
    try:
        stored = _Stored.model_validate_json(json.dumps(config))
    except ValueError as error:
        reason = str(error).splitlines()[0] if not isinstance(error, ValidationError) else error.errors()[0]["msg"]
        raise UserError(f"{where}: claims cannot be read ({reason}); run the sweep again to write it anew") from None
    return stored.claims, stored.expect  # type: ignore[return-value]
