"""The config reader: YAML text becomes one frozen Sweep, or all its errors are reported at once.

Each grid point is validated as a complete config with its swept values filled in. Swept values are therefore checked as
strictly as the rest of the file, and an error points at the line of the value that caused it.
"""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from ntkrun.config.resolved import hash_of, resolved
from ntkrun.config.schema import MOST_POINTS, MOST_ROWS, MOST_RUNS, Config, LogSpaced, Point, SweepBlock
from ntkrun.config.yaml import LARGEST_CONFIG, Document, dotted, read_value
from ntkrun.data import DataConfig, DataSet
from ntkrun.errors import ConfigError, ConfigProblem, FieldError, UserError
from ntkrun.files.reading import Unreadable, read_text
from ntkrun.text import printable
from ntkrun.validation import models_in, sentence

POINT_SECTIONS = tuple(Point.model_fields)
_DATA: TypeAdapter[DataSet] = TypeAdapter(DataConfig)
_BLOCK = TypeAdapter(SweepBlock)
_T = TypeVar("_T")


@dataclass(frozen=True)
class Sweep:
    """A validated config, as `load_config` returns it: its `name`; `points`, the grid points in order, each with its
    seeds; and `resolved`, the config with every default as plain values. A point has the sections `network`, `data`,
    `training` and `probes`. `hash` names the resolved config, 16 hexadecimal digits.

    >>> import ntkrun
    >>> from pathlib import Path
    >>> config = "{name: tiny, network: {depth: 2, width: 8}, data: {name: circle, samples: 4}, sweep: {seeds: 2}}"
    >>> _ = Path("tiny.yaml").write_text(config)
    >>> sweep = ntkrun.load_config("tiny.yaml")
    >>> for point, seeds in sweep.points:
    ...     print(sweep.name, point.network.width, point.network.activation, seeds)
    tiny 8 relu (0, 1)
    """

    name: str
    points: tuple[tuple[Point, tuple[int, ...]], ...]
    resolved: Mapping[str, Any]

    @property
    def hash(self) -> str:
        """Hash of the resolved config, 16 hexadecimal digits. It does not depend on the order of the keys."""
        return hash_of(self.resolved)


@dataclass(frozen=True)
class _Raw:
    """A config before validation: plain values, each with its place in the file."""

    value: dict[str, Any]
    document: Document
    placed: Mapping[tuple[Any, ...], str]  # places of values that did not come from their own line, by path

    def place(self, path: tuple[Any, ...]) -> str:
        for length in range(len(path), 0, -1):
            if path[:length] in self.placed:
                return self.placed[path[:length]]
            inner = [key for key in self.placed if key[:length] == path[:length]]
            if inner and path[:length] not in self.document.lines:  # an override created this section
                return self.placed[inner[0]]
        return self.document.place(path)

    def with_value(self, path: tuple[Any, ...], value: Any, place: str) -> "_Raw":
        """Return a copy with another value at this path. Raises ValueError where the path cannot hold a value."""
        return _Raw(_replaced(self.value, path, value), self.document, {**self.placed, path: place})


