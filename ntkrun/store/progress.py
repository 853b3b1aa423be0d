"""The progress that the writers of a results directory tell of: progress.json, or progress-I-of-K.json for shard I of
K > 1.

Nothing depends on these files. A file that is missing or damaged is ignored, and a file that cannot be written is left
out.
"""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from ntkrun.errors import UserError
from ntkrun.files.reading import Unreadable, read_json
from ntkrun.files.writing import inside, replace_file
from ntkrun.store.locks import WHOLE
from ntkrun.text import printable

NAME = re.compile(r"progress(-[0-9]{1,6}-of-[0-9]{1,6})?\.json", re.ASCII)
LARGEST_PROGRESS = 2**14  # bytes
LABEL = 60  # characters


@dataclass(frozen=True)
class Progress:
    """The progress of a writer at the moment `written`, an ISO time with its zone.

    Of its shard, `planned` runs are to be done in all, and `finished` and `failed` have ended; `seconds_left` are the
    seconds until all have. `now` is the stack that runs: its label, `step` of `steps`, and the loss and kernel drift if
    they were measured at this step.
    """

    written: str
    pid: int
    shard: tuple[int, int]
    planned: int
    finished: int
    failed: int
    workers: int
    seconds_left: float
    now: Mapping[str, Any] | None

    def left_at(self, moment: datetime) -> float:
        """Return the seconds left at a later moment."""
        return max(0.0, self.seconds_left - max(0.0, (moment - datetime.fromisoformat(self.written)).total_seconds()))


def progress_name(shard: tuple[int, int]) -> str:
    """Return the file name of a shard's progress."""
    return "progress.json" if shard == WHOLE else f"progress-{shard[0]}-of-{shard[1]}.json"


def is_progress(name: str) -> bool:
    """Return True for the name of a file of progress."""
    return NAME.fullmatch(name) is not None


def write_progress(root: Path, progress: Progress) -> None:
    """Write the file of a shard's progress, unless that is impossible."""
    text = json.dumps(asdict(progress)) + "\n"
    with suppress(UserError, OSError):
        path = inside(root, progress_name(progress.shard))
        replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), lasting=False)


def read_progress(root: Path) -> list[Progress]:
    """Return the progress that the writers of a directory have reported, without damaged files."""
    found = []
    for path in sorted(path for path in root.glob("progress*.json") if is_progress(path.name)):
        with suppress(Unreadable, UserError):
            progress = parse_progress(read_json(inside(root, path.name), LARGEST_PROGRESS))
            found += [progress] if progress else []
    return found


def parse_progress(fields: object) -> Progress | None:
    """Return the progress that a JSON document holds; None where ntkrun has not written it."""
    if not isinstance(fields, dict) or fields.keys() != Progress.__dataclass_fields__.keys():
        return None
    counts = [fields[name] for name in ("pid", "planned", "finished", "failed", "workers")]
    shard, left, now = fields["shard"], fields["seconds_left"], fields["now"]
    if not (isinstance(shard, list) and len(shard) == 2 and all(map(_is_count, [*counts, *shard]))):
        return None
    if not (isinstance(left, int | float) and not isinstance(left, bool) and 0 <= left < 2**53):
        return None
    if not (now is None or _is_state(now)) or not _is_time(fields["written"]):
        return None
    now = now and {**now, "label": printable(now["label"])[:LABEL]}
    return Progress(**(fields | {"shard": (shard[0], shard[1]), "now": now}))


def _is_state(now: object) -> bool:
    """Return True for the stack that runs: a label, two counts, and two numbers or null."""
    if not isinstance(now, dict) or now.keys() != {"label", "step", "steps", "loss", "kernel_drift"}:
        return False
    numbers = (now["loss"], now["kernel_drift"])
    valid = all(number is None or isinstance(number, float) for number in numbers)
    return valid and isinstance(now["label"], str) and _is_count(now["step"]) and _is_count(now["steps"])


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**53


def _is_time(value: object) -> bool:
    """Return True for an ISO time with a zone."""
    try:
        return isinstance(value, str) and datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
