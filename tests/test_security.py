"""What docs/security.md promises: nothing shared executes code, leaves its place, or drives a terminal."""

import ast
import io
import json
import os
import re
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import ntkrun
from ntkrun.config.reader import load_config, parse_config
from ntkrun.config.yaml import Document, dump
from ntkrun.errors import ConfigError, UserError
from ntkrun.files.parquet import read_parquet
from ntkrun.files.reading import Unreadable, read_bytes, read_json, read_npz
from ntkrun.files.writing import inside
from ntkrun.store.results_directory import Store, read_results
from ntkrun.text import json_text, printable, printable_lines
from tests.store.store_of import DESCRIPTION, filled, frames_of, plan_of

HOME = Path(ntkrun.__file__).parent
SOURCES = sorted([*HOME.rglob("*.py"), *(HOME.parent / "experiments").rglob("*.py")])
FORBIDDEN_MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "code", "pty"}
FORBIDDEN_CALLS = {
    *("eval", "exec", "compile", "__import__", "input", "breakpoint"),
    *("yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load", "torch.load", "np.fromfile", "np.memmap"),
    *("pd.read_pickle", "pd.read_hdf", "pd.read_html", "pd.read_sql", "pd.read_parquet", "pd.eval", "os.system"),
    *("os.popen", "os.execv", "os.spawnv", "pq.read_table", "subprocess.call", "subprocess.getoutput"),
}
STARTS_PROCESSES = {"run/provenance.py"}  # git, on ntkrun's own checkout
MAPS_MEMORY = {"run/kernels.py"}  # a file of its own, just made, that has no name


# ---------------------------------------------------------------- the sources


