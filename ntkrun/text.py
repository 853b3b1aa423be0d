"""Text made safe to show: nothing in it drives a terminal, nothing fails to print, and JSON is strict."""

import codecs
import io
import json
import math
import sys
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def printable(text: str) -> str:
    """The text with each character that is not printable, line ends too, as its escape: `\\x1b`, `\\n`, `\\u202e`."""
    if text.isprintable():  # as a million ids are
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """The same, line by line."""
    return "\n".join(map(printable, text.split("\n")))


# ---------------------------------------------------------------- spelling


HANDLER = "ntkrun.spelled"  # the name of the error handler, for `errors=`
# What Unicode's names and decompositions do not give. An ellipsis, a column cut short, keeps its width.
SIGNS = {
    **{"·": "*", "×": "x", "±": "+-", "∓": "-+", "−": "-", "–": "-", "—": "-", "⁄": "/", "√": "sqrt", "∞": "inf"},
    **{"≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "←": "<-", "→": "->", "∘": "o", "‖": "||", "∂": "d", "∇": "grad"},
    **{"∫": "int", "“": '"', "”": '"', "‘": "'", "’": "'", "…": ".", "•": "*", "✓": "ok", "✗": "x"},
}
RAISED, LOWERED = "<super>", "<sub>"


def spell_out_streams() -> None:
    """Standard output and standard error spell out what their encoding lacks: from here on no line fails that is
    printed."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def spelled_out(text: str, encoding: str | None) -> str:
    """The text as a stream of this encoding shows it; all of it on one that has none."""
    if encoding is None or text.isascii():
        return text
    return text.encode(encoding, HANDLER).decode(encoding)


def _handle(error: UnicodeError) -> tuple[str, int]:
    """Called by codecs with what cannot be encoded."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = f" {error.object} "
    around = [text[k : k + 3] for k in range(error.start, error.end)]
    return "".join(_in_place(*each) for each in around), error.end


def _in_place(before: str, character: str, after: str) -> str:
    """ASCII for a character: names of letters stand apart from the words beside them, a raised or lowered number of
    several digits has one sign before it."""
    if name := _name(character):
        behind, ahead = bool(_name(before)) or _in_a_word(before), _in_a_word(after) and not _name(after)
        return " " * behind + name + " " * ahead
    sign = {RAISED: "^", LOWERED: "_"}.get(_shift(character), "")
    return sign * (_shift(before) != _shift(character)) + _plain(character)


def _name(character: str) -> str:
    """'sigma' for σ, 'Sigma' for Σ, 'sqrt' for √; '' for what is no Greek letter and no function."""
    found = SIGNS.get(character) or ""
    if found:
        return found if found.isalpha() and len(found) > 1 else ""
    kind, _, letter = unicodedata.name(unicodedata.normalize("NFKD", character)[0], "").partition(" LETTER ")
    if not kind.startswith("GREEK") or _shift(character):
        return ""
    word = letter.partition(" WITH ")[0].split()[-1].replace("LAMDA", "LAMBDA").lower()
    return word.capitalize() if "CAPITAL" in kind else word


def _plain(character: str) -> str:
    """What is left of it in ASCII without its accents; else its escape."""
    parts = [part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)]
    found = SIGNS.get(character) or "".join(SIGNS.get(part, part) for part in parts)
    return found if found.isascii() else character.encode("unicode_escape").decode("ascii")


def _shift(character: str) -> str:
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return kind if kind in (RAISED, LOWERED) else ""


def _in_a_word(character: str) -> bool:
    return unicodedata.category(character) in ("Lu", "Ll", "Nd")


codecs.register_error(HANDLER, _handle)


# ---------------------------------------------------------------- closing


def json_text(document: Any, encoding: str | None = "utf-8") -> str:
    """Strict JSON: what is not a finite number is null; text that could drive a terminal, or that the encoding lacks,
    is escaped."""
    text = json.dumps(_finite_numbers(document), indent=1, ensure_ascii=False, allow_nan=False)
    shown = text.replace("\n", "").isprintable() and spelled_out(text, encoding) == text
    return text if shown else json.dumps(_finite_numbers(document), indent=1, allow_nan=False)


def _finite_numbers(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _finite_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite_numbers(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
