"""The base of every config section: closed, frozen, and strict about types."""

from typing import Any

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """A config section. Unknown keys and wrong types are errors; values never change after they are read.

    Strict: text is no number, a number is no text, True is no 1; an integer is accepted where a float belongs.
    Lists arrive as tuples (the YAML reader makes them so), hence every field that is a list is declared as a tuple.
    The string below a field says what it means, in the schema, the reference and the configs of `ntkrun new`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """What of this section a run's numbers depend on: the values that differ from the defaults.

        Leaving out defaults lets a later version add a key without giving every finished run a new identity.
        """
        return self.model_dump(exclude_defaults=True)
