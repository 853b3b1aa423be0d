"""The pages of docs/reference, made from the code: `python docs/generate.py` writes them, `make docs` does so first, a
test holds them to what the code says."""

import doctest
import inspect
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from pydantic import BaseModel
from typer.main import get_command

import ntkrun
from ntkrun import columns
from ntkrun.cli import app
from ntkrun.commands.list import rows_of
from ntkrun.config.architectures import ARCHITECTURES, Dense
from ntkrun.config.schema import Config, Probes, SweepBlock, Training
from ntkrun.config.template import meaning
from ntkrun.data import DATA_SETS
from ntkrun.data.base import Component, DataSet
from ntkrun.evidence.claims.table import CLAIMS
from ntkrun.evidence.estimates.exponents import Pooled, Slope
from ntkrun.evidence.estimates.intervals import Interval
from ntkrun.evidence.estimates.levels import Ensemble, Height, Limit
from ntkrun.evidence.estimates.parts import Part
from ntkrun.evidence.estimates.ranges import Extremes, Vanishes
from ntkrun.evidence.reasons import Reason

REFERENCE = Path(__file__).parent / "reference"
KINDS = {
    Slope: "exponent",
    Pooled: "exponent, seeds pooled",
    Height: "level",
    Ensemble: "level at each stored step",
    Limit: "limit",
    Extremes: "range",
    Vanishes: "range",
}


def pages() -> dict[str, str]:
    """Every page by its file name."""
    made = "<!-- Made by docs/generate.py from the code: edit that, or the code, and run it. -->\n\n"
    return {f"{name}.md": made + "\n".join(page()).rstrip() + "\n" for name, page in PAGES.items()}


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    lines = [" | ".join(_cell(cell) for cell in row) for row in rows]
    titles = list(head)
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *(f"| {line} |" for line in lines), ""]


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


# ---------------------------------------------------------------- config


def config() -> list[str]:
    """Every key of a config."""
    sections: Mapping[str, type[BaseModel]] = {
        "network": Dense,
        "training": Training,
        "probes": Probes,
        "sweep": SweepBlock,
    }
    top = [key for key in Config.model_fields if key not in sections and key != "data"]
    lines = ["# Config keys", "", "How to read and override them: [the config](../config.md).", ""]
    lines += ["## Top level", "", *_keys(Config, "", top)]
    for name, section in sections.items():
        lines += [f"## `{name}`", "", _summary(section), "", *_keys(section, f"{name}.", section.model_fields)]
        for word, network in ARCHITECTURES.items() if section is Dense else ():
            if own := [key for key in network.model_fields if key not in Dense.model_fields]:
                lines += [f"### `network.architecture: {word}`", "", _summary(network), ""]
                lines += _keys(network, "network.", own)
    lines += ["## `data`", "", "Every data set takes these keys:", "", *_keys(DataSet, "data.", DataSet.model_fields)]
    for data_set in DATA_SETS:
        own = [key for key in data_set.model_fields if key not in DataSet.model_fields and key != "name"]
        name = data_set.model_fields["name"].annotation.__args__[0]  # type: ignore[union-attr]
        lines += [f"### `data.name: {name}`", "", f"{data_set.statement[:1].upper()}{data_set.statement[1:]}.", ""]
        lines += _keys(data_set, "data.", own)
    lines += ["### Targets along a kernel principal component", "", _summary(Component), ""]
    return lines + _keys(Component, "data.targets.", Component.model_fields)


def _keys(section: type[BaseModel], prefix: str, keys: Iterable[str]) -> list[str]:
    rows = [(f"`{prefix}{key}`", _default(section, key), meaning(section, key)) for key in keys]
    return _table(("key", "default", "meaning"), rows)


def _default(section: type[BaseModel], key: str) -> str:
    field = section.model_fields[key]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "none"
    plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
    if key == "sweep":
        return "one block"
    text = json.dumps(list(plain) if isinstance(plain, tuple) else plain, ensure_ascii=False).replace('"', "")
    return f"`{text}`"


def _summary(thing: Any) -> str:
    return " ".join((inspect.getdoc(thing) or "").split())


# ---------------------------------------------------------------- tables


MARKS = {"": "", columns.DETAIL: "†", columns.STORED: "‡", columns.START: "§"}


def tables() -> list[str]:
    """Every column of the tables."""
    lines = ["# Columns of the tables", "", "Where they lie and how to read them: [what a sweep leaves](../tables.md)."]
    lines += ["† measured at detail steps (`probes.detail`), ‡ at steps whose outputs are stored (`probes.outputs`),"]
    lines += [
        "§ at step 0 if it is one of these; nan at others. *Unit*: 1 is a ratio, t a time, K a kernel, F an output,"
    ]
    lines += [
        "a an activation; none for what is no quantity. *Since*: older results have nan in the column, or no text."
    ]
    lines += [
        "*Per run*: the statistics over a run's steps that claims and checks use; those of layer l end in `.l`.",
        "",
    ]
    for table, declared in {"plan": columns.PLAN, **columns.TABLES}.items():
        lines += [f"## {table}.parquet", "", ROWS[table], ""]
        head = ("column", "type", "unit", "since", "per run", "meaning")
        lines += _table(head, map(_column, dict.fromkeys(declared.values())))
    return lines


