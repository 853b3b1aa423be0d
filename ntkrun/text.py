"""Text that is safe to show: it cannot control a terminal, every character can be printed, and JSON is strict."""

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
    """Replace every character that is not printable, including line ends, by its escape: `\\x1b`, `\\n`, `\\u202e`."""
    if text.isprintable():  # the usual case, fast enough for a million ids
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def printable_lines(text: str) -> str:
    """Apply `printable` to each line and keep the line ends."""
    return "\n".join(map(printable, text.split("\n")))


# ---------------------------------------------------------------- spelling


HANDLER = "ntkrun.spelled"  # name of the error handler, for `errors=`
# Signs that Unicode's names and decompositions do not cover. An ellipsis becomes one character: it ends cut columns.
SIGNS = {
    **{"·": "*", "×": "x", "±": "+-", "∓": "-+", "−": "-", "–": "-", "—": "-", "⁄": "/", "√": "sqrt", "∞": "inf"},
    **{"≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "←": "<-", "→": "->", "∘": "o", "‖": "||", "∂": "d", "∇": "grad"},
    **{"∫": "int", "“": '"', "”": '"', "‘": "'", "’": "'", "…": ".", "•": "*", "✓": "ok", "✗": "x"},
}
RAISED, LOWERED = "<super>", "<sub>"


def spell_out_streams() -> None:
    """Make standard output and standard error spell out characters that their encoding lacks, so that printing never
    fails."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=HANDLER)


def spelled_out(text: str, encoding: str | None) -> str:
    """Return the text as a stream of this encoding shows it. Without an encoding the text is unchanged."""
    if encoding is None or text.isascii():
        return text
    return text.encode(encoding, HANDLER).decode(encoding)


def _handle(error: UnicodeError) -> tuple[str, int]:
    """Replace characters that cannot be encoded. Called by codecs."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = f" {error.object} "
    triples = [text[k : k + 3] for k in range(error.start, error.end)]
    return "".join(_spelling(*triple) for triple in triples), error.end


def _spelling(before: str, character: str, after: str) -> str:
    """Return ASCII text for a character between two others. The name of a letter is separated by spaces from adjacent
    words. A superscript or subscript number of several digits gets a single sign."""
    if name := _name(character):
        space_before, space_after = bool(_name(before)) or _in_a_word(before), _in_a_word(after) and not _name(after)
        return " " * space_before + name + " " * space_after
    sign = {RAISED: "^", LOWERED: "_"}.get(_script(character), "")
    return sign * (_script(before) != _script(character)) + _plain(character)


def _name(character: str) -> str:
    """Return 'sigma' for σ, 'Sigma' for Σ, 'sqrt' for √, and '' for a character that is neither a Greek letter nor a
    function."""
    spelling = SIGNS.get(character) or ""
    if spelling:
        return spelling if spelling.isalpha() and len(spelling) > 1 else ""
    kind, _, letter = unicodedata.name(unicodedata.normalize("NFKD", character)[0], "").partition(" LETTER ")
    if not kind.startswith("GREEK") or _script(character):
        return ""
    word = letter.partition(" WITH ")[0].split()[-1].replace("LAMDA", "LAMBDA").lower()
    return word.capitalize() if "CAPITAL" in kind else word


def _plain(character: str) -> str:
    """Return the character without accents if that is ASCII, else its escape."""
    parts = [part for part in unicodedata.normalize("NFKD", character) if not unicodedata.combining(part)]
    spelling = SIGNS.get(character) or "".join(SIGNS.get(part, part) for part in parts)
    return spelling if spelling.isascii() else character.encode("unicode_escape").decode("ascii")


def _script(character: str) -> str:
    """Return RAISED for a superscript, LOWERED for a subscript, '' for any other character."""
    kind = unicodedata.decomposition(character).partition(" ")[0]
    return kind if kind in (RAISED, LOWERED) else ""


def _in_a_word(character: str) -> bool:
    return unicodedata.category(character) in ("Lu", "Ll", "Nd")


codecs.register_error(HANDLER, _handle)


# ---------------------------------------------------------------- JSON


def json_text(document: Any, encoding: str | None = "utf-8") -> str:
    """Return strict JSON. Numbers that are not finite become null. Text that could control a terminal, or that the
    encoding lacks, is escaped."""
    text = json.dumps(_with_null(document), indent=1, ensure_ascii=False, allow_nan=False)
    safe = text.replace("\n", "").isprintable() and spelled_out(text, encoding) == text
    return text if safe else json.dumps(_with_null(document), indent=1, allow_nan=False)


def _with_null(value: Any) -> Any:
    """Return the document with null for every number that is not finite."""
    if isinstance(value, dict):
        return {str(key): _with_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
