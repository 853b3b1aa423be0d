"""The rooms of the house stand in one order, and imports go down it: docs/architecture.md.

The rules hold every file that there is, wherever in it an import stands; a room that ROOMS does not name fails.
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import ntkrun

HOME = Path(ntkrun.__file__).parent
# From the ground up. A file imports from its own room and from those before it.
ROOMS = (
    *("errors", "text", "validation", "columns", "processes", "files"),
    *("theory", "data", "engine"),
    *("evidence.reasons", "evidence.estimates", "evidence.cells", "evidence.records"),
    *("evidence.claims", "evidence.figures"),
    *("config", "plan", "store", "run", "doctor"),
    *("evidence.regression", "evidence.report"),
    *("experiments", "commands", "cli"),
)
# Libraries that take long to import, and the rooms that may name them at all.
WHERE = {
    "matplotlib": ("evidence.figures", "evidence.regression", "experiments"),
    "torch": ("theory", "engine", "plan", "run", "doctor", "commands"),
    "ray": ("run",),
    "jinja2": ("evidence.report",),
}


def _modules() -> dict[str, Path]:
    """Every module of the package by its name below ntkrun; experiments, a link, among them."""
    files = [*HOME.rglob("*.py"), *(HOME / "experiments").glob("*.py")]
    names = {".".join(file.relative_to(HOME).with_suffix("").parts): file for file in files}
    return {name.removesuffix(".__init__"): file for name, file in names.items() if name != "__init__"}


MODULES = _modules()


def _room(module: str) -> str:
    """The room that a module is in; "" for one that ROOMS does not name."""
    return next((room for room in ROOMS if module == room or module.startswith(room + ".")), "")


def _imported(file: Path) -> Iterator[str]:
    """What a file imports, at its top or within a function: 'ntkrun.files.reading', 'torch.nn'."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            for name in node.names:
                whole = f"{node.module}.{name.name}"
                yield whole if whole.removeprefix("ntkrun.") in MODULES else str(node.module)


def _inside(file: Path) -> set[str]:
    """The modules of ntkrun that a file imports, by their names below it; `import ntkrun`, for its version, is none."""
    found = {name.removeprefix("ntkrun.") for name in _imported(file) if name.startswith("ntkrun.")}
    assert found <= MODULES.keys(), f"{file}: {found - MODULES.keys()}"
    return found


def test_every_file_is_in_a_room() -> None:
    homeless = [name for name in MODULES if not _room(name)]
    assert homeless == ["evidence"]  # the folder of four rooms, which holds no code of its own
    assert all(len(name.split(".")) <= 3 for name in MODULES)  # at most two levels of folders


def test_the_map_shows_every_room() -> None:
    page = (HOME.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert [room for room in ROOMS if f"`{room.replace('.', '/')}" not in page] == []


@pytest.mark.parametrize("module", [name for name in MODULES if name != "evidence"])
def test_imports_go_down(module: str) -> None:
    here = ROOMS.index(_room(module))
    upward = [name for name in _inside(MODULES[module]) if name != "evidence" and ROOMS.index(_room(name)) > here]
    assert not upward


ARCHITECTURES = {"engine.dense", "engine.residual"}


def test_no_other_file_knows_an_architecture() -> None:
    """They are named by config.architectures, as text, and where a user may ask for one."""
    users = {name for name in _of("engine", "plan", "run", "store") if ARCHITECTURES & _inside(MODULES[name])}
    assert users <= ARCHITECTURES
    assert ARCHITECTURES & _inside(MODULES["engine.residual"])  # the rule can see one


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {name: _inside(file) - {name} for name, file in MODULES.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_a_circle_and_an_arrow_upwards_are_seen() -> None:
    """The rules above can fail."""
    with pytest.raises(CycleError):
        TopologicalSorter({"plan.runs": {"store.lock"}, "store.lock": {"plan.runs"}}).prepare()
    assert (
        ROOMS.index(_room("run.sweep"))
        > ROOMS.index(_room("store.results_directory"))
        > ROOMS.index(_room("engine.kernel"))
    )


@pytest.mark.parametrize("library", WHERE)
def test_a_slow_library_is_named_where_it_belongs(library: str) -> None:
    users = {
        name for name, file in MODULES.items() if any(f"{each}.".startswith(library + ".") for each in _imported(file))
    }
    assert users
    assert {_room(name) for name in users} <= set(WHERE[library])


def _loaded_by(*modules: str) -> set[str]:
    """What a process has loaded that imports these."""
    script = "\n".join(["import sys", *(f"import ntkrun.{name}" for name in modules), "print('\\n'.join(sys.modules))"])
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def _of(*rooms: str) -> list[str]:
    return [name for name in MODULES if name != "evidence" and _room(name) in rooms]


SLOW = ("torch", "matplotlib", "pandas", "sklearn", "scipy", "numpy", "pydantic", "rich.console", "jinja2")


@pytest.mark.parametrize(
    ("modules", "never"),
    [
        (["cli"], SLOW),
        (_of("commands"), ("matplotlib", "sklearn", "ray")),
        ([*_of("config"), "plan.runs"], ("torch", "sklearn", "scipy", "matplotlib")),
        (["theory.activations", "theory.losses", "theory.architecture", *_of("data")], ("torch", "pandas", "sklearn")),
        (_of("theory", "data", "engine"), ("pandas", "matplotlib")),
        (_of("plan", "store", "run", "doctor"), ("matplotlib", "ray")),
        (_of("store"), ("torch", "sklearn", "matplotlib")),
        (
            _of("evidence.estimates", "evidence.claims", "evidence.figures"),
            ("torch", "pyarrow.parquet"),
        ),
        (_of("evidence.regression", "evidence.report"), ("torch", "sklearn", "tensorboard")),
        (
            ["evidence.report.conclusion", "evidence.report.tables", "store.export", "commands.status"],
            ("torch", "matplotlib"),
        ),
        (["experiments.table"], ("torch", "sklearn", "ntkrun.engine", "ntkrun.experiments.runner")),
    ],
    ids=lambda value: "+".join(value)[:40],
)
def test_what_is_quick_loads_nothing_slow(modules: list[str], never: tuple[str, ...]) -> None:
    loaded = _loaded_by(*modules)
    assert f"ntkrun.{modules[0]}" in loaded
    assert not loaded.intersection(never)


def test_public_names_are_there() -> None:
    for name in ntkrun.__all__:
        assert getattr(ntkrun, name) is not None
    assert set(ntkrun.__all__) <= set(dir(ntkrun))
    with pytest.raises(AttributeError, match="nothing"):
        ntkrun.nothing  # noqa: B018


FRAGMENTS = {"Of", "What", "Those", "Where", "Who", "Which", "Whether", "How", "That", "From", "Into", "By", "As", "So"}


def test_docstrings_do_not_begin_with_a_fragment() -> None:
    """A function's says what it does, a class's what it is: "Return the runs of a shard", not "Of a shard its runs"."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef)
    for name, file in MODULES.items():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            first = (ast.get_docstring(node) or "" if isinstance(node, kinds) else "").split(" ")[0]
            assert first not in FRAGMENTS, f"{name}: {getattr(node, 'name', 'the module')} begins with {first}"
