"""A sweep's tables as they were read, and what is made of them and stored beside."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntkrun.errors import UserError
from ntkrun.files.reading import Unreadable, holds, read_json
from ntkrun.files.writing import errors_as_sentence, inside, replace_file
from ntkrun.store.readers import check_id, read_description, read_kernels

LARGEST_TEXT = 2**26  # bytes of claims.json, the captions and a figure's drawing


@dataclass(frozen=True)
class Results:
    """The tables of a sweep's present plan (docs/tables.md) and where they lie."""

    runs: pd.DataFrame
    steps: pd.DataFrame
    layers: pd.DataFrame
    plan: pd.DataFrame
    modes: pd.DataFrame
    outputs: pd.DataFrame
    path: Path
    made_from: str  # changes whenever the plan or the finished runs do

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        """Whole kernels kept of a run: `steps` (K,) and `ntk` (K, N, N, O, O); None if none were."""
        return kept_kernels(self.path, run_id)

    def write_figure(self, name: str, raw: bytes) -> Path:
        """Store the file of a figure under figures/."""
        path = inside(self.path, "figures", name)
        with errors_as_sentence(path):
            replace_file(path, lambda temporary: temporary.write_bytes(raw))
        return path

    def remove_figure(self, stem: str, endings: Iterable[str]) -> None:
        """Remove the figure in these formats, where it is there."""
        for ending in endings:
            path = inside(self.path, "figures", f"{stem}.{ending}")
            with errors_as_sentence(path):
                path.unlink(missing_ok=True)

    def write_captions(self, captions: dict[str, str]) -> None:
        """Store what each figure shows, by its stem, once all are drawn; and what they were drawn from."""
        text = json.dumps({"made_from": self.made_from, "captions": captions}, indent=1, ensure_ascii=False) + "\n"
        file = inside(self.path, "figures", "captions.json")
        with errors_as_sentence(file):
            replace_file(file, lambda path: path.write_text(text, encoding="utf-8"))

    def config(self) -> dict[str, Any]:
        """The resolved config that the sweep was last run with."""
        return dict(description_of(self.path)["config"])

    def write_claims(self, text: str) -> None:
        """Store the verdicts on these tables as claims.json; nothing is written where they stand there already, so that
        a directory which may only be read can be judged."""
        path = inside(self.path, "claims.json")
        with errors_as_sentence(path):
            if holds(path, text.encode()):
                return
            replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def captions(self) -> dict[str, str]:
        """What each figure shows, by its stem; {} unless all were drawn from these very tables, and say so in a file
        that nothing has happened to."""
        try:
            drawn = read_json(inside(self.path, "figures", "captions.json"), LARGEST_TEXT)
        except (Unreadable, UserError):
            return {}
        current = isinstance(drawn, dict) and drawn.get("made_from") == self.made_from
        captions = drawn.get("captions") if current else None
        whole = isinstance(captions, dict) and all(isinstance(text, str) for text in captions.values())
        return captions if isinstance(captions, dict) and whole else {}

    def figures_are_current(self) -> bool:
        """Whether every figure was drawn from these very tables."""
        return bool(self.captions())


def kernel_file(root: Path, run_id: str) -> Path:
    """Raises UserError for what is no run's id."""
    return inside(root, "kernels", f"{check_id(run_id)}.npz")


def kept_kernels(root: Path, run_id: str) -> dict[str, np.ndarray] | None:
    path = kernel_file(root, run_id)
    return read_kernels(path) if path.exists() else None


def description_of(root: Path) -> dict[str, Any]:
    """What sweep.yaml says: of `config`, `made_by` and more. Raises UserError where it cannot be read."""
    return read_description(inside(root, "sweep.yaml"))
