"""Errors that the user can fix, worded as sentences. The command line prints them without a traceback and exits with
`code`."""

from dataclasses import dataclass


class UserError(Exception):
    """An error that the user can fix. Its message says where it is and what to do. All errors of ntkrun that a caller
    may want to catch are of this class. The command line prints the message and exits with the error's `code`.

    >>> import ntkrun
    >>> try:
    ...     ntkrun.Descent(step_size=-0.1)
    ... except ntkrun.UserError as error:
    ...     print(error)
    step size -0.1 must be a positive number, momentum 0.0 from 0 to below 1
    """

    code = 2


@dataclass(frozen=True)
class ConfigProblem:
    """A problem of a config: the place (`file:line`), the dotted key and a message."""

    where: str
    key: str
    what: str

    def __str__(self) -> str:
        return ": ".join(part for part in (self.where, self.key, self.what) if part)


class ConfigError(UserError):
    """All problems of a config at once: `problems` has the place (`file:line`), the key and the message of each, as
    `where`, `key` and `what`.

    >>> import ntkrun
    >>> from pathlib import Path
    >>> config = "network: {depth: 0, width: 8}\\ndata: {name: circle, sample: 4}\\nname: wrong"
    >>> _ = Path("wrong.yaml").write_text(config)
    >>> try:
    ...     ntkrun.load_config("wrong.yaml")
    ... except ntkrun.ConfigError as error:
    ...     for problem in error.problems:
    ...         print(problem.where, problem.key)
    wrong.yaml:1 network.depth
    wrong.yaml:2 data.sample
    """

    def __init__(self, problems: list[ConfigProblem]):
        self.problems = problems
        super().__init__("\n".join(map(str, problems)))


class FieldError(UserError):
    """An unusable value of a config section. The config reader turns it into a ConfigProblem with its place."""

    def __init__(self, field: str, what: str):
        self.field = field
        self.what = what
        super().__init__(f"{field}: {what}")


class TooLarge(FieldError):
    """A value that needs more memory than there is. Unlike a missing formula, this always stops the command."""


class StoreBusy(UserError):
    """Another process is writing to the results directory."""

    code = 4
