"""The doctor: each thing that can be wrong with a results directory is named, and mended without losing a result."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from ntkrun.config.reader import parse_config
from ntkrun.doctor.machine import _mounted, lines, machine, odd
from ntkrun.doctor.results_directory import ASIDE, Finding, examine, repair
from ntkrun.errors import StoreBusy, UserError
from ntkrun.files import writing
from ntkrun.files.writing import temporary_name
from ntkrun.run import commits
from ntkrun.run.sweep import run_sweep
from ntkrun.store.results_directory import Store, read_results
from tests.command import CONFIG
from tests.store.store_of import filled, frames_of

RUNS = ["a", "b", "c"]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return filled(tmp_path / "run", RUNS, ["a", "b"])


def _bytes(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def _stack_with(store: Store, run_id: str) -> Path:
    return next(
        folder
        for folder in store.stack_folders()
        if run_id in pd.read_parquet(folder / "runs.parquet")["run_id"].tolist()
    )


def _mended(root: Path) -> list[Finding]:
    """What is left once what can be is put right; a second look finds the same."""
    left = repair(root, examine(root))
    assert examine(root) == left
    return [finding for finding in left if finding.wrong]


def test_a_healthy_directory_is_fine_and_stays_as_it_is(store: Store) -> None:
    before = _bytes(store.root)
    assert examine(store.root) == []
    assert repair(store.root, []) == []
    assert _bytes(store.root) == before


def _stray_files(store: Store) -> None:
    """Of a process that is dead, and of one on another machine that has not touched them for long."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "getpid", lambda: process.pid)
        temporary_name(store.root / "runs.parquet").write_bytes(b"torn")
        temporary_name(store.root / "stacks" / "folder").mkdir()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(writing, "_this_machine", lambda: "0" * 12)
        old = temporary_name(store.root / "sweep.yaml")
    old.write_bytes(b"torn")
    os.utime(old, (0, 0))


def _torn_table(store: Store) -> None:
    (store.root / "steps.parquet").write_bytes(b"PAR1 torn")


def _table_of_other_numbers(store: Store) -> None:
    path = store.root / "runs.parquet"
    table = pd.read_parquet(path).assign(seconds=7.0)
    import pyarrow as pa
    import pyarrow.parquet as pq

    noted = pq.read_schema(path).metadata
    pq.write_table(pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(noted), path)


def _no_tables(store: Store) -> None:
    for path in store.root.glob("[!p]*.parquet"):
        path.unlink()


def _torn_verdicts(store: Store) -> None:
    (store.root / "claims.json").write_text("{")
    (store.root / "figures").mkdir()
    (store.root / "figures" / "captions.json").write_bytes(b"\xff")


@pytest.mark.parametrize(
    ("harm", "where"),
    [
        (_stray_files, [".tmp-*", ".tmp-*", "stacks/.tmp-*"]),
        (_torn_table, ["runs.parquet"]),
        (_table_of_other_numbers, ["runs.parquet"]),
        (_no_tables, ["runs.parquet"]),
        (_torn_verdicts, ["claims.json", "figures/captions.json"]),
    ],
)
def test_what_costs_no_result_is_put_right(store: Store, harm: Callable[[Store], None], where: list[str]) -> None:
    before = store.read()
    harm(store)
    found = examine(store.root)
    assert [re.sub(r"\.tmp-.*", ".tmp-*", finding.where) for finding in found] == where
    assert all(finding.wrong and finding.todo for finding in found)
    assert _mended(store.root) == []
    after = read_results(store.root)
    pd.testing.assert_frame_equal(after.steps, before.steps)
    assert after.kernels("a") is not None


def test_a_torn_stack_is_moved_aside_and_the_rest_stays(store: Store) -> None:
    torn = _stack_with(store, "a")
    (torn / "layers.parquet").write_bytes(b"PAR1 torn")
    (stack,) = examine(store.root)
    assert (stack.where, stack.cure) == (f"stacks/{torn.name}", "aside")
    assert "layers.parquet: cannot be read as a table" in stack.what
    assert _mended(store.root) == []
    assert read_results(store.root).runs["run_id"].tolist() == ["b"]
    assert Store(store.root).finished() == {"b"}
    kept = {str(path.relative_to(store.root / ASIDE)) for path in (store.root / ASIDE).rglob("*") if path.is_file()}
    assert {f"stacks-{torn.name}/steps.parquet", f"stacks-{torn.name}/kernels/a.npz"} <= kept


