"""What the doctor finds, a line each."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

# How a finding is put right: by removing what is nobody's result, or what a pack holds too, by moving it to set-aside/,
# by making the plan or the tables anew; or by the user alone. A note is nothing wrong.
Cure = Literal["remove", "packed", "aside", "plan", "tables", "yours", "note"]


@dataclass(frozen=True)
class Finding:
    """`where` (a path within the results directory, or the machine), what is wrong there, and what to do."""

    where: str
    what: str
    todo: str
    cure: Cure = "yours"

    @property
    def wrong(self) -> bool:
        return self.cure != "note"

    def line(self) -> str:
        return f"{self.where}: {self.what}" + (f"; {self.todo}" if self.todo else "")

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def torn(where: str, error: Exception, todo: str, cure: Cure = "aside") -> Finding:
    """A file that cannot be read, by what its reader said: its sentence without the path before it and the cure after
    it."""
    said = str(error).rpartition(f"{where}: ")[2].partition("; ")[0]
    return Finding(where, said, todo, cure)
