"""What `make test-lowest` installs is what pyproject.toml allows, read here by packaging's own parser."""

import subprocess
import sys
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.lowest import AS_PINNED, ROOT, WITH_THEIR_OWNER, held, lowest, pins, requirements

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PINS = pins((ROOT / "constraints.txt").read_text("utf-8"))


@pytest.mark.parametrize("text", list(requirements(PYPROJECT)))
def test_every_dependency_has_a_lower_bound_that_is_found(text: str) -> None:
    requirement = Requirement(text)
    name = canonicalize_name(requirement.name)
    assert [bound.version for bound in requirement.specifier if bound.operator == ">="] == [lowest(PYPROJECT)[name]]
    assert requirement.specifier.contains(PINS[name])
    assert held()[name] == (PINS if name in AS_PINNED else lowest(PYPROJECT))[name]


def test_extras_are_read_too() -> None:
    assert {"numpy", "torch", "hypothesis", "ray", "tensorboard", "ruff"} <= lowest(PYPROJECT).keys()
    assert "ntkrun" not in lowest(PYPROJECT)


def test_a_dependency_without_a_lower_bound_is_refused() -> None:
    for text in ("numpy", "numpy<3", "numpy==1.26"):
        with pytest.raises(ValueError, match=f"{text}: no lower bound"):
            lowest({"project": {"name": "x", "dependencies": ["pandas>=2", text]}})


def test_what_the_dependencies_bring_stays_pinned() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "tests/lowest.py"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    printed = pins(done.stdout)
    assert printed == held()
    for name in PINS.keys() - lowest(PYPROJECT).keys():
        assert printed.get(name) == (None if name in WITH_THEIR_OWNER else PINS[name])
