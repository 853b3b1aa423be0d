"""The store: whole files or none, finished runs kept, one writer at a time."""

import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ntkrun.errors import StoreBusy, UserError
from ntkrun.files import writing
from ntkrun.files.writing import temporary_name
from ntkrun.store.locks import LOCKS
from ntkrun.store.results_directory import Store, read_results
from tests.store.store_of import DESCRIPTION, filled, frames_of, plan_of


def _files(root: Path) -> set[str]:
    files = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    return {str(path) for path in files if path.parts[0] != LOCKS}


def test_tables_hold_the_plan_in_its_order_and_open_with_pandas(tmp_path: Path) -> None:
    filled(tmp_path, ["b", "a", "missing"], ["a", "b"])
    runs = pd.read_parquet(tmp_path / "runs.parquet")
    assert runs["run_id"].tolist() == ["b", "a"]
    assert runs["network.width"].tolist() == [8, 16]
    assert pd.read_parquet(tmp_path / "steps.parquet")["run_id"].tolist() == ["b", "b", "a", "a"]
    results = read_results(tmp_path)
    pd.testing.assert_frame_equal(results.runs, runs)
    assert results.layers["weight_drift"].tolist() == [0.1] * 4


def test_kernels_come_back_as_they_were(tmp_path: Path) -> None:
    filled(tmp_path, ["a", "b"], ["a"])
    results = read_results(tmp_path)
    kept = results.kernels("a")
    assert kept is not None
    assert kept["steps"].tolist() == [0, 7]
    assert kept["ntk"].shape == (2, 2, 2, 1, 1)
    assert (kept["ntk"][0, :, :, 0, 0] == np.eye(2)).all()
    assert results.kernels("b") is None


def test_runs_of_an_earlier_plan_stay_on_disk_and_out_of_the_tables(tmp_path: Path) -> None:
    store = filled(tmp_path, ["a", "b"], ["a", "b"])
    with store.writing():
        store.begin(DESCRIPTION, plan_of("b", "c"))
        assert store.finished() == {"a", "b"}
        store.write_tables()
    assert read_results(tmp_path).runs["run_id"].tolist() == ["b"]
    with store.writing():
        store.begin(DESCRIPTION, plan_of("a", "b"))
    # Not written yet: the tables on disk are of another plan, so they must not be believed.
    assert read_results(tmp_path).runs["run_id"].tolist() == ["a", "b"]


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with (
        Store(tmp_path).writing(),
        pytest.raises(StoreBusy, match=rf"another ntkrun process is writing here, process {os.getpid()} on ") as caught,
        Store(tmp_path).writing(),
    ):
        pass
    assert caught.value.code == 4
    assert not Store(tmp_path).writers()
    with Store(tmp_path).writing():
        assert Store(tmp_path).writers()


def _pid_of_a_dead_process() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_temporaries_are_never_read_and_removed_once_their_writer_is_dead_for_certain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = filled(tmp_path, ["a"], ["a"])
    before = _files(tmp_path)

    def leave_temporaries() -> None:
        for name in (tmp_path / "runs.parquet", tmp_path / "figures" / "loss.png"):
            name.parent.mkdir(exist_ok=True)
            temporary_name(name).write_bytes(b"torn")
        torn = temporary_name(tmp_path / "stacks" / "folder")
        (torn / "kernels").mkdir(parents=True)
        (torn / "kernels" / "a.npz").write_bytes(b"torn")
        (torn / "runs.parquet").write_bytes(b"torn")

    leave_temporaries()  # of this process, which lives
    with monkeypatch.context() as patched:
        patched.setattr(writing, "_this_machine", lambda: "0" * 12)
        patched.setattr(os, "getpid", lambda: dead)
        dead = _pid_of_a_dead_process()
        leave_temporaries()  # of another machine, which cannot be asked
    (tmp_path / ".tmp-0123").write_bytes(b"of an earlier version")
    kept = _files(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "getpid", lambda: dead)
        leave_temporaries()
    assert len(_files(tmp_path)) == len(kept) + 4
    assert store.finished() == {"a"}
    assert len(read_results(tmp_path).runs) == 1
    with store.writing():
        pass
    assert _files(tmp_path) == kept
    assert len(kept) == len(before) + 9


def test_an_exception_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, ["a", "b"], ["a"])
    before = {name: (tmp_path / name).read_bytes() for name in _files(tmp_path)}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("ntkrun.files.parquet.pq.write_table", full)
    sentence = r"cannot be written \(No space left on device\); finished runs are kept"
    with pytest.raises(UserError, match=sentence), store.writing():
        store.commit(frames_of("b"), {})
    assert {name: (tmp_path / name).read_bytes() for name in _files(tmp_path)} == before


