"""The names of the folders in stacks/: a number, the numbers of several that were merged, `-failed` for failed runs."""

import re
from functools import lru_cache

FAILED = "-failed"
_NAME = re.compile(rf"(\d{{8}})(?:-(\d{{8}}))?({FAILED})?")


def is_failed(name: str) -> bool:
    """Return True for a folder of failed runs."""
    return name.endswith(FAILED)


@lru_cache(maxsize=2**14)
def numbers(name: str) -> tuple[int, int]:
    """Return the lowest and the highest number of a folder by its name, 0 if an earlier version wrote it."""
    match = _NAME.fullmatch(name)
    return (int(match[1]), int(match[2] or match[1])) if match else (0, 0)


def order(name: str) -> tuple[bool, int, int, str]:
    """Return the key by which folders are sorted: a run counts in the first of them that has it. A merged folder comes
    before those that it was made of, in case a process was killed before it had removed them."""
    first, last = numbers(name)
    return is_failed(name), first, -last, name


def is_merged(name: str) -> bool:
    """Return True for a folder that was merged from others."""
    first, last = numbers(name)
    return first < last or name.endswith("-pack")
