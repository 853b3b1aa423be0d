"""What a user did wrong, said in sentences. The command line prints these and exits with `code`; it never shows a
traceback."""

from dataclasses import dataclass


class UserError(Exception):
    """Something the user can put right; its text says where and what to do."""

    code = 2


@dataclass(frozen=True)
class ConfigProblem:
    """One thing wrong with a config: at which place (`file:line`), under which dotted key, and what."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class ConfigError(UserError):
    """Everything wrong with a config, all at once."""

    def __init__(self, problems: list[ConfigProblem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class FieldError(UserError):
    """One value of a config section that cannot work; the config reader turns it into a Problem with its place."""

    def __init__(self, field: str, what: str):
        self.field = field
        self.what = what
        super().__init__(f"{field}: {what}")


class TooLarge(FieldError):
    """What takes more memory than there is: no reason to go on without it, as for what has no formula."""


class StoreBusy(UserError):
    """Another process is writing to the results directory."""

    code = 4