def test_a_kill_at_any_moment_leaves_whole_files(tmp_path: Path) -> None:
    """A process that commits stacks as fast as it can is killed again and again, each time at another moment."""
    script = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from pathlib import Path
        from store_of import DESCRIPTION, Store, frames_of, plan_of
        import numpy as np
        ids = [f"run{{k}}" for k in range(400)]
        store = Store(Path(sys.argv[1]))
        with store.writing():
            print("writing", flush=True)
            store.begin(DESCRIPTION, plan_of(*ids))
            for run_id in ids:
                if run_id not in store.finished():
                    store.commit(frames_of(run_id), {{run_id: {{0: np.zeros((9, 9, 1, 1))}}}})
                    print("committed", flush=True)
                store.write_tables()
    """)
    finished = 0
    for attempt in range(4):
        process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        assert process.stdout.readline() == "committed\n"  # however slow the disk, each attempt gets further
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=0.35 + 0.11 * attempt)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        results = read_results(tmp_path)
        assert set(results.steps["run_id"]) == set(results.runs["run_id"])
        for path in tmp_path.glob("[!.]*.parquet"):
            pd.read_parquet(path)
        for run_id in results.runs["run_id"]:
            assert results.kernels(run_id) is not None
        assert len(results.runs) > finished  # what was finished stays
        finished = len(results.runs)


def test_a_run_that_was_put_there_twice_counts_once_and_rather_finished(tmp_path: Path) -> None:
    """As in a directory put together from copies."""
    store = filled(tmp_path, ["a", "b"], ["b"])
    with store.writing():
        store.commit(frames_of("a", "b"), {})
        store.commit_failed(frames_of("a")["runs"].assign(status="failed"), "why")
        store.commit_failed(frames_of("c")["runs"].assign(status="failed"), "why")
    results = read_results(tmp_path)
    assert results.runs["status"].tolist() == ["done", "done"]
    assert results.steps["run_id"].tolist() == ["a", "a", "b", "b"]


def test_a_commit_leaves_out_what_another_process_has_committed_meanwhile(tmp_path: Path) -> None:
    store, other = filled(tmp_path, ["a", "b"], []), Store(tmp_path)
    assert store.finished() == set()
    changed = frames_of("b")
    changed["steps"]["loss"] = 7.0
    with other.writing():
        other.commit(changed, {"b": {0: np.full((1, 1, 1, 1), 7.0)}})
        store.commit(frames_of("a", "b"), {run_id: {0: np.ones((1, 1, 1, 1))} for run_id in ("a", "b")})
        store.commit(frames_of("a"), {})
    results = read_results(tmp_path)
    assert results.steps["loss"].tolist() == [0.5, 0.5, 7.0, 7.0]
    assert [results.kernels(run_id)["ntk"].item() for run_id in ("a", "b")] == [1.0, 7.0]  # type: ignore[index]
    assert [list(pd.read_parquet(path)["run_id"]) for path in sorted(tmp_path.glob("stacks/*/runs.parquet"))] == [
        ["b"],
        ["a"],
    ]


def test_where_locks_do_not_reach_the_first_of_two_commits_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes choose the same number, and neither has seen the other's run."""
    first, second = filled(tmp_path, ["a"], []), Store(tmp_path)
    later = frames_of("a")
    later["steps"]["loss"] = 7.0
    monkeypatch.setattr(Store, "_present", lambda self, run_ids: set())
    names = Store._names
    with first.writing():
        first.commit(frames_of("a"), {"a": {0: np.zeros((1, 1, 1, 1))}})
        monkeypatch.setattr(Store, "_names", lambda self: [])
        second.commit(later, {"a": {0: np.ones((1, 1, 1, 1))}})
    monkeypatch.setattr(Store, "_names", names)
    assert sorted(path.name for path in (tmp_path / "stacks").iterdir()) == ["00000001", "00000002"]
    results = read_results(tmp_path)
    assert results.steps["loss"].tolist() == [0.5, 0.5]
    assert results.kernels("a")["ntk"].item() == 0.0  # type: ignore[index]
    assert Store(tmp_path).finished() == {"a"}


def test_results_of_the_version_before_are_read_and_continued(tmp_path: Path) -> None:
    """It named a folder after its runs, packed small ones, and kept kernels beside them."""
    store = filled(tmp_path, ["a", "b", "c", "d"], ["a", "b", "c"])
    stacks = tmp_path / "stacks"
    kernels = tmp_path / "kernels"
    kernels.mkdir()
    for folder, name in zip(store.stack_folders(), ("00112233445566ff", "9999999999999999", "ab-pack"), strict=True):
        for file in (folder / "kernels").iterdir():
            file.rename(kernels / file.name)
        (folder / "kernels").rmdir()
        folder.rename(stacks / name)
    shutil.copytree(stacks / "00112233445566ff", stacks / "0123456789abcdef")  # and killed while it packed
    (stacks / "0123456789abcdef").rename(stacks / "cd-pack")
    with store.writing():
        store.commit_failed(frames_of("d")["runs"].assign(status="failed"), "why")
        (failed,) = stacks.glob("*-failed")
        failed.rename(stacks / "00ff-failed")
    store = Store(tmp_path)
    assert store.finished() == {"a", "b", "c"}
    assert store.failed() == {"d": stacks / "00ff-failed" / "log.txt"}
    assert read_results(tmp_path).runs["run_id"].tolist() == ["a", "b", "c", "d"]
    with store.writing():
        store.begin(DESCRIPTION, plan_of("a", "b", "c", "d"))
        store.forget_failed(["d"])
        store.commit(frames_of("c", "d"), {})
        store.write_tables()
    assert pd.read_parquet(stacks / "00000002" / "runs.parquet")["run_id"].tolist() == ["d"]
    results = read_results(tmp_path)
    assert results.runs["status"].tolist() == ["done"] * 4
    assert not results.steps.duplicated(["run_id", "step"]).any()
    kept = results.kernels("c")
    assert kept is not None
    assert kept["steps"].tolist() == [0, 7]


