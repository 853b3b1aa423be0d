"""The claims that a config lists: names, or names with their own margins and the expected verdict."""

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
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from ntkrun.errors import UserError
from ntkrun.evidence.claims.table import CLAIMS


def known_claim(name: str) -> str:
    """Return the name if a claim has it. Raises ValueError with the closest known name otherwise."""
    if name not in CLAIMS:
        near = difflib.get_close_matches(name, CLAIMS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "`ntkrun list claims` lists the known ones"
        raise ValueError(f"unknown claim {name!r}; {hint}")
    return name


class ClaimEntry(BaseModel):
    """A claim as a mapping, as in `{name: frozen-kernel, exponent: [-1.2, -0.8], expect: refuted}`. Every key besides
    `name` and `expect` is one of the claim's margins: an interval whose ends may be null (open)."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)

    name: str
    expect: Literal["supported", "refuted"] = "supported"

    @field_validator("name")
    @classmethod
    def _known(cls, name: str) -> str:
        return known_claim(name)

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


def _is_margin(value: Any) -> bool:
    if not isinstance(value, tuple | list) or len(value) != 2:
        return False
    if any(isinstance(end, bool) or not isinstance(end, int | float | None) for end in value):
        return False
    low, high = (-float("inf") if value[0] is None else value[0], float("inf") if value[1] is None else value[1])
    return bool(low < high)


def _form(value: Any) -> str:
    return "<mapping>" if isinstance(value, Mapping | BaseModel) else "<text>"


Named = Annotated[str, AfterValidator(known_claim), Tag("<text>")]
Claims = tuple[Annotated[Named | Annotated[ClaimEntry, Tag("<mapping>")], Discriminator(_form)], ...]


def check_claims(claims: Claims) -> Claims:
    """Return the claims. Raises ValueError if a claim is listed twice."""
    names = [entry if isinstance(entry, str) else entry.name for entry in claims]
    repeated = [name for k, name in enumerate(names) if name in names[:k]]
    if repeated:
        raise ValueError(f"{repeated[0]} is listed twice; list each claim once")
    return claims


class _Stored(BaseModel):
    """The keys of a stored config that concern claims. The other keys were checked before anything ran."""

    model_config = ConfigDict(extra="ignore", strict=True)

    claims: Claims = ()
    expect: Literal["diverged"] | None = None


def stored_claims(config: Mapping[str, Any], where: Path) -> tuple[list[str | dict[str, Any]], str | None]:
    """Return the claims of a sweep's stored config, as they were written in it, and its `expect`. Raises UserError for
    values that no config can have: the file may come from anywhere."""
    try:
        stored = _Stored.model_validate_json(json.dumps(config))
        check_claims(stored.claims)
    except ValueError as error:
        reason = str(error).splitlines()[0] if not isinstance(error, ValidationError) else error.errors()[0]["msg"]
        raise UserError(f"{where}: claims cannot be read ({reason}); run the sweep again to write it anew") from None
    entries = [entry if isinstance(entry, str) else entry.model_dump() for entry in stored.claims]
    return entries, stored.expect
