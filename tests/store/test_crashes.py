"""The long ones: tests/store/crashes.py in full."""

from pathlib import Path

import pytest

from tests.store.crashes import faults, kills


@pytest.mark.slow
def test_two_hundred_kills_lose_nothing_and_tear_nothing(tmp_path: Path) -> None:
    found = kills(200, tmp_path)
    assert found["kills"] == 200
    assert found["seen"]["stacks that went on in mid-run"] > 0


@pytest.mark.slow
def test_no_request_of_the_disk_may_fail_in_a_way_that_loses_or_tears(tmp_path: Path) -> None:
    found = faults(tmp_path)
    assert found["requests of the disk"] > 50
    assert found["ends"]["before: runs merged and still there"] > 0
