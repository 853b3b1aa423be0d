"""The store: whole files or none, finished runs kept, one writer at a time."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ntkrun.errors import StoreBusy, UserError
from ntkrun.store.lock import LOCK_TIMEOUT
from ntkrun.store.results_directory import Store, read_results
from tests.store.store_of import DESCRIPTION, filled, frames_of, plan_of


def _files(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file() and path.name != ".lock"}


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


def test_temporaries_of_a_killed_process_are_swept_and_never_read(tmp_path: Path) -> None:
    store = filled(tmp_path, ["a"], ["a"])
    before = _files(tmp_path)
    for stray in (tmp_path / ".tmp-1.parquet", tmp_path / "kernels" / ".tmp-2.npz"):
        stray.write_bytes(b"torn")
    torn = tmp_path / "stacks" / ".tmp-3"
    torn.mkdir()
    (torn / "runs.parquet").write_bytes(b"torn")
    assert store.finished() == {"a"}
    assert len(read_results(tmp_path).runs) == 1
    strays = _files(tmp_path) - before
    with store.writing():
        pass
    assert _files(tmp_path) == before | strays  # somebody may be at it: `plot`, or another shard
    for path in tmp_path.rglob("*"):
        os.utime(path, (0, time.time() - LOCK_TIMEOUT - 1))
    with store.writing():
        pass
    assert _files(tmp_path) == before


def test_an_exception_while_writing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = filled(tmp_path, ["a", "b"], ["a"])
    before = {name: (tmp_path / name).read_bytes() for name in _files(tmp_path)}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr("ntkrun.store.stack_folders.pq.write_table", full)
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


def test_a_stack_that_is_there_stands(tmp_path: Path) -> None:
    store = filled(tmp_path, ["a"], ["a"])
    other = frames_of("a")
    other["steps"]["loss"] = 7.0
    with store.writing():
        store.commit(other, {})
    assert read_results(tmp_path).steps["loss"].tolist() == [0.5, 0.5]
    assert not list(tmp_path.rglob(".tmp-*"))


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
