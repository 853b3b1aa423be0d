"""The YAML reader: values as YAML 1.2 has them, a place for everything, and no way to run code."""

import math

import pytest

from ntkrun.config.yaml import Document, read_value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000.0),
        (".5", 0.5),
        ("3.", 3.0),
        ("-7", -7),
        ("0x1F", 31),
        ("no", "no"),
        ("on", "on"),
        ("True", True),
        ("false", False),
        ("~", None),
        ("", None),
        ("'1'", "1"),
        ("2026-01-01", "2026-01-01"),
        ("1_000", "1_000"),
        ("[64, 1e2, {relative: 1}]", (64, 100.0, {"relative": 1})),
        (".inf", math.inf),
        ("-.inf", -math.inf),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = read_value(text)
    assert found == value
    assert type(found) is type(value)


def test_anchors_merges_and_comments() -> None:
    document = Document("a: &x {p: 1, q: 2}  # a comment\nb:\n  <<: *x\n  q: 3\nc: *x\nd: {<<: [{p: 5}, *x]}\n", "f")
    assert document.problems == []
    one = {"p": 1, "q": 2}
    assert document.value == {"a": one, "b": {"p": 1, "q": 3}, "c": one, "d": {"p": 5, "q": 2}}


def test_places() -> None:
    document = Document("a:\n  b: 1\n  c:\n    - 5\n    - 6\n", "file.yaml")
    assert document.place(("a", "b")) == "file.yaml:2"
    assert document.place(("a", "c", 1)) == "file.yaml:5"
    assert document.place(("a", "missing")) == "file.yaml:1"


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("a: 1\nb: 2\na: 3\n", 3, "duplicate key; it is already on line 1"),
        ("a:\n\tb: 1\n", 2, "a tab; indent with spaces"),
        ("a: [1,\n", 2, "not YAML"),
        ("a: 1\n---\nb: 2\n", 2, "another document"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("a: &s [1, *s]\n", 1, "a value that contains it"),
        ("a: !!python/object/apply:os.system [ls]\n", 1, "is not supported"),
        ("a: !!python/name:os.system x\n", 1, "is not supported"),
        ("? [1, 2]\n: 3\n", 1, "a key must be text"),
        ("[" * 5000, 1, "nested too deeply"),
        ("a: " + "9" * 5000, 1, "a number of 5000 characters"),
        ("a: !!int x\n", 1, "invalid literal"),
    ],
)
def test_what_is_no_config_is_a_problem_with_its_line(text: str, line: int, what: str) -> None:
    problems = Document(text, "f.yaml").problems
    assert len(problems) == 1
    assert problems[0].where == f"f.yaml:{line}"
    assert what in problems[0].what


def test_an_alias_bomb_is_refused() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{k}: &a{k} [{','.join([f'*a{k - 1}'] * 10)}]" for k in range(1, 9)]
    (problem,) = Document("\n".join(lines), "f").problems
    assert "more than 100000 values" in problem.what
