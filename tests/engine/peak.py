"""What torch allocates, by its own profiler: the same on every machine."""

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_of(call: Callable[[], object]) -> int:
    """The most bytes that torch holds at once during a call, above what it held before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        call()
    held = most = 0
    for event in recorded.profiler.kineto_results.events():  # type: ignore[union-attr]
        if event.name() == "[memory]":
            held += event.nbytes()
            most = max(most, held)
    return most
