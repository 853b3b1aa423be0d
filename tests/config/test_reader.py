"""Configs: what is read, and the sentence for every kind of mistake."""

import json
import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from ntkrun.config.reader import Sweep, load_config, parse_config
from ntkrun.config.schema import Relative
from ntkrun.errors import ConfigError, UserError
from ntkrun.evidence.claims.entry import stored_claims
from ntkrun.theory.losses import LOSSES

GOOD = """\
name: test
network: {depth: 3, width: 8, activation: erf}
data: {name: gaussian, dimension: 3, samples: 6, test_samples: 2}
training: {step_size: 0.5, steps: 4}
sweep: {seeds: 2}
"""


def _problems(text: str, *overrides: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "f.yaml", overrides)
    return [str(problem) for problem in caught.value.problems]


def _widths(sweep: Sweep) -> list[object]:
    return [point.network.width for point, _ in sweep.points]


# ---------------------------------------------------------------- what is read


def test_defaults_are_those_of_the_contract() -> None:
    sweep = parse_config("name: x\ndata: {name: digits}\n")
    ((point, seeds),) = sweep.points
    assert (point.network.depth, point.network.width, point.network.activation) == (4, 256, "relu")
    assert (point.network.beta, point.network.weight_scale, point.network.parametrization) == (0.1, 1.0, "ntk")
    assert (point.data.samples, point.data.test_samples, point.data.seed) == (64, 64, 0)
    assert point.training.step_size == Relative(relative=1.0)
    assert (point.training.loss, point.training.steps, point.training.batch, point.training.dtype) == (
        "squared",
        500,
        "full",
        "float32",
    )
    assert (point.probes.every, point.probes.kernels) == (1, ("first", "last"))
    assert seeds == tuple(range(10))


def test_values_are_frozen() -> None:
    point, _ = parse_config(GOOD).points[0]
    with pytest.raises(ValidationError):
        point.network.depth = 5  # type: ignore[misc]


def test_grid_zip_and_blocks() -> None:
    grid = parse_config(GOOD, overrides=["sweep={grid: {network.width: [4, 8], network.depth: [2, 3]}, seeds: [7, 9]}"])
    assert [(p.network.width, p.network.depth, seeds) for p, seeds in grid.points] == [
        (4, 2, (7, 9)),
        (4, 3, (7, 9)),
        (8, 2, (7, 9)),
        (8, 3, (7, 9)),
    ]
    zipped = parse_config(GOOD, overrides=["sweep={zip: {network.width: [4, 8], training.steps: [1, 2]}}"])
    assert [(p.network.width, p.training.steps) for p, _ in zipped.points] == [(4, 1), (8, 2)]
    union = parse_config(
        GOOD,
        overrides=[
            "sweep=[{grid: {network.width: [4, 8]}, seeds: 2}, {grid: {network.width: [8, 16]}, seeds: [1, 5]}]"
        ],
    )
    assert [(p.network.width, seeds) for p, seeds in union.points] == [(4, (0, 1)), (8, (0, 1, 5)), (16, (1, 5))]


def _blocks(*blocks: str) -> str:
    return GOOD.replace("{seeds: 2}", f"[{', '.join(blocks)}]")


def test_the_limits_are_on_all_blocks_together() -> None:
    half, many = "{seeds: 500000}", f"{{grid: {{data.seed: {list(range(4000))}}}, seeds: 1}}"
    assert len(parse_config(_blocks(half, half)).points[0][1]) == 500_000
    assert _problems(_blocks(half, half, "{seeds: 1}", "{seeds: 1}")) == [
        "f.yaml:5: sweep.2: 3 grid points and 1000001 runs so far; at most 10000 points and 1000000 runs"
    ]
    zipped = "{zip: {training.steps: [1, 2], training.momentum: [0.0, 0.5]}, seeds: 500001}"
    assert "sweep: 2 grid points and 1000002 runs" in _problems(GOOD.replace("{seeds: 2}", zipped))[0]
    assert "sweep.2: 12000 grid points and 12000 runs" in _problems(_blocks(many, many, many))[0]


