"""Prints the constraints of `make test-lowest`: each dependency of pyproject.toml at the lowest version that it allows.

    python3.11 tests/lowest.py > lowest.txt

What the dependencies bring themselves, and torch, stays as constraints.txt has it: older wheels of torch may bring
gigabytes of CUDA. Needs nothing but the standard library, since it runs before anything is installed."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
AS_PINNED = {"torch"}
WITH_THEIR_OWNER = {"pydantic-core"}  # each pydantic takes one release of it alone
_LOWER_BOUND = re.compile(r"([\w.-]+)(?:\[.*\])?\s*>=\s*([\d.]+)")


def requirements(pyproject: Mapping[str, Any]) -> Iterator[str]:
    """Yields what the project and its extras ask for, but for the extras that name others: `ntkrun[test,lint]`."""
    project = pyproject["project"]
    for asked in (project["dependencies"], *project.get("optional-dependencies", {}).values()):
        yield from (each for each in asked if not each.startswith(f"{project['name']}["))


def lowest(pyproject: Mapping[str, Any]) -> dict[str, str]:
    """Returns the lowest allowed version of each dependency by its normalized name. Raises ValueError for one without
    a lower bound."""
    found = {}
    for requirement in requirements(pyproject):
        bound = _LOWER_BOUND.match(requirement)
        if bound is None:
            raise ValueError(f"pyproject.toml: {requirement}: no lower bound; write {requirement}>=VERSION")
        found[_normalized(bound[1])] = bound[2]
    return found


def pins(constraints: str) -> dict[str, str]:
    """Returns the version of each line `name==version` by its normalized name."""
    return {_normalized(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)", constraints, re.M)}


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def held() -> dict[str, str]:
    """Returns the version that `make test-lowest` holds each package at."""
    pinned = pins((ROOT / "constraints.txt").read_text("utf-8"))
    asked = lowest(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8")))
    least = {name: version for name, version in asked.items() if name not in AS_PINNED}
    return {name: version for name, version in (pinned | least).items() if name not in WITH_THEIR_OWNER}


if __name__ == "__main__":
    print("\n".join(f"{name}=={version}" for name, version in held().items()))