def test_a_stack_that_lacks_a_table_or_its_steps_is_torn(store: Store) -> None:
    (_stack_with(store, "a") / "steps.parquet").unlink()
    pd.DataFrame(frames_of("x")["steps"]).to_parquet(_stack_with(store, "b") / "steps.parquet")
    said = [finding.what for finding in examine(store.root) if finding.where.startswith("stacks/")]
    assert sorted(text.rpartition(": ")[2] for text in said) == [
        "steps.parquet is missing",
        "steps.parquet lacks a run of the stack",
    ]


def test_a_run_that_was_committed_twice_counts_once_and_is_no_fault(store: Store) -> None:
    shutil.copytree(_stack_with(store, "a"), store.root / "stacks" / "00000007")
    assert [finding.what for finding in examine(store.root)] == ["damaged, or out of date with the stacks"]
    assert _mended(store.root) == []
    assert len(read_results(store.root).steps) == 4


def test_torn_kernels_are_moved_aside_and_the_tables_stay(store: Store) -> None:
    kernels = _stack_with(store, "a") / "kernels" / "a.npz"
    kernels.write_bytes(b"PK torn")
    (found,) = examine(store.root)
    assert (found.where, found.cure) == (str(kernels.relative_to(store.root)), "aside")
    assert _mended(store.root) == []
    assert len(read_results(store.root).runs) == 2