def test_any_key_can_be_swept() -> None:
    text = (
        "sweep={grid: {data: [{name: circle}, {name: sphere, samples: 3}], training.step_size: [0.1, {relative: 0.5}]}}"
    )
    sweep = parse_config(GOOD, overrides=[text])
    assert [(p.data.name, p.data.samples) for p, _ in sweep.points[::2]] == [("circle", 64), ("sphere", 3)]
    assert sweep.points[1][0].training.step_size == Relative(relative=0.5)


def test_a_required_key_may_come_from_the_sweep_alone() -> None:
    sweep = parse_config("name: x\nnetwork: {activation: erf}\nsweep: {grid: {data.name: [circle, sphere]}}\n")
    assert [p.data.name for p, _ in sweep.points] == ["circle", "sphere"]


def test_overrides_win_and_reach_into_lists() -> None:
    assert _widths(parse_config(GOOD, overrides=["network.width=5", "network.width=6"])) == [6]
    blocks = GOOD.replace("{seeds: 2}", "[{grid: {network.width: [4]}}, {grid: {network.width: [8]}}]")
    assert _widths(parse_config(blocks, overrides=["sweep.1.grid.network.width=[16, 32]"])) == [4, 16, 32]
    assert _widths(parse_config(GOOD, overrides=["sweep.grid.network.width=[16]"])) == [16]


def test_claims_are_entries_and_are_stored_as_they_were_written() -> None:
    written = ["frozen-kernel", {"name": "lazy-weights", "expect": "refuted", "first": [-0.7, None]}]
    sweep = parse_config(
        GOOD, overrides=["claims=[frozen-kernel, {name: lazy-weights, first: [-0.7, null], expect: refuted}]"]
    )
    assert json.loads(json.dumps(sweep.resolved["claims"])) == written
    (plain, own), expect = stored_claims({"claims": written, "name": "test"}, Path("sweep.yaml"))
    assert (plain.name, plain.expect, plain.thresholds, expect) == ("frozen-kernel", "supported", {}, None)
    assert (own.expect, own.thresholds) == ("refuted", {"first": (-0.7, math.inf)})


def test_the_resolved_config_reads_back_to_the_same_points() -> None:
    import yaml

    sweep = parse_config(GOOD, overrides=["sweep.grid.network.width=[[3, 4], 8]"])
    again = parse_config(yaml.safe_dump(dict(sweep.resolved)))
    assert again.points == sweep.points
    assert again.hash == sweep.hash


