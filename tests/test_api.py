"""The public names: one file lists them, and each has an example in its docstring that runs."""

import doctest
import inspect
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import ntkrun
from docs.generate import contents, public_methods

NAMES = ntkrun.__all__


def _examples(name: str, thing: Any, names: dict[str, Any]) -> doctest.DocTest:
    return doctest.DocTestParser().get_doctest(inspect.getdoc(thing) or "", names, name, None, None)


def _run(test: doctest.DocTest, names: dict[str, Any]) -> None:
    """Run an example as the next of a session that has these names. Fails with what it printed instead."""
    said: list[str] = []
    test.globs = names  # a DocTest has copied them
    failed, attempted = doctest.DocTestRunner(verbose=False).run(test, out=said.append, clear_globs=False)
    assert attempted, f"{test.name} has no example"
    assert not failed, "".join(said)


@pytest.mark.parametrize("name", NAMES)
def test_the_examples_of_a_public_name_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A class's and those of its methods are one session, in the order of the page."""
    monkeypatch.chdir(tmp_path)
    thing, names = getattr(ntkrun, name), dict[str, Any]()
    with torch.random.fork_rng():
        for full, each in {name: thing, **public_methods(thing)}.items():
            _run(_examples(full, each, names), names)


def test_an_example_that_is_missing_or_wrong_is_seen() -> None:
    with pytest.raises(AssertionError, match="has no example"):
        _run(doctest.DocTestParser().get_doctest("Return one.", {}, "one", None, None), {})
    with pytest.raises(AssertionError, match=r"Got:\s+2"):
        _run(doctest.DocTestParser().get_doctest(">>> 1 + 1\n3", {}, "two", None, None), {})


def test_the_table_of_contents_has_every_name_once() -> None:
    listed = [name for names in contents().values() for name, _ in names]
    assert sorted(listed) == sorted(NAMES) == dir(ntkrun)
    assert all(said for names in contents().values() for _, said in names)


def test_the_table_of_contents_is_read_alike_in_every_locale() -> None:
    """lazy_loader opens it in the locale's encoding."""
    assert Path(ntkrun.__file__).with_suffix(".pyi").read_bytes().isascii()


def test_all_names_can_be_imported_at_once() -> None:
    """EAGER_IMPORT is lazy_loader's switch for the search of missing imports."""
    script = "import sys, ntkrun; print('torch' in sys.modules)"
    eager = {**os.environ, "EAGER_IMPORT": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=eager, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_public_classes_can_be_pickled() -> None:
    for thing in (ntkrun.DenseNetwork(2, 1, 3, 8), ntkrun.Descent(0.1), ntkrun.Flow()):
        assert pickle.loads(pickle.dumps(thing)) == thing
    for name in NAMES:
        assert pickle.loads(pickle.dumps(getattr(ntkrun, name))) is getattr(ntkrun, name)


def test_an_unknown_name_is_refused_by_name() -> None:
    with pytest.raises(AttributeError, match="nothing") as refused:
        ntkrun.nothing  # noqa: B018
    assert re.search(r"\bntkrun\b", str(refused.value))
