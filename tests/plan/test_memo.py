"""Values kept up to a number of bytes: computed once, the oldest dropped first."""

from ntkrun.plan.memo import Memo


def test_the_oldest_values_go_first_and_are_computed_again() -> None:
    computed: list[str] = []
    memo = Memo[str, str](len, most=6)

    def get(key: str) -> str:
        return memo.get(key[0], lambda: computed.append(key) or key)  # type: ignore[func-returns-value]

    assert [get(key) for key in ("aaa", "bbb", "aaa")] == ["aaa", "bbb", "aaa"]
    assert (computed, memo.bytes) == (["aaa", "bbb"], 6)
    get("c")  # beyond 6: a goes
    assert (list(memo.values), memo.bytes) == (["b", "c"], 4)
    get("aaa")  # within 7 > 6: b goes
    assert (computed, list(memo.values), memo.bytes) == (["aaa", "bbb", "c", "aaa"], ["c", "a"], 4)
    memo.clear()
    assert (memo.values, memo.bytes) == ({}, 0)


def test_the_newest_value_stays_whatever_its_size() -> None:
    memo = Memo[int, bytes](len, most=5)
    memo.get(0, lambda: bytes(2))
    memo.get(1, lambda: bytes(100))
    assert memo.get(1, lambda: bytes(3)) == bytes(100)
    assert (list(memo.values), memo.bytes) == ([1], 100)


def test_what_cannot_be_computed_is_not_kept() -> None:
    memo = Memo[int, int](int)
    for _ in range(2):
        try:
            memo.get(0, lambda: 1 // 0)
        except ZeroDivisionError:
            assert memo.values == {}
    assert memo.get(0, lambda: 7) == 7