def test_order_of_keys_is_nothing() -> None:
    turned = "\n".join(reversed(GOOD.strip().split("\n")))
    assert parse_config(turned).points == parse_config(GOOD).points
    assert parse_config(turned).hash == parse_config(GOOD).hash


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("network.widht=3", "network.widht: unknown key; did you mean 'width'?"),
        ("netwrk.width=3", "netwrk: unknown key; did you mean 'network'?"),
        ("data.dimenson=3", "data.dimenson: unknown key; did you mean 'dimension'?"),
        ("data.classes=[1]", "data.classes: belongs to `name: digits` or `name: idx` or `name: openml`, not to `name"),
        ("training.step_size={relativ: 1}", "training.step_size.relativ: unknown key; did you mean 'relative'?"),
        ("sweep.grd={}", "sweep.grd: unknown key; did you mean 'grid'?"),
        ("claims=[frozen-kernl]", "claims.0: unknown claim 'frozen-kernl'; did you mean 'frozen-kernel'?"),
        ("claims=[xyz]", "claims.0: unknown claim 'xyz'; `ntkrun list claims` lists the known ones"),
        ("claims=[3]", "claims.0: must be text, not 3"),
        ("claims=[frozen-kernel, frozen-kernel]", "claims: frozen-kernel is listed twice; list each claim once"),
        ("claims=[{name: lazy-weights, exponent: [0, 1]}]", "lazy-weights has no such margin; its margins are first"),
        ("claims=[{name: frozen-kernel, exponent: [1, 0]}]", "exponent: must be two numbers, the smaller first"),
        ("claims=[{name: frozen-kernel, exponent: [a, 0]}]", "exponent: must be two numbers, the smaller first"),
        ("claims=[{name: frozen-kernel, exponent: [true, 2]}]", "exponent: must be two numbers, the smaller first"),
        ("claims=[{name: frozen-kernel, expect: no}]", "expect: 'no' is not one of supported, refuted"),
        ("claims=[{expect: refuted}]", "claims.0.name: missing"),
        ("expect=divergd", "expect: 'divergd' is not one of diverged; did you mean 'diverged'?"),
        ("network.width=0", "network.width: must be at least 1, not 0"),
        ("network.width=[4]", "network.width: 1 widths for 2 hidden layers (depth 3); give one per layer"),
        ("network.width=[4, 0]", "network.width.1: must be at least 1, not 0"),
        ("network.width=many", "network.width: must be a whole number, not 'many'"),
        ("network.width=8.5", "network.width: must be a whole number, not 8.5"),
        ("network.width=true", "network.width: must be a whole number, not true"),
        ("network.depth=0", "network.depth: must be at least 1, not 0"),
        ("network.depth=[3]", "network.depth: must be a whole number, not a list"),
        ("network.beta=-0.1", "network.beta: must be at least 0, not -0.1"),
        ("network.beta=.nan", "network.beta: must be a finite number, not nan"),
        ("network.beta='0.1'", "network.beta: must be a number, not '0.1'"),
        ("network.weight_scale=0", "network.weight_scale: must be greater than 0, not 0"),
        ("network.activation=rleu", "network.activation: unknown activation 'rleu'; did you mean 'relu'?"),
        ("network.activation=[relu]", "network.activation: must be text, not a list"),
        ("network=3", "network: must be a mapping, not 3"),
        ("network.parametrization=mup", "network.parametrization: 'mup' is not one of ntk, standard, mean_field"),
        ("data.name=digts", "data.name: 'digts' is not one of digits, circle"),
        ("data={}", "data: needs `name`, as in `name: digits`"),
        ("data=", "data: must be a mapping, not nothing"),
        ("data.samples=0", "data.samples: must be at least 1, not 0"),
        ("data.targets={component: 9}", "data.targets: there is no component 9 for 6 training inputs"),
        ("data.targets={component: 0}", "data.targets.component: must be at least 1, not 0"),
        ("data.targets={component: 1, size: 0}", "data.targets.size: must be greater than 0, not 0"),
        ("data={name: digits, targets: parity}", "data.targets: 'parity' is not one of signed, one_hot"),
        ("data.between=[0, 6]", "data.between: there is no training input 6; they are numbered from 0 to 5"),
        ("data.between=[0]", "data.between: give two different training inputs by their numbers, as in [0, 1]"),
        ("data.between=[1, 1]", "data.between: give two different training inputs"),
        ("data.between=3", "data.between: must be a list, not 3"),
        ("data.conflicts=4", "data.conflicts: 4 of 6 training inputs; at most half of them, 3"),
        ("data={name: circle, targets: {component: 1}, conflicts: 2}", "data.conflicts: they need `targets: random"),
        ("data={name: digits, targets: one_hot, conflicts: 2}", "data.conflicts: they need targets of ±1; use"),
        ("data.target_scale=0", "data.target_scale: must be greater than 0, not 0"),
        ("data={name: digits, samples: 5000}", "data.samples: 5000 training and 64 test samples requested, but digits"),
        ("data={name: digits, classes: [3, 12]}", "data.classes: there is no class 12"),
        ("data={name: file, path: none.csv, inputs: [x], targets: [y]}", "data.path: none.csv cannot be read"),
        ("training.steps=-1", "training.steps: must be at least 0, not -1"),
        ("training.steps=1e3", "training.steps: must be a whole number, not 1000.0"),
        ("training.step_size=0", "training.step_size: must be greater than 0, not 0"),
        ("training.step_size=1e300", "training.step_size: must be at most 1e+15, not 1e+300"),
        ("training.step_size=fast", "training.step_size: must be a number, not 'fast'"),
        ("training.dtype=float16", "training.dtype: 'float16' is not one of float32, float64; did you mean"),
        ("training.loss=hinge", "training.loss: unknown loss 'hinge'; known: squared, cross_entropy, logistic, huber"),
        ("training.huber_threshold=0.1", "training.huber_threshold: the loss squared has no threshold; leave it out"),
        ("training={loss: huber, huber_threshold: 0}", "training.huber_threshold: "),
        ("training={loss: huber, huber_threshold: wide}", "training.huber_threshold: "),
        ("training.loss=hubber", "training.loss: unknown loss 'hubber'; did you mean 'huber'?"),
        ("training.loss=cross_entropy", "training.loss: cross_entropy needs two or more outputs"),
        ("training.batch=7", "training.batch: 7 inputs per step, but data.samples is 6"),
        ("training.batch=0", "training.batch: must be at least 1, not 0"),
        ("training.batch=half", "training.batch: 'half' is not one of full"),
        ("training.batch=2.5", "training.batch: must be a whole number, not 2.5"),
        ("training.momentum=1", "training.momentum: must be less than 1, not 1"),
        ("training.momentum=-0.1", "training.momentum: must be at least 0, not -0.1"),
        ("training.output_scale=0", "training.output_scale: must be greater than 0, not 0"),
        ("training.output_scale=-1", "training.output_scale: must be greater than 0, not -1"),
        ("training.output_scale={centred: 0}", "training.output_scale.centred: must be greater than 0, not 0"),
        ("training.output_scale={centered: 1}", "training.output_scale.centered: unknown key; did you mean 'centred'?"),
        ("training.output_scale=centred", "training.output_scale: must be a number, not 'centred'"),
        ("probes.every=0", "probes.every: must be at least 1, not 0"),
        ("probes.every={log_spaced: 60}", "probes.every.log_spaced: 60 probes do not fit into 4 steps"),
        ("probes.kernels=[frist]", "probes.kernels.0: 'frist' is not one of first, last; did you mean 'first'?"),
        ("probes.kernels=[9]", "probes.kernels.0: step 9 is after the last step, 4"),
        ("probes.outputs=[9]", "probes.outputs.0: step 9 is after the last step, 4"),
        ("probes.outputs=[lats]", "probes.outputs.0: 'lats' is not one of first, last; did you mean 'last'?"),
        ("probes.detail=0", "probes.detail: must be at least 1, not 0"),
        ("probes.detail=never", "probes.detail: 'never' is not one of none"),
        ("probes.detail={log_spaced: 1}", "probes.detail.log_spaced: must be at least 2, not 1"),
        ("sweep.seeds=0", "sweep.seeds: must be at least 1, not 0"),
        ("sweep.seeds=[]", "sweep.seeds: empty; give at least one value"),
        ("sweep.seeds=[-1]", "sweep.seeds.0: must be at least 0, not -1"),
        ("sweep=[]", "sweep: empty; give at least one value"),
        ("sweep.grid={network.width: []}", "sweep.grid.network.width: empty; give at least one value"),
        ("sweep.grid={network.width: 8}", "sweep.grid.network.width: must be a list, not 8"),
        ("sweep.grid={network.widht: [8]}", "sweep.grid.network.widht: unknown key; did you mean 'width'?"),
        ("sweep.grid={widht: [8]}", "sweep.grid.widht: unknown key"),
        ("sweep.grid={name: [a, b]}", "sweep.grid.name: unknown key"),
        ("sweep.grid={seed: [1]}", "sweep.grid.seed: seeds cannot be swept as an axis; give them as sweep.seeds"),
        ("sweep.grid={network.width: [8, 0]}", "network.width: must be at least 1, not 0"),
        ("sweep.grid={data.samples: [6], data: [{name: circle}]}", "data.samples, which is inside it, is swept too"),
        ("sweep.grid={network.depth.x: [3]}", "network.depth.x: the value here is 3, which has no key 'x'"),
        (
            "sweep={grid: {network.width: [8]}, zip: {network.width: [8]}}",
            "this key is in grid too; sweep each key once",
        ),
        ("sweep.zip={network.width: [8], network.depth: [2, 3]}", "sweep.zip: lists of different lengths"),
        ("name=../up", "name: '../up' must be at most 100 letters, digits"),
        ("name=3", "name: must be text, not 3"),
        ("width", "width: not an override; write KEY=VALUE"),
        ("=3", "=3: not an override; write KEY=VALUE"),
        ("network.width=[1", "network.width: not YAML"),
        ("network.depth.x=3", "network.depth.x: the value here is 3, which has no key 'x'"),
        ("sweep.0.seeds=3", "sweep.0: unknown key"),
    ],
)
def test_every_mistake_has_its_sentence(override: str, sentence: str) -> None:
    problems = _problems(GOOD, override)
    assert any(problem.startswith(f"command line: {sentence}") or sentence in problem for problem in problems), problems
    # one mistake is said once, unless the pieces of it are wrong one by one
    assert (
        len(problems) == 1
        or "grid" in override
        or "relativ" in override
        or "centered" in override
        or "sweep.0" in override
    ), problems


