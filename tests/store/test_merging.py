"""Many small folders merged into one: readers see the same tables before, meanwhile and afterwards."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ntkrun.doctor.results_directory import examine, repair
from ntkrun.files import disk
from ntkrun.store import stacks
from ntkrun.store.results_directory import Results, Store, read_results
from ntkrun.store.stacks import run_ids_in
from tests.store.store_of import DESCRIPTION, frames_of, plan_of

IDS = [f"run{k}" for k in range(10)]


@pytest.fixture(autouse=True)
def _more_than_three_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing waits for the disk: it is the order of flushes that matters here."""
    monkeypatch.setattr(disk, "flush", lambda path: None)
    monkeypatch.setattr(stacks, "MOST", 3)
    monkeypatch.setattr(stacks, "WORTHWHILE", 2)


def _begun(root: Path) -> Store:
    store = Store(root)
    with store.writing():
        store.begin(DESCRIPTION, plan_of(*IDS))
    return store


def _commit(store: Store, *run_ids: str) -> None:
    with store.writing():
        for run_id in run_ids:
            store.commit(frames_of(run_id), _kernels(run_id))


def _kernels(run_id: str) -> dict[str, dict[int, np.ndarray]]:
    return {run_id: {0: np.full((1, 1, 1, 1), float(run_id[3:]))}}


def _names(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "stacks").iterdir())


def _equal(one: Results, other: Results) -> None:
    for table in ("runs", "steps", "layers", "modes", "outputs"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), check_exact=True)
    for run_id in one.runs["run_id"]:
        assert one.kernels(run_id) == other.kernels(run_id)
        assert one.kernels(run_id)["ntk"].item() == float(run_id[3:])  # type: ignore[index]


def test_a_commit_reads_no_folder_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds are there by then, and each takes milliseconds."""
    store, read = _begun(tmp_path), list[str]()
    _commit(store, *IDS[:2])
    monkeypatch.setattr(stacks, "run_ids_in", lambda folder: read.append(folder.name) or run_ids_in(folder))
    monkeypatch.setattr(stacks, "MOST", 100)
    _commit(other := Store(tmp_path), *IDS[2:8])
    assert read == ["00000001", "00000002"]
    _commit(store, IDS[8])  # which has to look at what the other one did
    assert read == ["00000001", "00000002", *(f"{number:08}" for number in range(3, 9))]
    assert other.finished() == set(IDS[:9])


def test_merged_stacks_are_read_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merged = _begun(tmp_path / "merged")
    _commit(merged, *IDS)
    assert _names(merged.root) == ["00000001-00000005", "00000006-00000010", "00000011", "00000012"]
    monkeypatch.setattr(stacks, "MOST", 100)
    single = _begun(tmp_path / "single")
    _commit(single, *IDS)
    assert len(_names(single.root)) == 10
    _equal(read_results(merged.root), read_results(single.root))
    assert merged.finished() == Store(merged.root).finished() == single.finished() == set(IDS)
    pd.testing.assert_frame_equal(merged.runs(), single.read().runs)


def test_there_are_never_many_folders_however_many_commits(tmp_path: Path) -> None:
    """Merged folders are merged too: here at most three of each kind and one that has just been written."""
    store = _begun(tmp_path)
    for attempt in range(4):
        with store.writing():
            store.begin(DESCRIPTION, plan_of(*(f"run{attempt}{k}" for k in range(10))))
        for k in range(10):
            _commit(store, f"run{attempt}{k}")
            with store.writing():
                store.commit_failed(frames_of(f"bad{attempt}{k}")["runs"].assign(status="failed"), f"why {attempt}{k}")
            assert len(_names(tmp_path)) <= 3 * 3
    assert len(store.finished()) == len(Store(tmp_path).finished()) == 40
    logs = Store(tmp_path).failed()
    assert len(logs) == 40
    assert all(f"why {run_id[3:]}\n" in log.read_text() + "\n" for run_id, log in logs.items())
    with store.writing():
        store.forget_failed(["bad00", "bad17"])
    assert set(Store(tmp_path).failed()) == logs.keys() - {"bad00", "bad17"}


def test_a_run_that_is_in_several_folders_counts_in_the_same_one_after_a_merge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where locks do not reach: the later copies have other numbers, and one lies in a folder that is not merged."""
    store = _begun(tmp_path)
    monkeypatch.setattr(stacks, "MOST", 100)
    monkeypatch.setattr(Store, "_present", lambda self, run_ids: set())
    with store.writing():
        for value, run_ids in enumerate((["run0"], ["run1"], ["run0", "run2"], ["run1"], ["run2"])):
            frames = frames_of(*run_ids)
            frames["steps"]["loss"] = float(value)
            store.commit(frames, {run_id: {0: np.full((1, 1, 1, 1), float(value))} for run_id in run_ids})
    before = read_results(tmp_path)
    assert before.steps["loss"].tolist() == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]
    large = {2, 4}  # numbers of the folders that are too large
    monkeypatch.setattr(stacks, "table_bytes", lambda folder: 2 * stacks.FULL * (int(folder.name[:8]) in large))
    monkeypatch.setattr(stacks, "MOST", 4)
    with store.writing():
        store.merge()
    assert _names(tmp_path) == ["00000001-00000006", "00000002", "00000004"]
    after = read_results(tmp_path)
    pd.testing.assert_frame_equal(after.steps, before.steps, check_exact=True)
    assert [after.kernels(run_id)["ntk"].item() for run_id in IDS[:3]] == [0.0, 1.0, 2.0]  # type: ignore[index]