def _name(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_name(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _objections(source: str, where: str) -> list[str]:
    """What a source file must not do, by its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        imported = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        imported += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [(node, f"imports {name}") for name in imported if name.split(".")[0] in FORBIDDEN_MODULES]
        if "subprocess" in imported and where not in STARTS_PROCESSES:
            found.append((node, "imports subprocess"))
        if isinstance(node, ast.Call):
            name, keywords = _name(node.func), {word.arg: word.value for word in node.keywords}
            shell = keywords.get("shell")
            allowed = keywords.get("allow_pickle")
            unsafe = {
                f"calls {name}": name in FORBIDDEN_CALLS and not (name == "np.memmap" and where in MAPS_MEMORY),
                "runs a shell": shell is not None and not (isinstance(shell, ast.Constant) and shell.value is False),
                "lets numpy unpickle": name == "np.load"
                and not (isinstance(allowed, ast.Constant) and allowed.value is False),
            }
            found += [(node, what) for what, so in unsafe.items() if so]
    return [f"{where}:{node.lineno} {what}" for node, what in found]


def test_no_source_file_can_execute_what_it_reads() -> None:
    assert len(SOURCES) > 100
    where = {path: str(path.relative_to(HOME.parent)).removeprefix("ntkrun/") for path in SOURCES}
    assert [text for path in SOURCES for text in _objections(path.read_text(), where[path])] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "import yaml\nyaml.load(text)",
        "import torch\ntorch.load(path)",
        "np.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_parquet(path)",
        "run(['git'], shell=True)",
        "import subprocess",
    ],
)
def test_the_search_finds_what_it_looks_for(source: str) -> None:
    assert len(_objections(source, "run/some.py")) == 1


# ---------------------------------------------------------------- configs

DATA = "data: {name: circle}\n"


def _problems(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml")
    assert printable_lines(str(caught.value)) == str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/x", "a/b", "..", ".", "", ".hidden", "a\\b", "a b", "a" * 101, "-rf", "~", "a:b", "é"],
)
def test_a_sweeps_name_is_one_plain_folder(name: str) -> None:
    assert "name" in _problems(f"name: {json.dumps(name)}\n{DATA}")


def test_nothing_in_a_config_drives_a_terminal() -> None:
    for text in (r'name: "a\e[2J"', r'"na\x9bme": x', r'name: "a\u202eb"', r'name: "a\0b"'):
        assert "control characters" in _problems(f"{text}\n{DATA}")


def test_no_tag_constructs_an_object(tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    for tag in ("!!python/object/apply:os.system", "!!python/name:os.system", "!!python/module:os", "!custom"):
        assert "tag" in _problems(f"name: {tag} [touch {sprung}]\n{DATA}")
    assert not sprung.exists()


def test_bombs_and_abysses_end_soon() -> None:
    laughs = "a: &a [x, x, x]\n"
    laughs += "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghi"))
    assert "aliases are expanded" in _problems(laughs)
    assert "nested too deeply" in _problems("[" * 10_000)
    assert "nested too deeply" in _problems("a: " + "[" * 40 + "]" * 40)
    assert "number of 5000 characters" in _problems("name: " + "9" * 5000 + "\n" + DATA)
    axes = ", ".join(f"network.beta{k}: [1, 2, 3, 4, 5, 6, 7, 8, 9]" for k in range(2))
    axes += ", network.beta: [" + ", ".join(map(str, range(200))) + "], network.depth: [" + "2, " * 99 + "2]"
    assert "at most 10000 points" in _problems(f"name: a\n{DATA}sweep: {{grid: {{{axes}}}}}\n")


@pytest.mark.parametrize(
    "keys",
    [
        "network: {depth: 1000000000}",
        "network: {width: 10000000000}",
        "training: {steps: 1000000000000}",
        "training: {steps: 100000000}",
        "sweep: {seeds: 1000000000}",
        "sweep: {seeds: [99999999999999999999]}",
        "probes: {every: {log_spaced: 1000000000}}",
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_made(keys: str) -> None:
    assert re.search("at most|less than", _problems(f"name: a\n{DATA}{keys}\n"))


def test_absurd_data_are_refused_before_they_are_made() -> None:
    for data in ("name: sphere, dimension", "name: gaussian, samples", "name: circle, test_samples"):
        assert "more than 268435456 numbers" in _problems(f"name: a\ndata: {{{data}: 2000000000}}\n")


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/stdin", "a\0b", "."])
def test_data_come_from_plain_files_alone(path: str) -> None:
    with pytest.raises(Unreadable):
        read_bytes(path, 2**20)
    data = f"data: {{name: file, path: {json.dumps(path + '.csv')}, inputs: [a], targets: [b]}}\n"
    assert "data.path" in _problems("name: a\n" + data)


def test_a_pipe_and_a_file_that_is_too_large_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(UserError, match="not a plain file"):
        load_config(tmp_path / "pipe.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * (2**22 + 1))
    with pytest.raises(UserError, match="at most 4194304"):
        load_config(tmp_path / "large.yaml")


# ---------------------------------------------------------------- arrays and tables


def test_arrays_that_would_be_unpickled_or_are_bombs_are_refused() -> None:
    out = io.BytesIO()
    np.savez(out, a=np.array([{}], dtype=object))
    with pytest.raises(Unreadable, match="not an npz of plain arrays"):
        read_npz(out.getvalue(), 2**20)
    out = io.BytesIO()
    np.savez_compressed(out, a=np.zeros(2**20))
    assert len(out.getvalue()) < 2**14
    with pytest.raises(Unreadable, match="unpacks to"):
        read_npz(out.getvalue(), 2**20)
    assert read_npz(out.getvalue(), 2**24)["a"].shape == (2**20,)


def test_an_array_whose_header_lies_about_its_size_is_refused() -> None:
    out, header = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**50,)})
    with zipfile.ZipFile(out, "w") as packed:
        packed.writestr("a.npy", header.getvalue())
    with pytest.raises(Unreadable, match="not an npz of plain arrays"):
        read_npz(out.getvalue(), 2**20)


def test_what_pandas_noted_beside_a_table_is_not_looked_at(tmp_path: Path) -> None:
    table = pa.table({"a": [1.5, 2.5], "when": pa.array([1, 2], pa.timestamp("ns"))})
    noted = {b"pandas": b'{"index_columns": ["a"], "columns": [{"name": "a", "numpy_type": "object"}]}'}
    pq.write_table(table.replace_schema_metadata(noted), tmp_path / "t.parquet")
    found = read_parquet(tmp_path / "t.parquet")
    assert found.column_names == ["a"]  # numbers and text alone
    assert found.schema.metadata is None


def test_json_from_anywhere_ends_in_words(tmp_path: Path) -> None:
    (tmp_path / "deep.json").write_text("[" * 100_000)
    with pytest.raises(Unreadable, match="nested too deeply"):
        read_json(tmp_path / "deep.json", 2**20)


# ---------------------------------------------------------------- results directories


@pytest.mark.parametrize("run_id", ["../../x", "/etc/passwd", "..", "a/b", "", "a\0b", "a" * 65, ".tmp-x"])
def test_a_run_id_is_part_of_a_name_and_nothing_else(tmp_path: Path, run_id: str) -> None:
    store = filled(tmp_path / "run", ["a"], ["a"])
    with pytest.raises(UserError, match="no run has this id"):
        store.kernels(run_id)
    with pytest.raises(UserError, match="no run has this id"):
        store.commit(frames_of(run_id), {run_id: {0: np.ones((1, 1, 1, 1))}})
    pd.DataFrame(plan_of(run_id)).to_parquet(tmp_path / "run" / "plan.parquet")
    with pytest.raises(UserError, match="which is not a valid id"):
        read_results(tmp_path / "run")


@pytest.mark.parametrize("name", ["kernels", "stacks", "figures"])
def test_a_store_reads_and_writes_through_no_link_out_of_it(tmp_path: Path, name: str) -> None:
    store = filled(tmp_path / "run", ["a"], ["a"])
    results = store.read()
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".tmp-precious").write_text("precious")
    folder = tmp_path / "run" / name
    if folder.exists():
        folder.rename(tmp_path / "before")
    folder.symlink_to(outside)
    (outside / "b.npz").write_bytes(b"")
    with pytest.raises(UserError, match="a link out of"), store.writing():
        pass
    with pytest.raises(UserError, match="a link out of"):
        {
            "kernels": lambda: results.kernels("b"),
            "stacks": store.finished,
            "figures": lambda: results.write_figure("f.png", b""),
        }[name]()
    assert sorted(path.name for path in outside.iterdir()) == [".tmp-precious", "b.npz"]


def test_a_stack_or_a_table_that_is_a_link_out_is_not_read(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", ["a"], ["a"])
    (stack,) = store.stack_folders()
    (tmp_path / "outside").mkdir()
    moved = stack.rename(tmp_path / "outside" / "stack")
    stack.symlink_to(moved)
    with pytest.raises(UserError, match="a link out of"):
        Store(store.root).finished()
    stack.unlink()
    moved.rename(stack)
    table = (stack / "runs.parquet").rename(tmp_path / "outside" / "runs.parquet")
    (stack / "runs.parquet").symlink_to(table)
    with pytest.raises(UserError, match="a link out of"):
        Store(store.root).finished()
    (stack / "runs.parquet").unlink()
    table.rename(stack / "runs.parquet")
    kernels = (stack / "kernels").rename(tmp_path / "outside" / "kernels")
    (stack / "kernels").symlink_to(kernels)
    with pytest.raises(UserError, match="a link out of"):
        store.kernels("a")


def test_links_within_and_to_the_directory_are_fine(tmp_path: Path) -> None:
    filled(tmp_path / "run", ["a"], ["a"])
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert read_results(tmp_path / "link").kernels("a") is not None
    assert inside(tmp_path / "link", "plan.parquet").exists()


def test_text_in_tables_is_shown_without_what_drives_a_terminal(tmp_path: Path) -> None:
    store = filled(tmp_path, ["a"], ["a"])
    plan = pd.DataFrame(plan_of("a")).assign(**{"data.name": "dig\x1b[31mits\n"})
    plan.to_parquet(tmp_path / "plan.parquet")
    assert store.plan()["data.name"].tolist() == [r"dig\x1b[31mits\n"]


def test_sweep_yaml_reads_back_as_it_was_and_constructs_nothing(tmp_path: Path) -> None:
    said = {
        **DESCRIPTION,
        "notes": ["1e3", "no", "true", "0o17", "~", "<<", "é", "a: b", "2.13.0+cpu"],
        "x": [1.5, None],
    }
    assert Document(dump(said), "").plain() == said
    store = filled(tmp_path, ["a"], ["a"])
    (tmp_path / "sweep.yaml").write_text("config: !!python/object/apply:os.system [touch sprung]\n")
    with pytest.raises(UserError, match="it holds no config"):
        store.description()


def test_control_characters_are_escaped_in_one_place() -> None:
    hostile = "a\x1b[2J\r\x9b\u202e\x07\x00\udcff"
    assert printable(hostile) == r"a\x1b[2J\r\x9b\u202e\x07\x00\udcff"
    assert printable_lines("one\ntwo\x1b") == "one\ntwo\\x1b"
    document = json_text({"a": hostile + "é"})
    assert document.replace("\n", "").isprintable()
    assert json.loads(document)["a"] == hostile + "é"
    assert "é" in json_text({"a": "é"})
