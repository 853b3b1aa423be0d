"""Many small stacks in one folder: readers see the same tables before, after and in between."""

from pathlib import Path

import pandas as pd
import pytest

from ntkrun.lab import store as stores
from ntkrun.lab.store import Results, Store, read_results
from tests.lab.store_of import DESCRIPTION, frames_of, plan_of

IDS = [f"run{k}" for k in range(10)]


@pytest.fixture(autouse=True)
def _four_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "LOOSE", 4)


def _begun(root: Path) -> Store:
    store = Store(root)
    with store.writing():
        store.begin(DESCRIPTION, plan_of(*IDS))
    return store


def _commit(store: Store, *ids: str) -> None:
    with store.writing():
        for run_id in ids:
            store.commit(frames_of(run_id), {})


def _names(root: Path) -> list[str]:
    return sorted(path.name[16:] for path in (root / "stacks").iterdir())


def _equal(one: Results, other: Results) -> None:
    for table in ("runs", "steps", "layers", "modes", "outputs"):
        pd.testing.assert_frame_equal(getattr(one, table), getattr(other, table), check_exact=True)


def test_a_commit_looks_at_no_other_stack_until_it_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds lie about by then: to resolve the path of each was two thirds of what a commit took."""
    store, inside, looked = _begun(tmp_path), stores.inside, list[str]()
    monkeypatch.setattr(stores, "inside", lambda root, *parts: looked.extend(parts) or inside(root, *parts))
    with store.writing():
        looked.clear()
        for run_id in IDS[:3]:
            store.commit(frames_of(run_id), {})
    assert set(looked) == {"stacks"}


def test_packed_stacks_are_read_as_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = _begun(tmp_path / "packed")
    _commit(packed, *IDS)
    assert _names(packed.root) == ["", "", "-pack", "-pack"]
    monkeypatch.setattr(stores, "LOOSE", 100)
    loose = _begun(tmp_path / "loose")
    _commit(loose, *IDS)
    assert _names(loose.root) == [""] * 10
    _equal(read_results(packed.root), read_results(loose.root))
    assert packed.finished() == loose.finished() == set(IDS)
    pd.testing.assert_frame_equal(packed.runs(), loose.read().runs)


def test_a_kill_before_the_packed_ones_are_removed_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _begun(tmp_path)
    _commit(store, *IDS[:3])

    def killed(self: Store, folders: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Store, "_remove", killed)
        with pytest.raises(KeyboardInterrupt):
            _commit(store, IDS[3])
    assert _names(tmp_path) == ["", "", "", "", "-pack"]  # each run twice
    results = read_results(tmp_path)
    assert results.runs["run_id"].tolist() == IDS[:4]
    assert results.steps["run_id"].value_counts().to_dict() == dict.fromkeys(IDS[:4], 2)
    _commit(Store(tmp_path), IDS[4])
    assert _names(tmp_path) == ["-pack", "-pack"]
    assert read_results(tmp_path).steps["run_id"].value_counts().to_dict() == dict.fromkeys(IDS[:5], 2)


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
    monkeypatch.setattr(stores, "SMALL", 10)
    _commit(store, *IDS)
    assert _names(tmp_path) == [""] * 10
    monkeypatch.setattr(stores, "SMALL", 2**18)
    failed = pd.DataFrame({"run_id": ["bad"], "status": "failed"})
    with store.writing():
        store.commit_failed(failed, "why")
    _commit(Store(tmp_path), IDS[0])
    assert _names(tmp_path) == ["-failed", "-pack"]
