"""YAML with places: plain values, the line of each, and every duplicate key, none of which yaml.safe_load gives.

Scalars follow YAML 1.2 (`1e-3` is a number, `no` is text). Anchors, aliases and merge keys work. No tag constructs an
object.
"""

import math
import re
from collections.abc import Hashable
from typing import Any

import yaml

from ntkrun.errors import ConfigProblem
from ntkrun.text import printable

Path = tuple[Hashable, ...]  # keys and list positions from the top, as ("sweep", "grid", "network.width", 0)
NODE_LIMIT = 100_000  # aliases that multiply beyond this are a bomb, not a config
DEEPEST = 32  # mappings and lists within each other
LARGEST_CONFIG = 2**22  # bytes
LONGEST_NUMBER = 100  # characters; Python itself refuses integers of more than 4300

_TAG = "tag:yaml.org,2002:"
_PLAIN = ("map", "seq", "str", "null", "bool", "int", "float")
_SCALARS = (
    ("tag:yaml.org,2002:null", r"~|null|Null|NULL|"),
    ("tag:yaml.org,2002:bool", r"true|True|TRUE|false|False|FALSE"),
    ("tag:yaml.org,2002:int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    (
        "tag:yaml.org,2002:float",
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
    ),
)


class _Loader(yaml.SafeLoader):
    """PyYAML's parser with the scalars of YAML 1.2. Only its node graph is used; nothing is constructed by tag."""


_Loader.yaml_implicit_resolvers = {}  # its own, not YAML 1.1's


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer, quoting whatever text the reader would take for a number or a truth value."""


_Dumper.yaml_implicit_resolvers = {}
for _tag, _pattern in _SCALARS:
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), None)
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), None)
for _each in (_Loader, _Dumper):
    _each.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), None)


class Document:
    """A YAML text read: its `value` (sequences as tuples), the `lines` of its nodes by path, and the `problems` met."""

    def __init__(self, text: str, where: str):
        self.where = where
        self.lines: dict[Path, int] = {}
        self.problems: list[ConfigProblem] = []
        self._nodes = 0
        self.value: Any = self._read(text)

    def place(self, path: Path) -> str:
        """`file:line` of the node at this path, or of the nearest one above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.where}:{self.lines.get(path, 1)}"

    def plain(self) -> Any:
        """The value with lists for sequences, as JSON would have it."""
        return _plain(self.value)

    def _read(self, text: str) -> Any:
        try:
            root = yaml.compose(text, Loader=_Loader)
            return {} if root is None else self._value(root, (), ())
        except (yaml.YAMLError, RecursionError) as error:
            self.problems.append(_syntax_problem(error, self.where))
            return None

    def _value(self, node: yaml.Node, path: Path, above: tuple[yaml.Node, ...]) -> Any:
        self._nodes += 1
        if node in above:
            return self._complain(node, path, "an alias may not stand inside its own anchor")
        if len(above) > DEEPEST:
            raise yaml.YAMLError("nested too deeply to be a config")
        if self._nodes > NODE_LIMIT:
            raise yaml.YAMLError(f"more than {NODE_LIMIT} values, aliases expanded")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag.removeprefix(_TAG) not in _PLAIN:
            return self._complain(node, path, f"the tag {node.tag} is not supported; write a plain value")
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path, (*above, node))
        if isinstance(node, yaml.SequenceNode):
            return tuple(self._value(item, (*path, k), (*above, node)) for k, item in enumerate(node.value))
        return self._scalar(node, path)

    def _mapping(self, node: yaml.MappingNode, path: Path, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        first_line: dict[str, int] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged = self._merge(value_node, path, above) | merged
                continue
            key = key_node.value if isinstance(key_node, yaml.ScalarNode) else None
            if key is None:
                self._complain(key_node, path, "a key must be text")
            elif not key.isprintable():
                self._complain(key_node, (*path, printable(key)), "control characters in a key")
            elif key in first_line:
                self._complain(key_node, (*path, key), f"duplicate key; it stands on line {first_line[key]} already")
            else:
                first_line[key] = line
                if key in merged:
                    self._forget((*path, key))  # the lines that the merged mapping had given
                self.lines[(*path, key)] = line
                mapping[key] = self._value(value_node, (*path, key), above)
        return merged | mapping

    def _merge(self, node: yaml.Node, path: Path, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = [self._value(source, path, above) for source in reversed(sources)]  # earlier ones win
        if not all(isinstance(value, dict) for value in values):
            self._complain(node, path, "<< takes a mapping or a list of mappings")
            return {}
        return {key: item for value in values for key, item in value.items()}

    def _forget(self, path: Path) -> None:
        for known in [p for p in self.lines if p[: len(path)] == path]:
            del self.lines[known]

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if not text.isprintable():
            return self._complain(node, path, f"control characters in {printable(text)[:60]!r}")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float"):
            try:
                return _number(kind, text)
            except ValueError as error:
                return self._complain(node, path, str(error))
        return text

    def _complain(self, node: yaml.Node, path: Path, what: str) -> None:
        self.problems.append(ConfigProblem(f"{self.where}:{node.start_mark.line + 1}", dotted(path), what))


def dump(value: Any) -> str:
    """Plain values as YAML that `Document` reads back as they are."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_value(text: str) -> Any:
    """One value as the reader would take it from a file: '3', '[64, 128]', '{relative: 1}'. Raises ValueError with the
    reason."""
    document = Document(text, "")
    if document.problems:
        raise ValueError(document.problems[0].what)
    return None if not text.strip() else document.value


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, tuple) else value


def dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _number(kind: str, text: str) -> int | float:
    if len(text) > LONGEST_NUMBER:
        raise ValueError(f"a number of {len(text)} characters")
    if kind == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    word = text.lower().lstrip("+-")
    if word in (".inf", ".nan"):
        return math.nan if word == ".nan" else math.copysign(math.inf, -1 if text[0] == "-" else 1)
    return float(text)


def _syntax_problem(error: yaml.YAMLError | RecursionError, where: str) -> ConfigProblem:
    if isinstance(error, RecursionError):
        return ConfigProblem(f"{where}:1", "", "nested too deeply to be a config")
    mark = getattr(error, "problem_mark", None)
    line = f"{where}:{mark.line + 1}" if mark else f"{where}:1"
    what = getattr(error, "problem", None) or str(error)
    if r"'\t'" in what:
        what = "a tab; YAML is indented with spaces"
    context = getattr(error, "context", None)
    return ConfigProblem(line, "", f"not YAML: {what}" + (f" ({context})" if context else ""))
