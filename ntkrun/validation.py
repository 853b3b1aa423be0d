"""Config sections that are frozen and accept no unknown keys, and sentences for their validation errors."""

import difflib
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

TAGS = ("name", "architecture")  # the keys that tell the kinds of a section apart


class Strict(BaseModel):
    """A config section. Unknown keys and wrong types are errors, and values never change after they are read.

    Types are strict: text is not a number, a number is not text, and True is not 1. An integer is accepted where a
    float is expected. The YAML reader turns lists into tuples, so list fields are declared as tuples. The string below
    a field is its documentation in the JSON schema, the reference and the configs of `ntkrun new`.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    def identity(self) -> dict[str, Any]:
        """Return the values of this section that a run's numbers depend on: those that differ from the defaults.

        Defaults are left out so that a later version can add a key without changing the identity of finished runs.
        """
        return self.model_dump(exclude_defaults=True)


def form(value: Any) -> str:
    """Return the tag of the form in which a value is written, so that errors are about that form only."""
    if isinstance(value, dict | Strict):
        return "<mapping>"
    return "<list>" if isinstance(value, tuple | list) else "<number>"


# ---------------------------------------------------------------- errors


_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    tuple: "a list",
    list: "a list",
    dict: "a mapping",
    type(None): "nothing",
}

_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "string_type": "text",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "int_from_float": "a whole number",
}

_BOUNDS = {
    "greater_than_equal": "must be at least {ge:g}",
    "greater_than": "must be greater than {gt:g}",
    "less_than_equal": "must be at most {le:g}",
    "less_than": "must be less than {lt:g}",
    "finite_number": "must be a finite number",
}


def sentence(error: Mapping[str, Any], model: type[BaseModel], raw: Mapping[str, Any]) -> str:
    """Return a sentence for a pydantic error that says what is wrong and what to do. The error's `loc` is a path into
    `raw`."""
    kind, value, context = error["type"], error.get("input"), error.get("ctx", {})
    if kind == "extra_forbidden":
        return _unknown(str(error["loc"][-1]), *_models_at(model, error["loc"][:-1], raw))
    if kind == "missing":
        return "missing; give it a value"
    if kind in ("too_short", "string_too_short"):
        return "empty; give at least one value" if kind == "too_short" else "empty; give it a value"
    if kind in _TYPES:
        return f"must be {_TYPES[kind]}, not {_shown(value)}"
    if kind in _BOUNDS:
        return f"{_BOUNDS[kind].format(**context)}, not {_shown(value)}"
    if kind in ("literal_error", "union_tag_invalid"):
        return _choice(error)
    if kind == "union_tag_not_found":
        return "needs `name`, as in `name: digits`; see `ntkrun list data`"
    if kind == "string_pattern_mismatch":
        return f"{_shown(value)} must be at most 100 letters, digits, '.', '_' and '-', starting with a letter or digit"
    if kind == "value_error":
        return str(context["error"])
    return f"{error['msg']} (got {_shown(value)})"


def _choice(error: Mapping[str, Any]) -> str:
    value, context = error["input"], error["ctx"]
    if error["type"] == "union_tag_invalid":
        value, expected = context["tag"], context["expected_tags"]
    else:
        expected = context["expected"]
    known = [part.strip().strip("'") for part in expected.replace(" or ", ", ").split(",")]
    near = _suggestion(str(value), known).partition("; known")[0]
    return f"{_shown(value)} is not one of {', '.join(known)}{near}"


def _suggestion(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else (f"; known: {', '.join(known)}" if known else "")


def _unknown(key: str, meant: list[type[BaseModel]], every: list[type[BaseModel]]) -> str:
    """Return a sentence for a key that the section which is meant lacks, and perhaps every section of its place."""
    owners = [_tag(m) for m in every if key in m.model_fields]
    if owners:
        return f"belongs to {' or '.join(map(_written, owners))}, not to {_written(_tag(meant[0]))}"
    return "unknown key" + _suggestion(key, dict.fromkeys(name for m in meant for name in m.model_fields))


def _written(tag: tuple[str, str]) -> str:
    return f"`{tag[0]}: {tag[1]}`"


def _tag(model: type[BaseModel]) -> tuple[str, str]:
    """Return the key and the word that tell a section from the others of its place; empty where it is the only one."""
    for key in TAGS:
        words = typing.get_args(model.model_fields[key].annotation) if key in model.model_fields else ()
        if words:
            return key, words[0]
    return "", ""


def _is_meant(model: type[BaseModel], raw: Mapping[str, Any]) -> bool:
    key, word = _tag(model)
    return key != "" and raw.get(key, model.model_fields[key].default) == word


def _models_at(
    model: type[BaseModel], path: tuple[Any, ...], raw: Any
) -> tuple[list[type[BaseModel]], list[type[BaseModel]]]:
    """Return the sections that are meant at this path, and all that may stand there."""
    models = every = [model]
    for part in path:
        is_entry = isinstance(raw, tuple) and part in range(len(raw))
        raw = raw.get(part) if isinstance(raw, dict) else raw[part] if is_entry else None
        if not isinstance(part, int):
            fields = [m.model_fields[part] for m in models if part in m.model_fields]
            models = every = [inner for field in fields for inner in models_in(field.annotation)]
        models = [m for m in every if isinstance(raw, dict) and _is_meant(m, raw)] or models
    return models, every


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Return the sections in a type, in the order in which it names them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for part in typing.get_args(annotation) for model in models_in(part)]


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    if isinstance(value, str | int | float):
        text = repr(value) if not isinstance(value, bool) else str(value).lower()
        return text if len(text) <= 60 else text[:57] + "..."
    return _NAMES.get(type(value), type(value).__name__)