def test_kernels_are_copied_where_a_file_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(old: Path, new: Path) -> None:
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(disk, "link", refuse)
    store = _begun(tmp_path)
    _commit(store, *IDS[:4])
    assert _names(tmp_path) == ["00000001-00000005"]
    assert store.kernels(IDS[2])["ntk"].item() == 2.0  # type: ignore[index]


class Gone(BaseException):
    """The process is killed here."""


def _killed_at(nth: float, patched: pytest.MonkeyPatch) -> list[str]:
    """From the nth change of the disk on nothing is changed any more, as if the process were gone: what would be
    cleaned up on the way out stays. Returns the changes that were asked for, as they come."""
    asked: list[str] = []

    def until(real: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            asked.append(name)
            if len(asked) >= nth:
                raise Gone
            return real(*arguments, **options)

        return call

    for name in disk.OPERATIONS:
        patched.setattr(disk, name, until(getattr(disk, name), name))
    return asked


def _merging_killed_at(nth: float, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    store = Store(root)
    with store.writing(), monkeypatch.context() as patched:
        asked = _killed_at(nth, patched)
        try:
            store.commit(frames_of(IDS[3]), _kernels(IDS[3]))
        except Gone:
            return asked
    return []


def _doctor(root: Path) -> None:
    assert not any(finding.wrong for finding in repair(root, examine(root)))


def test_a_kill_at_any_step_of_merging_changes_nothing_for_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    single = tmp_path / "single"
    _commit(_begun(single), *IDS[:3])
    _commit(_begun(tmp_path / "complete"), *IDS[:9])
    complete = read_results(tmp_path / "complete")
    seen, nth, twice = set[str](), 1, 0
    while asked := _merging_killed_at(nth, shutil.copytree(single, root := tmp_path / str(nth)), monkeypatch):
        on_disk = sorted(run for folder in Store(root).stack_folders() for run in run_ids_in(folder))
        twice += len(set(on_disk)) < len(on_disk)
        seen, nth = seen | set(asked), nth + 2
        before = read_results(root)
        assert before.runs["run_id"].tolist() in (IDS[:3], IDS[:4])
        assert (before.steps["run_id"].value_counts() == 2).all()
        assert Store(root).finished() == set(before.runs["run_id"])
        if nth % 9:  # the rest takes a second
            continue
        _doctor(shutil.copytree(root, cured := tmp_path / f"{nth}-doctor"))
        _equal(read_results(cured), before)
        _commit(Store(root), *IDS[3:9])  # and what was there twice is there once after the next merge
        _equal(read_results(root), complete)
        on_disk = [run for folder in Store(root).stack_folders() for run in run_ids_in(folder)]
        assert sorted(on_disk) == IDS[:9]
    assert twice >= 2  # of the kills fell between the merged folder and the last of the four
    assert seen == set(disk.OPERATIONS)


def test_a_damaged_folder_takes_no_other_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _begun(tmp_path)
    _commit(store, *IDS[:3])
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_remove", lambda self, folders: None)  # killed before it
        _commit(store, IDS[3])
    (tmp_path / "stacks" / "00000001-00000005" / "steps.parquet").write_bytes(b"PAR1 torn")
    _commit(Store(tmp_path), IDS[4])  # which merges the same four again
    assert [finding.where for finding in examine(tmp_path) if finding.wrong] == ["stacks/00000001-00000005"]
    _doctor(tmp_path)
    assert sorted(read_results(tmp_path).runs["run_id"]) == IDS[:5]


def _merged_after_a_listing(root: Path, monkeypatch: pytest.MonkeyPatch, listed: int) -> Store:
    """A store whose first listing has only so many of the folders, which have been merged since."""
    store = _begun(root)
    _commit(store, *IDS[:3])
    answers = [store.names()[:listed]]
    _commit(store, IDS[3])
    present = Store.names
    monkeypatch.setattr(Store, "names", lambda self: answers.pop() if answers else present(self))
    return Store(root)


@pytest.mark.parametrize("listed", [0, 3])
def test_a_reader_whose_folders_are_merged_meanwhile_reads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, listed: int
) -> None:
    """A listing is of no one moment: it may miss the merged one, which is new, and the others, which are gone."""
    assert _merged_after_a_listing(tmp_path, monkeypatch, listed).finished() == set(IDS[:4])


def test_kernels_are_found_while_folders_are_merged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = _merged_after_a_listing(tmp_path, monkeypatch, 3).kernels(IDS[1])
    assert kept is not None
    assert kept["ntk"].item() == 1.0


def test_large_folders_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacks, "FULL", 10)
    _commit(_begun(tmp_path), *IDS)
    assert len(_names(tmp_path)) == 10


def test_what_another_machine_merges_meanwhile_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where locks do not reach it."""
    store = _begun(tmp_path)
    monkeypatch.setattr(stacks, "MOST", 100)
    _commit(store, *IDS[:4])
    monkeypatch.setattr(stacks, "MOST", 3)
    smallest, merged = stacks._smallest, list[object]()

    def late(folders: Any) -> Any:
        chosen = smallest(folders)
        if not merged:
            merged.append(chosen)
            Store(tmp_path)._merge(chosen)
        return chosen

    monkeypatch.setattr(stacks, "_smallest", late)
    with store.writing():
        store.merge()
    assert _names(tmp_path) == ["00000001-00000005"]
    assert store.finished() == set(IDS[:4])
    assert all(store.kernels(run_id) is not None for run_id in IDS[:4])