def test_stacks_of_a_version_that_measured_less_stay_readable(tmp_path: Path) -> None:
    store = filled(tmp_path, ["old", "new"], ["old"])
    newer = frames_of("new")
    newer["steps"]["a_new_metric"] = 1.0
    newer["modes"] = pd.DataFrame({"run_id": ["new"], "step": 0, "mode": 0, "time": 0.0, "eigenvalue": 1.0})
    with store.writing():
        store.commit(newer, {})
        store.write_tables()
    steps = read_results(tmp_path).steps
    assert steps.groupby("run_id")["a_new_metric"].count().to_dict() == {"new": 2, "old": 0}
    assert steps["growth"].isna().all()  # measured by this version, by neither of these stacks
    assert read_results(tmp_path).modes["run_id"].tolist() == ["new"]


def test_a_directory_without_a_sweep_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no sweep here"):
        read_results(tmp_path / "nothing")


def test_a_torn_stack_is_named(tmp_path: Path) -> None:
    filled(tmp_path, ["a"], ["a"])
    (torn,) = (tmp_path / "stacks").glob("*/runs.parquet")
    torn.write_bytes(b"PAR1 torn")
    with pytest.raises(UserError, match=r"runs\.parquet: cannot be read as a table .* repairs it, or says how"):
        Store(tmp_path).finished()


def test_a_torn_table_is_made_again(tmp_path: Path) -> None:
    store = filled(tmp_path, ["a"], ["a"])
    (tmp_path / "runs.parquet").write_bytes(b"garbage")
    assert read_results(tmp_path).runs["run_id"].tolist() == ["a"]
    with store.writing():
        store.write_tables()
    assert pd.read_parquet(tmp_path / "runs.parquet")["run_id"].tolist() == ["a"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="cannot write results here"), Store(tmp_path / "new").writing():
        pass


def test_a_file_where_the_directory_should_be_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot write results here"), Store(tmp_path / "taken" / "run").writing():
        pass


def test_sweep_yaml_that_is_torn_is_a_sentence(tmp_path: Path) -> None:
    store = filled(tmp_path, ["a"], ["a"])
    assert store.description()["config"]["name"] == "test"
    (tmp_path / "sweep.yaml").write_text("a: [")
    with pytest.raises(UserError, match=r"sweep\.yaml: cannot be read"):
        store.description()


def test_failed_runs_that_are_forgotten_free_no_number(tmp_path: Path) -> None:
    """Else the tables of the failure before would pass for those of the next one."""
    store = filled(tmp_path, ["a", "b", "c"], ["a"])
    failed = frames_of("b", "c")["runs"].assign(status="failed")
    with store.writing():
        store.commit_failed(failed.assign(reason="first"), "first")
        store.write_tables()
        store.forget_failed(["b"])
        assert store.failed().keys() == {"c"}
        store.forget_failed(["c"])
        assert store.failed() == Store(tmp_path).failed() == {}
        store.commit_failed(failed.assign(reason="second"), "second")
        store.write_tables()
    assert read_results(tmp_path).runs["reason"].tolist() == ["", "second", "second"]
    assert Store(tmp_path).stale() == ""
    assert {path.read_text() for path in store.failed().values()} == {"second"}


def test_a_link_to_nothing_among_the_stacks_is_a_sentence(tmp_path: Path) -> None:
    filled(tmp_path, ["a"], ["a"])
    (tmp_path / "stacks" / "00000007").symlink_to("00000007")
    with pytest.raises(UserError, match="cannot be read as a table"):
        Store(tmp_path).finished()


def test_the_number_of_a_folder_that_somebody_removed_brings_no_old_table_back(tmp_path: Path) -> None:
    store = filled(tmp_path, ["a", "b", "c"], ["a"])
    with store.writing():
        store.commit(frames_of("b", "c"), {})
        store.write_tables()
    shutil.rmtree(tmp_path / "stacks" / "00000002")
    store = Store(tmp_path)
    with store.writing():
        store.commit(frames_of("b"), {})
        assert (tmp_path / "stacks" / "00000002").exists()
        store.write_tables()
    assert read_results(tmp_path).runs["run_id"].tolist() == ["a", "b"]
