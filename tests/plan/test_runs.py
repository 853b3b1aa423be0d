"""Plans: what makes a run's identity, and what does not."""

from pathlib import Path

import pytest
import torch

from ntkrun.config.reader import parse_config
from ntkrun.config.schema import LogSpaced, Probes
from ntkrun.plan.runs import detail_steps, kept_steps, plan, probed_steps, run_row, stacks
from ntkrun.theory import activations

BASE = """\
name: test
network: {depth: 3, width: 8, activation: erf}
data: {name: gaussian, dimension: 3}
training: {step_size: 0.5, steps: 4}
sweep: {seeds: 2}
"""


def _ids(text: str = BASE, *overrides: str) -> list[str]:
    return [run.run_id for run in plan(parse_config(text, overrides=overrides))]


def test_ids_do_not_depend_on_order_name_or_company() -> None:
    ids = _ids()
    assert len(set(ids)) == 2
    assert _ids("\n".join(reversed(BASE.strip().split("\n")))) == ids
    assert _ids(BASE, "name=other") == ids
    assert _ids(BASE, "sweep.seeds=3")[:2] == ids
    assert _ids(BASE, "sweep.seeds=[1]") == ids[1:]
    assert _ids(BASE, "sweep.grid.network.width=[4, 8, 16]")[2:4] == ids
    assert _ids(BASE, "sweep=[{seeds: 1}, {grid: {network.width: [8]}, seeds: 2}]") == ids


def test_a_registered_activation_is_known_by_its_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same name for another function in another process is another run."""
    found = []
    for function in (torch.nn.functional.mish, torch.nn.functional.hardtanh, torch.nn.functional.mish):
        monkeypatch.setattr(activations, "_REGISTERED", {})
        activations.register_activation("own_test", function)
        found.append(_ids(BASE, "network.activation=own_test"))
    assert found[0] == found[2] != found[1]


def test_writing_a_default_out_changes_no_id() -> None:
    ids = _ids()
    for override in (
        "network.beta=0.1",
        "data.samples=64",
        "data.target_scale=1",
        "data.conflicts=0",
        "data.between=",
        "training.dtype=float32",
        "training.output_scale=1",
        "probes.every=1",
        "probes.detail={log_spaced: 16}",
        "probes.outputs=[first, last]",
        "network.weight_scale=1",
        "network.parametrization=ntk",
    ):
        assert _ids(BASE, override) == ids
    assert _ids(BASE, "network.width=[8, 8]") == ids  # the same network


def test_whatever_changes_a_number_changes_the_id() -> None:
    seen = set(_ids())
    for override in (
        "network.beta=0.2",
        "network.width=9",
        "network.depth=2",
        "network.activation=sin",
        "network.weight_scale=1.1",
        "network.parametrization=standard",
        "network.parametrization=mean_field",
        "data.samples=63",
        "data.seed=1",
        "data={name: circle}",
        "data={name: sphere, dimension: 3}",
        "data.targets=product",
        "data.targets={component: 1}",
        "data.targets={component: 2}",
        "data.targets={component: 2, size: 0.5}",
        "data.between=[0, 1]",
        "data.between=[1, 0]",
        "data.target_scale=2",
        "data.conflicts=2",
        "training.step_size=0.4",
        "training.step_size={relative: 0.5}",
        "training.steps=5",
        "training.dtype=float64",
        "training.loss=huber",
        "training.batch=2",
        "training.momentum=0.5",
        "training.output_scale=0.5",
        "training.output_scale={centred: 1}",
        "training.output_scale={centred: 0.5}",
        "probes.every=2",
        "probes.detail=none",
        "probes.detail={log_spaced: 3}",
        "probes.kernels=[]",
        "probes.outputs=[]",
    ):
        ids = set(_ids(BASE, override))
        assert not ids & seen, override
        seen |= ids


def test_ids_are_stable_between_versions() -> None:
    """Finished runs of an earlier version must stay finished: this value may change only with IDENTITY_VERSION."""
    assert _ids() == ["6108189e6b1e6fb1", "23e54c7b9ce7d78c"]


def test_a_moved_file_keeps_its_runs(tmp_path: Path) -> None:
    for name in ("one.csv", "two.csv"):
        (tmp_path / name).write_text("x,y\n1,2\n3,4\n5,6\n")
    text = BASE.replace(
        "{name: gaussian, dimension: 3}",
        "{name: file, path: PATH, inputs: [x], targets: [y], samples: 2, test_samples: 1}",
    )
    one, two = (_ids(text.replace("PATH", str(tmp_path / name))) for name in ("one.csv", "two.csv"))
    assert one == two
    (tmp_path / "two.csv").write_text("x,y\n1,2\n3,4\n5,7\n")
    assert _ids(text.replace("PATH", str(tmp_path / "two.csv"))) != one


def test_stacks_hold_the_seeds_of_a_point() -> None:
    made = stacks(plan(parse_config(BASE, overrides=["sweep.grid.network.width=[4, 8]"])))
    assert [(stack.point.network.width, stack.seeds) for stack in made] == [(4, [0, 1]), (8, [0, 1])]


def test_columns_hold_every_config_value() -> None:
    row = run_row(plan(parse_config(BASE, overrides=["network.width=[3, 4]"]))[1])
    assert row["network.width"] == "[3, 4]"
    assert row["network.activation"] == "erf"
    assert row["data.dimension"] == 3
    assert row["training.step_size"] == 0.5
    assert row["probes.kernels"] == '["first", "last"]'
    assert row["seed"] == 1
    assert "name" not in row


@pytest.mark.parametrize(
    ("every", "steps", "expected"),
    [(1, 3, {0, 1, 2, 3}), (2, 5, {0, 2, 4, 5}), (10, 3, {0, 3}), (1, 0, {0})],
)
def test_probes_every_so_many_steps(every: int, steps: int, expected: set[int]) -> None:
    assert probed_steps(Probes(every=every, detail="none"), steps) == expected
    assert detail_steps(Probes(detail=every), steps) == expected


def test_log_spaced_probes() -> None:
    spaced = Probes(every=LogSpaced(log_spaced=11), detail="none")
    assert sorted(probed_steps(spaced, 512)) == [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512]
    assert probed_steps(Probes(every=LogSpaced(log_spaced=5), detail="none"), 1) == {0, 1}


def test_detail_steps_are_probed_steps() -> None:
    assert probed_steps(Probes(every=4, detail=3), 8) == {0, 3, 4, 6, 8}
    assert detail_steps(Probes(every=4, detail="none"), 8) == frozenset()
    assert len(detail_steps(Probes(), 10_000)) == 16
    assert detail_steps(Probes(), 4) == {0, 1, 2, 3, 4}  # no more than there are


def test_kept_steps() -> None:
    assert kept_steps(("first", "last", 3), 9) == {0, 3, 9}
    assert kept_steps((), 9) == frozenset()
