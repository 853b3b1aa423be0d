"""Many small stacks in one folder: readers see the same tables before, after and in between."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from ntkrun.doctor.results_directory import examine, repair
from ntkrun.store import results_directory
from ntkrun.store.results_directory import Results, Store, read_results
from ntkrun.store.stack_folders import PACK, run_ids_in
from tests.store.store_of import DESCRIPTION, frames_of, plan_of

IDS = [f"run{k}" for k in range(10)]


@pytest.fixture(autouse=True)
def _four_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_directory, "LOOSE", 4)


def _begun(root: Path) -> Store:
    store = Store(root)
    with store.writing():
        store.begin(DESCRIPTION, plan_of(*IDS))
    return store


def _commit(store: Store, *run_ids: str) -> None:
    with store.writing():
        for run_id in run_ids:
            store.commit(frames_of(run_id), {})


def _names(root: Path) -> list[str]:
    return sorted(path.name[16:] for path in (root / "stacks").iterdir())


def _equal(one: Results, other: Results) -> None:
    for table in ("runs", "steps", "layers", "modes", "outputs"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), check_exact=True)


def test_a_commit_looks_at_no_other_stack_until_it_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds lie about by then: to resolve the path of each was two thirds of what a commit took."""
    store, inside, looked = _begun(tmp_path), results_directory.inside, list[str]()
    monkeypatch.setattr(results_directory, "inside", lambda root, *parts: looked.extend(parts) or inside(root, *parts))
    with store.writing():
        looked.clear()
        for run_id in IDS[:3]:
            store.commit(frames_of(run_id), {})
    assert set(looked) == {"stacks"}


def test_packed_stacks_are_read_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _begun(tmp_path / "packed")
    _commit(packed, *IDS)
    assert _names(packed.root) == ["", "", "-pack", "-pack"]
    monkeypatch.setattr(results_directory, "LOOSE", 100)
    loose = _begun(tmp_path / "loose")
    _commit(loose, *IDS)
    assert _names(loose.root) == [""] * 10
    _equal(read_results(packed.root), read_results(loose.root))
    assert packed.finished() == loose.finished() == set(IDS)
    pd.testing.assert_frame_equal(packed.runs(), loose.read().runs)


class Gone(BaseException):
    """The process is killed here."""


CHANGES = ((os, "mkdir"), (os, "fsync"), (os, "rename"), (os, "unlink"), (os, "rmdir"))


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

    for home, name in (*CHANGES, (pq, "write_table")):
        patched.setattr(home, name, until(getattr(home, name), name))
    return asked


def _packing_killed_at(nth: float, root: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    store = Store(root)
    with store.writing(), monkeypatch.context() as patched:
        asked = _killed_at(nth, patched)
        try:
            store.commit(frames_of(IDS[3]), {})
        except Gone:
            return asked
    return []


def _runs_on_disk(root: Path) -> list[str]:
    return sorted(run for folder in Store(root).stack_folders() for run in run_ids_in(folder))


def _sweep(root: Path) -> None:
    with (store := Store(root)).writing():
        store.begin(DESCRIPTION, plan_of(*IDS))


def _doctor(root: Path) -> None:
    assert not any(finding.wrong for finding in repair(root, examine(root)))


def test_a_kill_at_any_step_of_packing_leaves_each_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loose = tmp_path / "loose"
    _commit(_begun(loose), *IDS[:3])
    seen, nth, twice = set[str](), 1, 0
    while asked := _packing_killed_at(nth, shutil.copytree(loose, root := tmp_path / str(nth)), monkeypatch):
        on_disk = _runs_on_disk(root)
        seen, nth = seen | set(asked), nth + 1
        before = read_results(root)
        assert before.runs["run_id"].tolist() in (IDS[:3], IDS[:4])
        assert (before.steps["run_id"].value_counts() == 2).all()
        assert Store(root).finished() == set(before.runs["run_id"])
        mends = [(_sweep, root)]
        if len(set(on_disk)) < len(on_disk):
            twice += 1
            mends.append((_doctor, shutil.copytree(root, tmp_path / f"{nth}-doctor")))
        for mend, of in mends:
            mend(of)
            assert _runs_on_disk(of) == before.runs["run_id"].tolist()  # each once
            _equal(read_results(of), before)
    assert twice >= 5  # of the kills fell between the pack and the last of the four
    assert seen == {name for _, name in CHANGES} | {"write_table"}


def test_a_pack_that_is_torn_takes_none_of_the_small_ones_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _begun(tmp_path)
    _commit(store, *IDS[:3])
    with monkeypatch.context() as patched:
        patched.setattr(Store, "_remove", lambda self, folders: None)
        _commit(store, IDS[3])
    (pack,) = [folder for folder in store.stack_folders() if folder.name.endswith(PACK)]
    (pack / "steps.parquet").write_bytes(b"PAR1 torn")
    _sweep(tmp_path)
    _commit(Store(tmp_path), IDS[0])  # which packs the same four again, under the same name
    assert [found.where for found in examine(tmp_path) if found.cure == "aside"] == [f"stacks/{pack.name}"]
    assert repair(tmp_path, examine(tmp_path)) == [found for found in examine(tmp_path) if not found.wrong]
    assert sorted(read_results(tmp_path).runs["run_id"]) == IDS[:4]


def test_a_pack_that_comes_while_the_stacks_are_listed_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listing is of no one moment: it may miss the pack, which is new, and the small ones, which are gone."""
    store = _begun(tmp_path)
    _commit(store, *IDS[:4])
    answers: list[list[Path]] = [[]]
    present = Store.stack_folders
    monkeypatch.setattr(Store, "stack_folders", lambda self: answers.pop() if answers else present(self))
    assert Store(tmp_path).finished() == set(IDS[:4])


def test_a_reader_whose_stacks_go_into_a_pack_reads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _begun(tmp_path)
    _commit(store, *IDS[:3])
    listed = store.stack_folders()
    _commit(store, IDS[3])
    answers = [listed]
    present = Store.stack_folders

    def first_as_it_was(self: Store) -> list[Path]:
        return answers.pop() if answers else present(self)

    monkeypatch.setattr(Store, "stack_folders", first_as_it_was)
    assert Store(tmp_path).finished() == set(IDS[:4])


def test_large_and_failed_stacks_stay_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = _begun(tmp_path)
    monkeypatch.setattr(results_directory, "SMALL", 10)
    _commit(store, *IDS)
    assert _names(tmp_path) == [""] * 10
    monkeypatch.setattr(results_directory, "SMALL", 2**18)
    failed = pd.DataFrame({"run_id": ["bad"], "status": "failed"})
    with store.writing():
        store.commit_failed(failed, "why")
    _commit(Store(tmp_path), IDS[0])
    assert _names(tmp_path) == ["-failed", "-pack"]