def _column(column: columns.Column) -> tuple[str, ...]:
    names = column.names.split()
    statistics = [f"{how}: {_listed(f'{name}{suffix}' for name in names)}" for how, suffix in column.reductions]
    kind = column.kind.removeprefix("an ").removeprefix("a ")
    shown = " ".join(filter(None, (_listed(names), MARKS[column.when])))
    return shown, kind, column.unit, column.since, "; ".join(statistics), column.meaning


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


ROWS = {
    "plan": "One row a planned run (grid point and seed): every value of the config under its dotted key, lists as "
    "text. These are always among them.",
    "runs": "One row a run: its row of the plan, and these columns.",
    "steps": "One row a run and probed step, of the network *before* the update of that step.",
    "layers": "One row a run, probed step and layer. Row l is about w^(l) and what it makes, z^(l+1) and a^(l+1), "
    "where a^(L) means F; m = max(n_l, n_{l+1}); ‖·‖_Ê² is the mean of ‖·‖² over training inputs.",
    "modes": "One row a run, detail step and mode of the initial kernel.",
    "outputs": "One row a run, kept step, input and output.",
}


# ---------------------------------------------------------------- claims


def claims() -> list[str]:
    """Every claim with its margins."""
    lines = ["# Claims", "", "How they are judged: [claims and verdicts](../claims.md). n is the width."]
    lines += ["Margins are of exponents in n unless another axis is named.", ""]
    for claim in CLAIMS.values():
        lines += [f"## {claim.name}", "", claim.statement, "", f"From {claim.reference}.", ""]
        lines += _table(
            ("margin's key", "what is estimated", "margin"),
            ((f"`{part.key}`", _kind(part, claim.axis.name), _margins(part)) for part in claim.parts),
        )
        lines += [f"Nearest wrong theories, which it refutes: {'; '.join(claim.alternatives)}.", ""]
    return [*lines, *_reasons()]


def _reasons() -> list[str]:
    """Every reason of a verdict, with its sentence."""
    lines = [
        "## Reasons",
        "",
        "`reason` in claims.json is one of these words, and `why` its sentence with the numbers.",
    ]
    lines += [
        "",
        "For a supported part it is `inside`, for a refuted one `outside` or `impossible`; with any other, the",
    ]
    lines += ["part is inconclusive.", ""]
    told = [reason for reason in Reason if reason is not Reason.OK]
    return lines + _table(("reason", "sentence"), ((f"`{reason}`", reason.text) for reason in told))


def _kind(part: Part, axis: str) -> str:
    return KINDS.get(type(part), "edge") + ("" if axis == "width" else f" in the {axis}")


def _margins(part: Part) -> str:
    if not isinstance(part, Slope):
        return _span(part.expected)  # type: ignore[attr-defined]
    others = (("slopes with kinks", part.c1), ("kinks", part.kinked))
    return "; ".join([_span(part.smooth), *(f"{name} {_span(margin)}" for name, margin in others if margin)])


def _span(margin: Interval) -> str:
    low, high = margin
    if math.isinf(high):
        return f"above {low:g}"
    return f"below {high:g}" if math.isinf(low) else f"{low:g} to {high:g}".replace("-", "−")


# ---------------------------------------------------------------- commands


def commands() -> list[str]:
    """Every command with its arguments and options."""
    lines = ["# Commands", "", "`-h` after any of them says the same. Exit codes: 0 fine; 1 some runs failed or"]
    lines += ["diverged; 2 a mistake in the call or the config; 3 a claim refuted, or a regression; 4 the results"]
    lines += ["directory is in use; 5 inconclusive; 130 interrupted.", ""]
    for name, command in _flat("", get_command(app)).items():
        help_text = inspect.cleandoc(command.help or "").replace("Example: ", "    ")
        lines += [f"## ntkrun {name}", "", help_text, ""]
        lines += _table(("argument", "default", "meaning"), map(_parameter, command.params)) if command.params else []
    return lines


def _flat(prefix: str, command: Any) -> dict[str, Any]:
    """Every command by its full name."""
    inner = getattr(command, "commands", None)
    if inner is None:
        return {prefix.strip(): command}
    return {name: each for key in inner for name, each in _flat(f"{prefix} {key}", inner[key]).items()}


def _parameter(parameter: Any) -> tuple[str, str, str]:
    option = parameter.param_type_name == "option"
    flag = option and getattr(parameter, "is_flag", False)
    name = parameter.metavar or parameter.name.upper()
    shown = ", ".join(parameter.opts) + ("" if flag else f" {name}") if option else name
    default = parameter.default
    known = "required" if parameter.required else "" if flag or default in (None, ()) else f"`{default}`"
    return f"`{shown}`", known, parameter.help or ""


