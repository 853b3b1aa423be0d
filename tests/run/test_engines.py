"""What is decided about engines before any runs: what goes together, what Ray would be given, what is said against it.
None of this needs Ray."""

import signal
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from ntkrun.commands.progress_bar import plan_lines
from ntkrun.config.reader import parse_config
from ntkrun.errors import UserError
from ntkrun.run import ray as ray_workers
from ntkrun.run.engines import EngineSelection, expected_engine
from ntkrun.run.forecast import DryRun, dry_run_of
from ntkrun.run.kernel_blocks import blocks
from ntkrun.run.ray import connected_workers

TEXT = """\
name: engines
data: {name: sphere, dimension: 3, samples: 5, test_samples: 2}
training: {steps: 4}
sweep: {grid: {network.width: [8, 9, 10]}, seeds: 4}
"""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """In the place of Ray, which need not be there."""
    fake = SimpleNamespace(shutdown=lambda: None)
    monkeypatch.setattr(ray_workers, "import_ray", lambda: fake)
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    return fake


def _raises(error: BaseException) -> Callable[..., NoReturn]:
    def call(*arguments: object, **options: object) -> NoReturn:
        raise error

    return call


# ---------------------------------------------------------------- what is asked


@pytest.mark.parametrize(
    ("engine", "jobs", "address", "what"),
    [
        ("local", 2, None, "--jobs 2: more than one at once needs --engine ray"),
        ("local", None, "auto", "--ray-address auto: needs --engine ray"),
        ("dask", None, None, "--engine dask: choose local or ray"),
        ("ray", 0, None, "--jobs 0: give 1 or more"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(engine: str, jobs: int | None, address: str | None, what: str) -> None:
    with pytest.raises(UserError, match=what):
        EngineSelection(engine, jobs, address)


def test_without_ray_a_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setitem(sys.modules, "ray", None)
    for use in (
        lambda: expected_engine(EngineSelection("ray"), "cpu"),
        lambda: connected_workers(None, 1, "cpu").__enter__(),
    ):
        with pytest.raises(UserError, match=r"pip install 'ntkrun\[ray\]'"):
            use()


def test_ray_that_was_imported_untamed_is_not_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", sys)  # whatever it is, it was there before
    monkeypatch.delenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", raising=False)
    with pytest.raises(UserError, match="Ray was imported before"), connected_workers(None, 1, "cpu"):
        pass


# ---------------------------------------------------------------- before anything runs


def _ahead(selection: EngineSelection, *overrides: str) -> DryRun:
    return dry_run_of(parse_config(TEXT, overrides=overrides), "nowhere", "cpu", selection=selection)


@pytest.mark.usefixtures("ray")
def test_a_dry_run_shares_the_time_out_and_says_what_it_assumes() -> None:
    alone, three = _ahead(EngineSelection()), _ahead(EngineSelection("ray", 3))
    assert alone.seconds == sum(each.seconds for each in alone.estimates)
    assert three.seconds == sum(each.seconds for each in three.estimates) / 3
    (one,) = _ahead(EngineSelection("ray", 3), "sweep={grid: {network.width: [8]}, seeds: 1}").estimates
    assert _ahead(EngineSelection("ray", 3), "sweep={grid: {network.width: [8]}, seeds: 1}").seconds > one.seconds / 3
    assert [each.stacks for each in three.estimates] >= [each.stacks for each in alone.estimates]
    *_, last, note = plan_lines(three)
    assert "in all with 3 workers" in last
    assert note == "note: each of 3 workers is assumed to be as fast as one worker alone"
    assert three.as_json()["workers"] == 3
    assert three.as_json()["seconds"] == three.seconds
    assert "worker" not in "".join(plan_lines(alone))


@pytest.mark.usefixtures("ray")
def test_a_dry_run_does_not_ask_a_cluster_and_says_so() -> None:
    (note,) = _ahead(EngineSelection("ray", None, "auto")).notes
    assert note.startswith("the cluster at auto is not contacted")
    assert note.endswith("and one worker is assumed; set their number with --jobs")
    assert _ahead(EngineSelection("ray", 4, "auto")).workers == 4


@pytest.mark.usefixtures("ray")
def test_a_dry_run_refuses_a_device_that_the_engine_would() -> None:
    for device, what in (("cuda:1", "Ray assigns the GPUs"), ("tpu", "choose auto, cpu or cuda")):
        with pytest.raises(UserError, match=what):
            expected_engine(EngineSelection("ray"), device)


def test_memory_is_shared_out_among_the_workers_of_a_place() -> None:
    each = ray_workers.memory_each(2**33, 1, 1)
    assert each == 8 * ray_workers.SHARE
    assert ray_workers.memory_each(2**33, 4, 1) == each / 4
    assert ray_workers.memory_each(2**33, 4, 3) == each / 2  # two of them share one of the three nodes


# ---------------------------------------------------------------- Ray that does not start


@pytest.mark.usefixtures("ray")
def test_an_address_of_no_cluster_is_a_sentence() -> None:
    for address, what in (("ray://head:10001", "give auto or HOST:PORT"), ("127.0.0.1:1", "no cluster answers there")):
        with (
            pytest.raises(UserError, match=f"--ray-address {address}: {what}"),
            connected_workers(address, None, "cpu"),
        ):
            pass


@pytest.mark.parametrize(
    "error",
    [
        ValueError("Attempting to cap object store memory usage at 5\nbytes"),
        RuntimeError("Version mismatch: the cluster has\n    Ray: 2.44"),
        Exception("The current node timed out during startup."),
    ],
)
def test_what_ray_says_against_starting_is_a_sentence(ray: SimpleNamespace, error: Exception) -> None:
    ray.init = _raises(error)
    what = "--engine ray: Ray does not start: " + " ".join(str(error).split())
    with pytest.raises(UserError) as caught, connected_workers(None, 1, "cpu"):
        pass
    assert str(caught.value) == what


@pytest.mark.usefixtures("ray")
def test_no_place_for_rays_sockets_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_workers, "SOCKETS", "/proc/nowhere")
    with pytest.raises(UserError, match=r"/proc/nowhere.*cannot be written"), connected_workers(None, 1, "cpu"):
        pass


def test_sigterm_while_ray_starts_is_an_interrupt_and_ours_again_afterwards(ray: SimpleNamespace) -> None:
    def init(**options: object) -> NoReturn:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(15))  # as Ray does
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError

    ray.init, before = init, signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), connected_workers(None, 1, "cpu"):
        pass
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_cluster_without_a_cpu_is_a_sentence(ray: SimpleNamespace) -> None:
    ray.nodes = lambda: [{"Alive": True, "Resources": {"memory": 1.0}}, {"Alive": False, "Resources": {"CPU": 8.0}}]
    for jobs in (None, 2):
        with pytest.raises(UserError, match="the cluster offers no CPU"):
            ray_workers._workers(jobs, "cpu")


def test_a_function_that_cannot_be_sent_is_a_sentence(ray: SimpleNamespace) -> None:
    ray.put = _raises(TypeError("Could not serialize <lock>\nmore"))
    functions: Any = [SimpleNamespace(name="bump"), SimpleNamespace(name="dent")]
    with pytest.raises(UserError, match=r"activations bump, dent: cannot be sent to Ray's workers \(Could not"):
        ray_workers._sent(functions)


# ---------------------------------------------------------------- kernels


@pytest.mark.parametrize(("inputs", "outputs", "count"), [(20000, 1, 4), (100, 1, 4), (5000, 10, 100)])
def test_blocks_cover_the_upper_half_once(inputs: int, outputs: int, count: int) -> None:
    parts = blocks([0, 1], inputs, outputs, count)
    covered = sum(
        (b.rows.stop - b.rows.start) * (b.columns.stop - b.columns.start) * (1 if b.rows == b.columns else 2)
        for b in parts
    )
    assert covered == 2 * inputs**2
    assert len(parts) >= count or inputs == 100