@pytest.mark.parametrize("override", ["netwrok.depth=3", "network.dept=3", "data.between.x=3"])
def test_a_wrong_key_of_an_override_is_placed_on_the_command_line(override: str) -> None:
    assert [problem.split(": ")[0] for problem in _problems(GOOD, override)] == ["command line"]
    (problem,) = _problems(GOOD.replace("network:", "netwrok:"), "netwrok.depth=3")[:1]
    assert problem.startswith("f.yaml:")  # a section of the file's own stays the file's mistake


def test_targets_that_do_not_suit_the_loss_point_at_it() -> None:
    text = "name: x\ndata: {name: circle, targets: product}\ntraining:\n  batch: 100\n  loss: logistic\n"
    assert _problems(text) == [
        "f.yaml:4: training.batch: 100 inputs per step, but data.samples is 64; use at most that many, or `full`",
        "f.yaml:5: training.loss: the logistic loss needs targets of +1 and -1, as from `targets: signed`",
    ]
    one_hot = "name: x\ndata: {name: digits, targets: one_hot}\ntraining: {loss: cross_entropy, batch: 64}\n"
    ((point, _),) = parse_config(one_hot).points
    assert (point.training.loss, point.training.batch) == ("cross_entropy", 64)


def test_a_path_without_targets_suits_every_loss() -> None:
    for data, loss in (("{name: digits, between: [0, 1]}", "logistic"), ("{name: circle, between: [3, 1]}", "huber")):
        parse_config(f"name: x\ndata: {data}\ntraining: {{loss: {loss}}}\n")