def test_what_only_the_user_can_mend_stays_and_says_how(store: Store) -> None:
    (store.root / "sweep.yaml").write_text("config: [")
    before = _bytes(store.root)
    (left,) = repair(store.root, examine(store.root))
    assert left.line().startswith("sweep.yaml: cannot be read")
    assert left.line().endswith("run the sweep again to rewrite it")
    assert _bytes(store.root) == before


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep that was run, whose sweep.yaml says so."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(commits, "HOLD", 0.0)  # a folder for each stack
        return run_sweep(parse_config(CONFIG), tmp_path_factory.mktemp("swept"), "cpu").path


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def _folder_there(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("harm", [_cut, Path.unlink, _folder_there])
@pytest.mark.parametrize("stack_too", [False, True])
def test_a_plan_that_is_torn_or_gone_is_made_again_from_sweep_yaml(
    harm: Callable[[Path], None], stack_too: bool, swept: Path, tmp_path: Path
) -> None:
    root = shutil.copytree(swept, tmp_path / "run")
    before = read_results(root)
    harm(root / "plan.parquet")
    if stack_too:
        _cut(Store(root).stack_folders()[0] / "steps.parquet")
    found = next(finding for finding in examine(root) if finding.where == "plan.parquet" and finding.wrong)
    assert found.line().endswith("; --fix recreates it from sweep.yaml")
    assert _mended(root) == []
    after = read_results(root)
    pd.testing.assert_frame_equal(after.plan, before.plan)
    assert len(after.runs) == (2 if stack_too else 4)
    kept = before.steps[before.steps["run_id"].isin(after.runs["run_id"])]
    pd.testing.assert_frame_equal(after.steps, kept.reset_index(drop=True))


def test_a_plan_that_sweep_yaml_does_not_tell_stays_and_the_line_says_what_to_do(swept: Path, tmp_path: Path) -> None:
    root = shutil.copytree(swept, tmp_path / "run")
    said = (root / "sweep.yaml").read_text()
    (root / "sweep.yaml").write_text(said.replace("depth: 2", "depth: 3"))  # of another hash
    _cut(root / "plan.parquet")
    _cut(Store(root).stack_folders()[0] / "steps.parquet")
    left = _mended(root)
    assert [finding.where for finding in left] == ["plan.parquet"]
    assert left[0].line().endswith("run the sweep again to rewrite it")


def test_a_sweep_that_was_stopped_before_its_first_stack_ended_is_fine(tmp_path: Path) -> None:
    store = filled(tmp_path / "run", RUNS, [])
    assert store.stack_folders() == []
    assert not [finding for finding in examine(store.root) if finding.wrong]


def test_foreign_files_are_named_and_left_alone(store: Store) -> None:
    (store.root / "notes.txt").write_text("mine")
    (found,) = repair(store.root, examine(store.root))
    assert (found.where, found.wrong) == ("notes.txt", False)
    assert (store.root / "notes.txt").read_text() == "mine"


def test_a_running_sweep_is_not_disturbed(store: Store) -> None:
    _stray_files(store)
    found = examine(store.root)
    with store.writing():
        (being_written := temporary_name(store.root / "runs.parquet")).write_bytes(b"being written")
        note, *others = examine(store.root)
        assert not note.wrong
        assert [other.where for other in others] == []
        with pytest.raises(StoreBusy):
            repair(store.root, found)
        assert being_written.exists()
    (note,) = (finding for finding in examine(store.root) if finding.where == being_written.name)
    assert not note.wrong


def test_a_link_out_of_the_directory_is_followed_by_nothing(store: Store, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ".tmp-precious").write_text("precious")
    (store.root / "kernels").symlink_to(outside)
    (found,) = repair(store.root, examine(store.root))
    assert (found.where, found.wrong) == ("kernels", True)
    assert (outside / ".tmp-precious").exists()


def test_a_directory_without_a_sweep_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep here"):
        examine(tmp_path)


def test_a_copy_elsewhere_with_new_times_opens_unchanged(store: Store, tmp_path: Path) -> None:
    before = store.read()
    copy = tmp_path / "elsewhere" / "renamed"
    shutil.copytree(store.root, copy, copy_function=shutil.copyfile)
    for path in copy.rglob("*"):
        os.utime(path, (0, 0))
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        found = read_results(copy)
        assert found.made_from == before.made_from
        for table in ("plan", "runs", "steps", "layers", "modes", "outputs"):
            pd.testing.assert_frame_equal(getattr(found, table), getattr(before, table))
        assert examine(copy) == []
        assert not Store(copy).writers()
    finally:
        for path in (copy, *copy.rglob("*")):
            path.chmod(0o755)


def test_the_machine_is_told_and_what_is_odd_about_it(tmp_path: Path) -> None:
    facts = machine(tmp_path / "not" / "there" / "yet")
    assert facts["memory_free"] > 0
    assert facts["file_system"]["free"] > 0
    assert lines(facts)[0].startswith("ntkrun 0.")
    crowded = {**facts, "threads": 64, "usable_cores": 2, "file_system": {"type": "nfs4", "free": 1}}
    said = [finding.line() for finding in odd(crowded)]
    assert any("64 threads on 2 usable cores" in line and "OMP_NUM_THREADS=2" in line for line in said)
    assert any("network file system (nfs4)" in line for line in said)
    assert any("less than 1 GiB" in line for line in said)
    assert not any(finding.wrong for finding in odd(crowded))


@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "beegfs", "ceph", "fuse.ceph-fuse", "fuse.glusterfs", "9p"])
def test_a_file_system_of_several_machines_is_noted(kind: str) -> None:
    facts = {"threads": 1, "usable_cores": 1, "blas": [], "file_system": {"type": kind, "free": 2**40}}
    (found,) = (finding.line() for finding in odd(facts) if finding.where == "results")
    assert f"network file system ({kind})" in found
    assert "use --shard" in found


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs", "fuseblk", None])
def test_a_disk_of_ones_own_is_not(kind: str | None) -> None:
    facts = {"threads": 1, "usable_cores": 1, "blas": [], "file_system": {"type": kind, "free": 2**40}}
    assert not [finding for finding in odd(facts) if finding.where == "results"]


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text("disk / ext4 rw 0 0\nserver:/x /data nfs rw 0 0\nm /data/fast tmpfs rw 0 0\n")
    assert _mounted(Path("/home/me"), table) == "ext4"
    assert _mounted(Path("/data/slow"), table) == "nfs"
    assert _mounted(Path("/data/fast/x"), table) == "tmpfs"
    assert _mounted(Path("/"), tmp_path / "none") is None