def load_config(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Sweep:
    """Read a sweep from a YAML file, with `KEY=VALUE` overrides (docs/config.md). Nothing is run or downloaded. Raises
    ConfigError with all problems of the config, and UserError for a file that cannot be read.

    >>> import ntkrun
    >>> from pathlib import Path
    >>> _ = Path("tiny.yaml").write_text('''
    ... name: tiny
    ... network: {depth: 2, activation: erf}
    ... data: {name: circle, samples: 4}
    ... training: {steps: 5}
    ... sweep: {grid: {network.width: [8, 16]}, seeds: 2}
    ... ''')
    >>> for point, seeds in ntkrun.load_config("tiny.yaml", ["training.steps=3"]).points:
    ...     print(point.network.width, point.training.steps, seeds)
    8 3 (0, 1)
    16 3 (0, 1)
    """
    file = Path(path)
    try:
        text = read_text(file, LARGEST_CONFIG)
    except Unreadable as error:
        raise UserError(f"{file}: cannot be read ({error}); name a config file, as in configs/width.yaml") from None
    return parse_config(text, str(file), overrides)


def parse_config(text: str, where: str = "config", overrides: list[str] | tuple[str, ...] = ()) -> Sweep:
    """Read a sweep from YAML text, as `load_config` does from a file. Problems name `where` as the file."""
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
    """Return the line of a problem, for sorting. Problems of the command line come last."""
    line = problem.where.rpartition(":")[2]
    return int(line) if line.isdigit() else sys.maxsize


def _overridden(raw: _Raw, overrides: list[str] | tuple[str, ...], problems: list[ConfigProblem]) -> _Raw:
    place = "command line"
    for override in overrides:
        try:  # a config is UTF-8, whatever the locale in which the command line was read
            text = override.encode("utf-8", "surrogateescape").decode("utf-8")
        except ValueError:
            problems.append(ConfigProblem(place, printable(override), "not text in UTF-8"))
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
    """Return the path of a dotted key. Digits are list positions, and everything after `sweep.grid.` or `sweep.zip.` is
    one key."""
    parts: list[Any] = [int(part) if part.isdigit() else part for part in key.split(".")]
    if parts[0] == "sweep":
        for index, part in enumerate(parts[:-1]):
            if part in ("grid", "zip"):
                return (*parts[: index + 1], key.split(".", index + 1)[-1])
    return tuple(parts)


def _validated(raw: _Raw, problems: list[ConfigProblem]) -> Sweep | None:
    """Return the sweep, or None if there are problems, which are added to `problems`."""
    blocks = _blocks(raw, problems)
    points: dict[Point, list[int]] = {}
    for block, path in blocks:
        for point_raw in _grid(raw, block, path, problems):
            point = _model(Point, point_raw, POINT_SECTIONS, problems)
            _add_data_problems(point_raw, problems)
            if isinstance(point, Point) and _consistent(point, point_raw, problems):
                seeds = range(block.seeds) if isinstance(block.seeds, int) else block.seeds
                points.setdefault(point, []).extend(seeds)
    base = _with_first_values(raw, blocks)
    config = _model(Config, base, None, problems)
    _add_data_problems(base, problems)
    _check_overrides(raw, blocks, problems)
    if problems or not isinstance(config, Config):
        return None
    points_with_seeds = tuple((point, tuple(dict.fromkeys(seeds))) for point, seeds in points.items())
    return Sweep(config.name, points_with_seeds, resolved(config, raw.value, [block for block, _ in blocks]))


def _blocks(raw: _Raw, problems: list[ConfigProblem]) -> list[tuple[SweepBlock, tuple[Any, ...]]]:
    """Return the well-formed blocks of the sweep, each with its path. Stops where the blocks together exceed the limits
    on grid points and runs."""
    value = raw.value.get("sweep", {})
    paths = [("sweep", k) for k in range(len(value))] if isinstance(value, tuple) else [("sweep",)]
    blocks, points, runs = list[tuple[SweepBlock, tuple[Any, ...]]](), 0, 0
    for item, path in zip(value if isinstance(value, tuple) else [value], paths, strict=True):
        if (block := _well_formed(_BLOCK, item)) is None:
            continue
        fits = _axes_fit(block, path, raw, problems)
        points, runs = points + block.size[0], runs + block.size[1]
        if points > MOST_POINTS or runs > MOST_RUNS:
            message = f"{points} grid points and {runs} runs so far; at most {MOST_POINTS} points and {MOST_RUNS} runs"
            problems.append(ConfigProblem(raw.place(path), dotted(path), message))
            break
        blocks += [(block, path)] * fits
    return blocks


def _well_formed(adapter: TypeAdapter[_T], item: Any) -> _T | None:
    """Return the section without its invalid keys, or None if it is invalid even so. The invalid keys are reported when
    the whole config is validated."""
    try:
        return adapter.validate_python(item)
    except ValidationError as error:
        if not isinstance(item, dict):
            return None
        invalid = {part for detail in error.errors() for part in detail["loc"] if part in item}
        if not invalid:
            return None
        return _well_formed(adapter, {key: value for key, value in item.items() if key not in invalid})


def _axes_fit(block: SweepBlock, path: tuple[Any, ...], raw: _Raw, problems: list[ConfigProblem]) -> bool:
    """Check the axes of a block. Problems are added to `problems`."""
    errors = []
    for kind, axes in (("grid", block.grid), ("zip", block.zip)):
        for key, values in axes.items():
            axis_path = (*path, kind, key)
            if key in ("seed", "seeds"):
                errors.append((axis_path, "seeds cannot be swept as an axis; give them as sweep.seeds"))
            elif (unknown := _unknown_part(key)) is not None:
                errors.append((axis_path, sentence({"type": "extra_forbidden", "loc": unknown}, Point, raw.value)))
            elif not values:
                errors.append((axis_path, "empty; give at least one value"))
            elif kind == "zip" and key in block.grid:
                errors.append((axis_path, "this key is in grid too; sweep each key once"))
            else:
                errors.extend(_clash(axis_path, key, block))
    lengths = {key: len(values) for key, values in block.zip.items()}
    if len(set(lengths.values())) > 1:
        errors.append(
            ((*path, "zip"), f"lists of different lengths ({', '.join(f'{k}: {n}' for k, n in lengths.items())})")
        )
    problems.extend(ConfigProblem(raw.place(error_path), dotted(error_path), message) for error_path, message in errors)
    return not errors


def _unknown_part(key: str) -> tuple[str, ...] | None:
    """Return the path down to the first unknown part of a swept key. Return None if all parts are known or depend on
    other keys."""
    section, *rest = key.split(".")
    if section not in POINT_SECTIONS:
        return (section,)
    fields = {field for model in models_in(Point.model_fields[section].annotation) for field in model.model_fields}
    return (section, rest[0]) if rest and rest[0] not in fields else None


def _clash(axis_path: tuple[Any, ...], key: str, block: SweepBlock) -> list[tuple[tuple[Any, ...], str]]:
    """Return an error if another axis sweeps a key inside this one, since it would be unclear which value counts."""
    inner = [other for other in (*block.grid, *block.zip) if other.startswith(key + ".")]
    return [(axis_path, f"{inner[0]}, which is inside it, is swept too; sweep one of them")] if inner else []


def _grid(raw: _Raw, block: SweepBlock, path: tuple[Any, ...], problems: list[ConfigProblem]) -> Iterator[_Raw]:
    """Yield the config of every grid point in the order of the file. The first axis varies slowest."""

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
    """Return the config with the first swept value of every key that it lacks and all blocks sweep, so that a required
    key does not count as missing. A key that some blocks do not sweep has its default in these."""
    for block, path in blocks[:1]:
        for kind, axes in (("grid", block.grid), ("zip", block.zip)):
            for key, values in axes.items():
                everywhere = all(key in other.grid or key in other.zip for other, _ in blocks)
                if everywhere and _lookup(raw.value, key_path(key)) is None:
                    try:
                        raw = raw.with_value(key_path(key), values[0], raw.place((*path, kind, key, 0)))
                    except ValueError:
                        continue  # `_grid` reports it
    return raw


def _check_overrides(
    raw: _Raw, blocks: list[tuple[SweepBlock, tuple[Any, ...]]], problems: list[ConfigProblem]
) -> None:
    """Report overrides of keys that every block sweeps, since they would have no effect."""
    for path in raw.placed:
        key = dotted(path)
        if blocks and all(key in block.grid or key in block.zip for block, _ in blocks):
            kind = "grid" if key in blocks[0][0].grid else "zip"
            message = f"has no effect, since the sweep varies it; override {dotted(blocks[0][1])}.{kind}.{key} instead"
            problems.append(ConfigProblem(raw.placed[path], key, message))


def _model(
    model: type[Point], raw: _Raw, sections: tuple[str, ...] | None, problems: list[ConfigProblem]
) -> Point | None:
    value = raw.value if sections is None else {key: item for key, item in raw.value.items() if key in sections}
    try:
        return model.model_validate(value)
    except ValidationError as error:
        for detail in error.errors(include_url=False):
            if detail["type"] == "too_short" and detail["input"]:
                continue  # pydantic counts only the valid entries; the invalid ones have their own errors
            path = _path_in(value, detail["loc"])
            if detail["type"] == "union_tag_invalid":
                path = (*path, detail["ctx"]["discriminator"].strip("'"))
            problems.append(
                ConfigProblem(raw.place(path), dotted(path), sentence({**detail, "loc": path}, Config, raw.value))
            )
        return None


def _add_data_problems(raw: _Raw, problems: list[ConfigProblem]) -> None:
    """Add the problems that only the data themselves show, even where other sections are invalid."""
    data = _well_formed(_DATA, raw.value.get("data"))
    for error in data.problems() if data else ():
        problems.append(ConfigProblem(raw.place(("data", error.field)), f"data.{error.field}", error.what))


def _consistent(point: Point, raw: _Raw, problems: list[ConfigProblem]) -> bool:
    """Check that the sections of a grid point fit together, without computing a kernel or fetching data. Problems are
    added to `problems`."""
    errors: list[tuple[tuple[Any, ...], str]] = []
    checks: list[Callable[[], None]] = [point.check_batch]
    if not (point.data.remote or point.data.component or point.data.problems()):
        checks.append(lambda: point.check_targets(point.data.load()))
    for check in checks:
        try:
            check()
        except FieldError as error:
            errors.append((tuple(error.field.split(".")), error.what))
    for key in ("kernels", "outputs"):
        for k, step in enumerate(getattr(point.probes, key)):
            if isinstance(step, int) and step > point.training.steps:
                errors.append((("probes", key, k), f"step {step} is after the last step, {point.training.steps}"))
    every = point.probes.every
    if isinstance(every, int) and point.training.steps // every > MOST_ROWS:
        rows = point.training.steps // every
        errors.append((("probes", "every"), f"{rows} probed steps per run, at most {MOST_ROWS}; use a larger interval"))
    if isinstance(every, LogSpaced) and every.log_spaced > point.training.steps + 1:
        message = f"{every.log_spaced} probes do not fit into {point.training.steps} steps; use `every: 1`"
        errors.append((("probes", "every", "log_spaced"), message))
    problems.extend(ConfigProblem(raw.place(path), dotted(path), message) for path, message in errors)
    return not errors


def _path_in(value: Any, loc: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return pydantic's location without the tags of the alternatives that it tried, as a path into the value."""
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
    """Return a copy of the tree with `value` at `path`. Missing mappings on the way are created. Raises ValueError
    where the path cannot hold a value."""
    if not path:
        return value
    head, rest = path[0], path[1:]
    if isinstance(tree, tuple):
        if not (isinstance(head, int) and head < len(tree)):
            raise ValueError(f"this is a list of {len(tree)} entries; name one of them by its number, from 0")
        return (*tree[:head], _replaced(tree[head], rest, value), *tree[head + 1 :])
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ValueError(f"the value here is {tree!r}, which has no key {head!r}")
    return {**tree, str(head): _replaced(tree.get(str(head)), rest, value)}
