"""Values that no one expects, and trees of plain values changed at random places."""

import random
from typing import Any

ODD: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 2, 3, 7, 10**9, 2**31, 2**63, 10**30, 10**400),
    *(0.5, -0.5, 1e308, -1e308, 1e-320, 1e16, float("nan"), float("inf"), float("-inf")),
    *(
        "",
        "x",
        "relu",
        "full",
        "first",
        "digits",
        "../../x",
        "/etc/passwd",
        "/dev/zero",
        "a\0b",
        "\x1b[31mred",
        "\u202e",
    ),
    *("$\\frac{", "[bold]", "é" * 300, "1e3", "no", "null", "{{ 7 * 7 }}", "!!python/object/apply:os.system [id]"),
    *([], {}, [0], [1, 2], [[]], ["x"], {"relative": 1.0}, {"centred": 2}, {"log_spaced": 3}, {"x": {"y": []}}),
    *({"component": 1, "size": 2.0}, {"name": "frozen-kernel", "expect": "refuted"}, ["frozen-kernel"], [-1.0, None]),
)


def changed(tree: Any, draw: random.Random) -> Any:
    """A copy of the tree with one of its places changed."""
    if not isinstance(tree, dict | list) or not tree or draw.random() < 0.15:
        return _other(tree, draw)
    place = draw.choice(list(tree)) if isinstance(tree, dict) else draw.randrange(len(tree))
    copy = dict(tree) if isinstance(tree, dict) else list(tree)
    how = draw.random()
    if how < 0.12:
        del copy[place]
    elif how < 0.24 and isinstance(copy, dict):
        copy[draw.choice(["x", str(place) + "s", "name", "seed", "", "\x1b[2J", str(place).upper()])] = copy.pop(place)
    elif how < 0.3:
        copy = [copy] if isinstance(copy, dict) else {"x": copy}
    else:
        copy[place] = changed(copy[place], draw)
    return copy


def _other(value: Any, draw: random.Random) -> Any:
    if isinstance(value, int | float) and draw.random() < 0.3:
        return draw.choice([-value, value * 10, value // 3, value + 1, str(value), [value]])
    return draw.choice(ODD)


def damaged(raw: bytes, draw: random.Random, others: list[bytes]) -> bytes:
    """The bytes of a file after an accident."""
    how = draw.randrange(7)
    at = draw.randrange(len(raw) + 1)
    if how == 0:
        return raw[:at]
    if how == 1:
        return draw.choice([b"", b"\0" * len(raw), b"PAR1", b"PK\3\4", b"{", b"a: [", draw.randbytes(100)])
    if how == 2:
        return draw.choice(others)
    if how == 3:
        return raw[:at] + draw.randbytes(draw.randrange(1, 64)) + raw[at:]
    found = bytearray(raw)
    for _ in range(draw.randrange(1, 8) if found else 0):
        place = draw.randrange(len(found))
        found[place] = found[place] ^ (1 << draw.randrange(8)) if how < 6 else draw.randrange(256)
    return bytes(found)
