"""A YAML reader that, unlike yaml.safe_load, records the line of every value and reports every duplicate key.

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

Path = tuple[Hashable, ...]  # keys and list positions from the top, as in ("sweep", "grid", "network.width", 0)
NODE_LIMIT = 100_000  # nodes with aliases expanded: more than this is an attack, not a config
DEEPEST = 32  # nested mappings and lists
LARGEST_CONFIG = 2**22  # bytes
LONGEST_NUMBER = 100  # characters; Python itself rejects integers of more than 4300

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
    """PyYAML's parser with the scalars of YAML 1.2. Only its node graph is used: no tag constructs an object."""


_Loader.yaml_implicit_resolvers = {}  # replaces the inherited resolvers of YAML 1.1


class _Dumper(yaml.SafeDumper):
    """PyYAML's writer. It quotes text that the reader would take for a number or a boolean."""


_Dumper.yaml_implicit_resolvers = {}
for _tag, _pattern in _SCALARS:
    _Dumper.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), None)
    _Loader.add_implicit_resolver(_tag, re.compile(rf"^(?:{_pattern})$"), None)
for _class in (_Loader, _Dumper):
    _class.add_implicit_resolver("tag:yaml.org,2002:merge", re.compile(r"^<<$"), None)


class Document:
    """A parsed YAML text: its `value` (sequences as tuples), the `lines` of its nodes by path, and its `problems`."""

    def __init__(self, text: str, where: str):
        self.where = where
        self.lines: dict[Path, int] = {}
        self.problems: list[ConfigProblem] = []
        self._nodes = 0
        self.value: Any = self._read(text)

    def place(self, path: Path) -> str:
        """Return `file:line` of the node at this path, or of its nearest ancestor."""
        while path and path not in self.lines:
            path = path[:-1]
        return f"{self.where}:{self.lines.get(path, 1)}"

    def plain(self) -> Any:
        """Return the value with lists for sequences, as in JSON."""
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
            return self._report(node, path, "an alias must not refer to a value that contains it")
        if len(above) > DEEPEST:
            raise yaml.YAMLError("nested too deeply for a config")
        if self._nodes > NODE_LIMIT:
            raise yaml.YAMLError(f"more than {NODE_LIMIT} values once aliases are expanded")
        self.lines.setdefault(path, node.start_mark.line + 1)
        if node.tag.removeprefix(_TAG) not in _PLAIN:
            return self._report(node, path, f"the tag {node.tag} is not supported; write a plain value")
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
                self._report(key_node, path, "a key must be text")
            elif not key.isprintable():
                self._report(key_node, (*path, printable(key)), "control characters in a key")
            elif key in first_line:
                self._report(key_node, (*path, key), f"duplicate key; it is already on line {first_line[key]}")
            else:
                first_line[key] = line
                if key in merged:
                    self._forget((*path, key))  # these lines came from the merged mapping
                self.lines[(*path, key)] = line
                mapping[key] = self._value(value_node, (*path, key), above)
        return merged | mapping

    def _merge(self, node: yaml.Node, path: Path, above: tuple[yaml.Node, ...]) -> dict[str, Any]:
        sources = node.value if isinstance(node, yaml.SequenceNode) else [node]
        values = [self._value(source, path, above) for source in reversed(sources)]  # earlier ones win
        if not all(isinstance(value, dict) for value in values):
            self._report(node, path, "<< must be followed by a mapping or a list of mappings")
            return {}
        return {key: item for value in values for key, item in value.items()}

    def _forget(self, path: Path) -> None:
        for known in [p for p in self.lines if p[: len(path)] == path]:
            del self.lines[known]

    def _scalar(self, node: yaml.Node, path: Path) -> Any:
        kind, text = node.tag.removeprefix(_TAG), node.value
        if not text.isprintable():
            return self._report(node, path, f"control characters in {printable(text)[:60]!r}")
        if kind == "null":
            return None
        if kind == "bool":
            return text.lower() == "true"
        if kind in ("int", "float"):
            try:
                return _number(kind, text)
            except ValueError as error:
                return self._report(node, path, str(error))
        return text

    def _report(self, node: yaml.Node, path: Path, message: str) -> None:
        self.problems.append(ConfigProblem(f"{self.where}:{node.start_mark.line + 1}", dotted(path), message))


def dump(value: Any) -> str:
    """Return plain values as YAML text, which `Document` reads back unchanged."""
    return yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def read_value(text: str) -> Any:
    """Parse one value as the reader does in a file: '3', '[64, 128]', '{relative: 1}'. Raises ValueError with the
    reason where it cannot be parsed."""
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
        raise ValueError(f"a number of {len(text)} characters; at most {LONGEST_NUMBER}")
    if kind == "int":
        return int(text, 0) if text[:2] in ("0o", "0x") else int(text)
    word = text.lower().lstrip("+-")
    if word in (".inf", ".nan"):
        return math.nan if word == ".nan" else math.copysign(math.inf, -1 if text[0] == "-" else 1)
    return float(text)


def _syntax_problem(error: yaml.YAMLError | RecursionError, where: str) -> ConfigProblem:
    if isinstance(error, RecursionError):
        return ConfigProblem(f"{where}:1", "", "nested too deeply for a config")
    mark = getattr(error, "problem_mark", None)
    line = f"{where}:{mark.line + 1}" if mark else f"{where}:1"
    message = getattr(error, "problem", None) or str(error)
    if r"'\t'" in message:
        message = "a tab; indent with spaces"
    context = getattr(error, "context", None)
    return ConfigProblem(line, "", f"not YAML: {message}" + (f" ({context})" if context else ""))