def test_every_loss_of_the_table_can_be_named() -> None:
    for name in LOSSES:
        data = "{name: digits, targets: one_hot}" if name == "cross_entropy" else "{name: digits}"
        ((point, _),) = parse_config(f"name: x\ndata: {data}\ntraining: {{loss: {name}}}\n").points
        assert point.training.loss == name


def test_all_errors_at_once_with_their_lines() -> None:
    text = """\
name: x
network: &n
  depth: 0
  widht: 3
  beta: -0.1
  beta: 0.2
data:
  name: digits
  samples: 5000
  radius: 3
  classes: [3, 12]
probes: {every: 0}
sweep:
  grid:
    network.width: [8,
      0]
    network.dpeth: [2]
  seeds: []
"""
    problems = _problems(text)
    assert [problem.split(": ")[0:2] for problem in problems] == [
        ["f.yaml:3", "network.depth"],
        ["f.yaml:4", "network.widht"],
        ["f.yaml:5", "network.beta"],
        ["f.yaml:6", "network.beta"],
        ["f.yaml:9", "data.samples"],
        ["f.yaml:10", "data.radius"],
        ["f.yaml:11", "data.classes"],
        ["f.yaml:12", "probes.every"],
        ["f.yaml:17", "sweep.grid.network.dpeth"],
        ["f.yaml:18", "sweep.seeds"],
    ]


def test_a_bad_grid_value_points_at_its_own_line() -> None:
    text = GOOD.replace("{seeds: 2}", "\n  grid:\n    network.width:\n      - 8\n      - 0\n      - 16\n")
    assert _problems(text) == ["f.yaml:9: network.width: must be at least 1, not 0"]


def test_an_override_of_a_swept_key_is_not_ignored_in_silence() -> None:
    (problem,) = _problems(GOOD + "", "sweep.grid.network.width=[4, 8]", "network.width=16")
    assert "has no effect, since the sweep varies it; override sweep.grid.network.width instead" in problem


def test_no_config_at_all(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not a text file"):
        load_config(tmp_path / "binary.yaml")
    assert "a config is a mapping" in _problems("- 1\n")[0]
    assert "a config is a mapping" in _problems("just text\n")[0]
    assert any("name: missing" in problem for problem in _problems(""))
