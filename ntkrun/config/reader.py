"""YAML -> one frozen Sweep, or every error of it at once.

Each grid point is validated as a whole config of its own, with its swept values in place: what a grid holds is checked
as strictly as what stands in the file, and an error points at the line of the value that made it.
"""

import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ntkrun.config.schema import MOST_POINTS, MOST_ROWS, MOST_RUNS, Config, LogSpaced, Point, SweepBlock
from ntkrun.config.yaml import LARGEST_CONFIG, Document, dotted, read_value
from ntkrun.data import DataConfig, DataSet
from ntkrun.errors import ConfigError, ConfigProblem, FieldError, UserError
from ntkrun.files.reading import Unreadable, read_text
from ntkrun.text import printable
from ntkrun.validation import sentence

POINT_SECTIONS = tuple(Point.model_fields)
_DATA: TypeAdapter[DataSet] = TypeAdapter(DataConfig)
_BLOCK = TypeAdapter(SweepBlock)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sweep:
    """A validated config: its `name`, its grid points with their seeds in order, and the `resolved` config as plain
    values."""

    name: str
    points: tuple[tuple[Point, tuple[int, ...]], ...]
    resolved: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """16 hexadecimal digits of the resolved config, whatever the order of its keys."""
        return hashlib.sha256(json.dumps(self.resolved, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class _Raw:
    """Plain values with the place of each: a config before it is validated."""

    value: dict[str, Any]
    document: Document
    placed: Mapping[tuple[Any, ...], str]  # paths whose value came from elsewhere than their line

    def place(self, path: tuple[Any, ...]) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.placed:
                return self.placed[path[:length]]
            made = [key for key in self.placed if key[:length] == path[:length]]
            if made and path[:length] not in self.document.lines:  # a section that an override has made
                return self.placed[made[0]]
        return self.document.place(path)

    def with_value(self, path: tuple[Any, ...], value: Any, place: str) -> "_Raw":
        """A copy with another value at this path. Raises ValueError where no value can stand."""
        return _Raw(_replaced(self.value, path, value), self.document, {**self.placed, path: place})


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Sweep:
    """The sweep that a YAML file describes, with `KEY=VALUE` overrides. Raises ConfigError with every problem found."""
    file = Path(path)
    try:
        text = read_text(file, LARGEST_CONFIG)
    except Unreadable as error:
        raise UserError(f"{file}: cannot be read ({error}); name a config file, as in configs/width.yaml") from None
    return parse_config(text, str(file), overrides)


def parse_config(text: str, where: str = "config", overrides: list[str] | tuple[str, ...] = ()) -> Sweep:
    """`load_config` of a text; `where` stands in the problems' places."""
    document = Document(text, where)
    problems = list(document.problems)
    if document.value is None and problems:
        raise ConfigError(problems)
    if not isinstance(document.value, dict):
        raise ConfigError(
            [ConfigProblem(document.place(()), "", "a config is a mapping of sections, as in `network: {depth: 4}`")]
        )
    raw = _overridden(_Raw(document.value, document, {}), overrides, problems)
    sweep = _validated(raw, problems)
    if problems or sweep is None:
        raise ConfigError(sorted(dict.fromkeys(problems), key=_line))
    return sweep


def _line(problem: ConfigProblem) -> int:
    """For the order of a file; what comes from the command line comes last."""
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else sys.maxsize


def _overridden(raw: _Raw, overrides: list[str] | tuple[str, ...], problems: list[ConfigProblem]) -> _Raw:
    place = "command line"
    for given in overrides:
        try:  # a config is UTF-8 whatever the locale in which the command line was read
            text = given.encode("utf-8", "surrogateescape").decode("utf-8")
        except ValueError:
            problems.append(ConfigProblem(place, printable(given), "not text in UTF-8"))
            continue
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            problems.append(ConfigProblem(place, text, "not an override; write KEY=VALUE, as in network.depth=3"))
            continue
        try:
            raw = raw.with_value(key_path(key.strip()), read_value(value), place)
        except ValueError as error:
            problems.append(ConfigProblem(place, key.strip(), str(error)))
    return raw


def key_path(key: str) -> tuple[Any, ...]:
    """The path of a dotted key; what follows `sweep.grid.` or `sweep.zip.` is one key, and digits are list
    positions."""
    parts: list[Any] = [int(part) if part.isdigit() else part for part in key.split(".")]
    if parts[0] == "sweep":
        for at, part in enumerate(parts[:-1]):
            if part in ("grid", "zip"):
                return (*parts[: at + 1], key.split(".", at + 1)[-1])
    return tuple(parts)


def _validated(raw: _Raw, problems: list[ConfigProblem]) -> Sweep | None:
    """The sweep, if no problem is found; whatever is found is added to `problems`."""
    blocks = _blocks(raw, problems)
    points: dict[Point, list[int]] = {}
    for block, path in blocks:
        for point_raw in _grid(raw, block, path, problems):
            point = _model(Point, point_raw, POINT_SECTIONS, problems)
            _data_problems(point_raw, problems)
            if isinstance(point, Point) and _possible(point, point_raw, problems):
                seeds = range(block.seeds) if isinstance(block.seeds, int) else block.seeds
                points.setdefault(point, []).extend(seeds)
    base = _with_first_values(raw, blocks)
    config = _model(Config, base, None, problems)
    _data_problems(base, problems)
    _unswept_overrides(raw, blocks, problems)
    if problems or not isinstance(config, Config):
        return None
    planned = tuple((point, tuple(dict.fromkeys(seeds))) for point, seeds in points.items())
    return Sweep(config.name, planned, _plain(raw, config))


def _blocks(raw: _Raw, problems: list[ConfigProblem]) -> list[tuple[SweepBlock, tuple[Any, ...]]]:
    """The well-formed blocks of the sweep, each with its path, up to the most that all together may hold."""
    value = raw.value.get("sweep", {})
    paths = [("sweep", k) for k in range(len(value))] if isinstance(value, tuple) else [("sweep",)]
    blocks, points, runs = list[tuple[SweepBlock, tuple[Any, ...]]](), 0, 0
    for item, path in zip(value if isinstance(value, tuple) else [value], paths, strict=True):
        if (block := _well_formed(_BLOCK, item)) is None:
            continue
        fits = _axes_fit(block, path, raw, problems)
        points, runs = points + block.size[0], runs + block.size[1]
        if points > MOST_POINTS or runs > MOST_RUNS:
            what = f"{points} grid points and {runs} runs up to here; at most {MOST_POINTS} points and {MOST_RUNS} runs"
            problems.append(ConfigProblem(raw.place(path), dotted(path), what))
            break
        blocks += [(block, path)] * fits
    return blocks


def _well_formed(adapter: TypeAdapter[_T], item: Any) -> _T | None:
    """The section without those of its keys that are wrong in themselves; these are reported with the whole config."""
    try:
        return adapter.validate_python(item)
    except ValidationError as error:
        if not isinstance(item, dict):
            return None
        wrong = {part for detail in error.errors() for part in detail["loc"] if part in item}
        return _well_formed(adapter, {key: value for key, value in item.items() if key not in wrong}) if wrong else None


def _axes_fit(block: SweepBlock, path: tuple[Any, ...], raw: _Raw, problems: list[ConfigProblem]) -> bool:
    found = []
    for kind, axes in (("grid", block.grid), ("zip", block.zip)):
        for key, values in axes.items():
            where = (*path, kind, key)
            if key in ("seed", "seeds"):
                found.append((where, "seeds are no axis; give them as sweep.seeds"))
            elif (wrong := _unknown_part(key)) is not None:
                found.append((where, sentence({"type": "extra_forbidden", "loc": wrong}, Point, raw.value)))
            elif not values:
                found.append((where, "empty; give at least one value"))
            elif kind == "zip" and key in block.grid:
                found.append((where, "stands in grid already; a key is swept once"))
            else:
                found.extend(_clash(where, key, block))
    lengths = {key: len(values) for key, values in block.zip.items()}
    if len(set(lengths.values())) > 1:
        found.append(
            ((*path, "zip"), f"lists of different lengths ({', '.join(f'{k}: {n}' for k, n in lengths.items())})")
        )
    problems.extend(ConfigProblem(raw.place(where), dotted(where), what) for where, what in found)
    return not found


def _unknown_part(key: str) -> tuple[str, ...] | None:
    """The path down to the first part of a swept key that no config has; None if all are known, or depend on other
    keys."""
    section, *rest = key.split(".")
    if section not in POINT_SECTIONS:
        return (section,)
    fields = getattr(Point.model_fields[section].annotation, "model_fields", None)
    return (section, rest[0]) if fields and rest and rest[0] not in fields else None


def _clash(where: tuple[Any, ...], key: str, block: SweepBlock) -> list[tuple[tuple[Any, ...], str]]:
    """An axis inside another one: which of the two would win?"""
    inner = [other for other in (*block.grid, *block.zip) if other.startswith(key + ".")]
    return [(where, f"{inner[0]} is swept as well, and lies inside it")] if inner else []


def _grid(raw: _Raw, block: SweepBlock, path: tuple[Any, ...], problems: list[ConfigProblem]) -> Iterator[_Raw]:
    """The config of every grid point, in the order of the file: the first axis varies slowest."""

    def axis(kind: str, key: str, values: tuple[Any, ...]) -> list[tuple[str, Any, str]]:
        return [(key, value, raw.place((*path, kind, key, k))) for k, value in enumerate(values)]

    axes = [[(setting,) for setting in axis("grid", key, values)] for key, values in block.grid.items()]
    if block.zip:
        axes.append(list(zip(*(axis("zip", key, values) for key, values in block.zip.items()), strict=True)))
    for combination in itertools.product(*axes):
        point = raw
        try:
            for key, value, place in itertools.chain(*combination):
                point = point.with_value(key_path(key), value, place)
        except ValueError as error:
            problems.append(ConfigProblem(place, key, str(error)))
            continue
        yield point


def _with_first_values(raw: _Raw, blocks: list[tuple[SweepBlock, tuple[Any, ...]]]) -> _Raw:
    """The config with swept keys that it does not hold itself filled in, so that a swept required key is not
    missing."""
    for block, path in blocks[:1]:
        for kind, axes in (("grid", block.grid), ("zip", block.zip)):
            for key, values in axes.items():
                if _lookup(raw.value, key_path(key)) is None:
                    try:
                        raw = raw.with_value(key_path(key), values[0], raw.place((*path, kind, key, 0)))
                    except ValueError:
                        continue  # reported with the grid
    return raw


def _unswept_overrides(
    raw: _Raw, blocks: list[tuple[SweepBlock, tuple[Any, ...]]], problems: list[ConfigProblem]
) -> None:
    """An override of a key that every block sweeps would be ignored in silence."""
    for path in raw.placed:
        key = dotted(path)
        if blocks and all(key in block.grid or key in block.zip for block, _ in blocks):
            kind = "grid" if key in blocks[0][0].grid else "zip"
            what = f"has no effect, since the sweep varies it; override {dotted(blocks[0][1])}.{kind}.{key} instead"
            problems.append(ConfigProblem(raw.placed[path], key, what))


def _model(
    model: type[Point], raw: _Raw, sections: tuple[str, ...] | None, problems: list[ConfigProblem]
) -> Point | None:
    value = raw.value if sections is None else {key: item for key, item in raw.value.items() if key in sections}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "too_short" and detail["input"]:
                continue  # pydantic counts the good entries alone; the bad ones have their own errors
            path = _path_in(value, detail["loc"])
            if detail["type"] == "union_tag_invalid":
                path = (*path, "name")
            problems.append(
                ConfigProblem(raw.place(path), dotted(path), sentence({**detail, "loc": path}, Config, raw.value))
            )
        return None


def _data_problems(raw: _Raw, problems: list[ConfigProblem]) -> None:
    """What only the data themselves can tell, whatever is wrong with the other sections."""
    data = _well_formed(_DATA, raw.value.get("data"))
    for error in data.problems() if data else ():
        problems.append(ConfigProblem(raw.place(("data", error.field)), f"data.{error.field}", error.what))


def _possible(point: Point, raw: _Raw, problems: list[ConfigProblem]) -> bool:
    """What only several sections together can tell, without a kernel and without fetching data."""
    found: list[tuple[tuple[Any, ...], str]] = []
    checks: list[Callable[[], None]] = [point.check_batch]
    if not (point.data.remote or point.data.component or point.data.problems()):
        checks.append(lambda: point.check_targets(point.data.load()))
    for check in checks:
        try:
            check()
        except FieldError as error:
            found.append((tuple(error.field.split(".")), error.what))
    for key in ("kernels", "outputs"):
        for k, kept in enumerate(getattr(point.probes, key)):
            if isinstance(kept, int) and kept > point.training.steps:
                found.append((("probes", key, k), f"step {kept} lies beyond the last one, {point.training.steps}"))
    every = point.probes.every
    if isinstance(every, int) and point.training.steps // every > MOST_ROWS:
        rows = point.training.steps // every
        found.append((("probes", "every"), f"{rows} probed steps of a run; at most {MOST_ROWS}: raise it"))
    if isinstance(every, LogSpaced) and every.log_spaced > point.training.steps + 1:
        what = f"{every.log_spaced} probes do not fit into {point.training.steps} steps; use `every: 1`"
        found.append((("probes", "every", "log_spaced"), what))
    problems.extend(ConfigProblem(raw.place(path), dotted(path), what) for path, what in found)
    return not found


def _path_in(value: Any, loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """pydantic's location without the tags of the alternatives it tried: only what names a place in the value."""
    path: list[Any] = []
    for k, part in enumerate(loc):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, tuple | list) and isinstance(part, int) and part < len(value):
            value = value[part]
        elif k < len(loc) - 1 or not isinstance(value, dict) or str(part).startswith("<"):
            continue
        path.append(part)
    return tuple(path)


def _lookup(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        if not isinstance(value, dict) or part not in value:
            return None
        value = value[part]
    return value


def _replaced(tree: Any, path: tuple[Any, ...], value: Any) -> Any:
    """A copy of the tree with `value` at `path`; mappings on the way are made where there are none."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(tree, tuple):
        if not (isinstance(head, int) and head < len(tree)):
            raise ValueError(f"a list of {len(tree)} stands here; name one of its entries by number, from 0")
        return (*tree[:head], _replaced(tree[head], rest, value), *tree[head + 1 :])
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"{tree!r} stands here, which has no key {head!r}")
    return {**tree, str(head): _replaced(tree.get(str(head)), rest, value)}


def _plain(raw: _Raw, config: Config) -> dict[str, Any]:
    """The config with every default filled in, as plain values, sections in their usual order."""
    dumped = config.model_dump(mode="json")
    order = ["name", *POINT_SECTIONS, "sweep", "claims", "expect"]
    return {key: dumped[key] for key in order}