# ---------------------------------------------------------------- Python, lists


def python() -> list[str]:
    """Every public name, in the order of the table of contents, with its signature and docstring."""
    lines = [
        "# Python",
        "",
        "Everything of `import ntkrun`. Where shapes are given, S are stacked seeds, N and M inputs,",
    ]
    lines += [
        "O outputs, n the width and L the number of weight layers. The program of a class goes on in its methods;"
    ]
    lines += ["what a line shows is the comment below it.", ""]
    for title, names in contents().items():
        rows = ((f"[{name}](#ntkrun{name.lower()})", said) for name, said in names)
        lines += [f"## {title}", "", *_table(("name", ""), rows)]
        for name, _ in names:
            thing = getattr(ntkrun, name)
            lines += _documented(f"### ntkrun.{name}", name, thing)
            for full, method in public_methods(thing).items():
                lines += _documented(f"#### {full}", method.__name__, method)
    return lines


def contents() -> dict[str, list[tuple[str, str]]]:
    """The public names of each heading, with what they are: the comments of ntkrun/__init__.pyi."""
    found = dict[str, list[tuple[str, str]]]()
    for line in Path(ntkrun.__file__).with_suffix(".pyi").read_text(encoding="ascii").splitlines():
        if heading := re.fullmatch(r"# -+ (.+)", line):
            found[heading[1]] = names = []
        elif name := re.fullmatch(r"from \S+ import (\w+) as \w+  # (.+)", line):
            names.append((name[1], name[2]))
    return found


def public_methods(thing: Any) -> dict[str, Callable[..., Any]]:
    """The public methods of a class by their full names, those of its bases in ntkrun first."""
    if not inspect.isclass(thing) or issubclass(thing, Exception):
        return {}
    bases = [base for base in reversed(thing.__mro__) if base.__module__.startswith("ntkrun.")]
    names = dict.fromkeys(name for base in bases for name, value in vars(base).items() if inspect.isfunction(value))
    return {f"{thing.__name__}.{name}": getattr(thing, name) for name in names if not name.startswith("_")}


def _documented(heading: str, name: str, thing: Any) -> list[str]:
    lines = [heading, "", "```text", _signature(name, thing), "```", ""]
    pieces = [piece for piece in doctest.DocTestParser().parse(inspect.getdoc(thing) or "") if piece]
    for is_prose, group in groupby(pieces, key=lambda piece: isinstance(piece, str)):
        text = "".join(piece if isinstance(piece, str) else _program(piece) for piece in group).strip("\n")
        lines += [text, ""] if is_prose else ["```python", text, "```", ""]
    return lines


def _program(example: doctest.Example) -> str:
    """An example as lines of a program, and what it shows as comments."""
    return example.source + "".join(f"# {line}\n" for line in example.want.splitlines())


def _signature(name: str, thing: Any) -> str:
    """The signature, an argument a line where it is long; names without their modules."""
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return f"class {name}({', '.join(base.__name__ for base in thing.__bases__)})"
    signature = inspect.signature(thing)
    given = [each for key, each in signature.parameters.items() if key != "self"]
    shown = list(map(str, given))
    if named := [k for k, each in enumerate(given) if each.kind is each.KEYWORD_ONLY]:
        shown.insert(named[0], "*")
    returns = "" if inspect.isclass(thing) else f" -> {inspect.formatannotation(signature.return_annotation)}"
    for module in ("ntkrun.", "collections.abc.", "pathlib.", "typing.", "numpy.", "torch.", "pandas."):
        shown, returns = [_without(text, module) for text in shown], _without(returns, module)
    one_line = f"{name}({', '.join(shown)}){returns}"
    return one_line if len(one_line) <= 100 else f"{name}(\n    " + ",\n    ".join(shown) + f",\n){returns}"


def _without(text: str, module: str) -> str:
    """`ntkrun.engine.network.Parameters` as `Parameters`."""
    return re.sub(rf"\b{re.escape(module)}(?:\w+\.)*", "", text)


def names() -> list[str]:
    """What a config may name: the lists of `ntkrun list`."""
    lines = ["# What a config may name", "", "The lists of `ntkrun list`.", ""]
    for what in ("architectures", "activations", "data", "losses", "experiments"):
        lines += [f"## {what.capitalize()}", "", *_table(("name", ""), ((f"`{n}`", said) for n, said in rows_of(what)))]
    return lines


PAGES: Mapping[str, Callable[[], list[str]]] = MappingProxyType(
    {"config": config, "tables": tables, "claims": claims, "commands": commands, "python": python, "names": names}
)


def main() -> None:
    REFERENCE.mkdir(exist_ok=True)
    for name, text in pages().items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
