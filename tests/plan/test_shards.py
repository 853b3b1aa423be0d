"""A plan in shards: each run in one of them, the same on every machine, and all about as long."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ntkrun.config.reader import parse_config
from ntkrun.errors import UserError
from ntkrun.plan.costs import operations
from ntkrun.plan.runs import Run, plan, stacks
from ntkrun.plan.stacks import Shard, parse_shard, runs_in_shard, split_for_workers

TEXT = """\
name: shards
data: {name: sphere, dimension: 3, samples: 6, test_samples: 2}
training: {steps: 10}
sweep: {grid: {network.width: [8, 64, 256, 700]}, seeds: 9}
"""


def _runs(*overrides: str) -> tuple[Run, ...]:
    return plan(parse_config(TEXT, overrides=overrides))


def _cost(runs: tuple[Run, ...]) -> int:
    return sum(map(operations, stacks(runs)))


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 12), st.lists(st.integers(1, 900), min_size=1, max_size=4, unique=True), st.integers(1, 40))
def test_every_run_is_in_one_shard(count: int, widths: list[int], seeds: int) -> None:
    runs = _runs(f"sweep={{grid: {{network.width: {widths}}}, seeds: {seeds}}}")
    shards = [runs_in_shard(Shard(k + 1, count), runs) for k in range(count)]
    assert sorted(run.run_id for shard in shards for run in shard) == sorted(run.run_id for run in runs)


GOLDEN = [
    [(8, range(9)), (256, range(9)), (700, [4, 7])],
    [(700, [0, 2, 5, 8])],
    [(64, range(9)), (700, [1, 3, 6])],
]


@pytest.mark.parametrize("count", [2, 4, 7])
def test_shards_take_about_as_long(count: int) -> None:
    costs = [_cost(runs_in_shard(Shard(k + 1, count), _runs("sweep.seeds=200"))) for k in range(count)]
    # A part is at most half a share, and the largest are dealt first; what is dealt last is far smaller.
    assert max(costs) < 1.15 * sum(costs) / count


def test_one_grid_point_is_shared_as_well() -> None:
    runs = _runs("sweep={grid: {network.width: [8]}, seeds: 64}")
    assert {len(runs_in_shard(Shard(k + 1, 4), runs)) for k in range(4)} == {16}


def test_more_shards_than_runs_leave_some_empty() -> None:
    runs = _runs("sweep={grid: {network.width: [8]}, seeds: 2}")
    assert sorted(len(runs_in_shard(Shard(k + 1, 5), runs)) for k in range(5)) == [0, 0, 0, 1, 1]


def test_a_shard_is_what_it_was_when_it_was_written_down() -> None:
    """Nothing of the machine may enter: shards of different machines would lose runs or do them twice."""
    for k, golden in enumerate(GOLDEN):
        expected = [(width, seed) for width, seeds in golden for seed in seeds]
        assert [(run.point.network.width, run.seed) for run in runs_in_shard(Shard(k + 1, 3), _runs())] == expected


def test_whole_stacks_stay_whole_where_there_are_enough_of_them() -> None:
    runs = _runs("sweep.grid={network.width: [8, 9, 10, 11, 12, 13, 14, 15, 16]}")
    cut = split_for_workers(stacks(runs), 4)
    assert sorted(len(stack.runs) for stack in cut) == [9] * 9
    assert [operations(stack) for stack in cut] == sorted(map(operations, cut), reverse=True)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", "1/4/2", "١/٤"])
def test_what_is_no_shard_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"give I/K with I from 1 to K, as in 2/8"):
        parse_shard(text)
    assert parse_shard("2/8") == Shard(2, 8)
