"""The tables of a sweep, and the figures, captions and verdicts that are stored with them."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ntkrun.errors import UserError
from ntkrun.files import disk
from ntkrun.files.reading import Unreadable, holds, read_json
from ntkrun.files.writing import errors_as_sentence, inside, replace_file
from ntkrun.store.readers import read_description
from ntkrun.store.stacks import Stacks

LARGEST_TEXT = 2**26  # bytes of claims.json, the captions and a figure's drawing


@dataclass(frozen=True)
class Results:
    """The tables of a sweep's present plan as pandas DataFrames (docs/tables.md explains them) and their directory
    `path`. `run_sweep` and `read_results` return them. A failed run has a row in `runs` and none of measurements.
    `made_from` changes whenever the plan or the finished runs do. Methods that write raise UserError where they cannot.

    >>> import ntkrun
    >>> from pathlib import Path
    >>> config = "{name: tiny, network: {depth: 2, width: 8}, data: {name: circle, samples: 4}, sweep: {seeds: 2}}"
    >>> _ = Path("tiny.yaml").write_text(config)
    >>> results = ntkrun.run_sweep(ntkrun.load_config("tiny.yaml", ["training.steps=3"]), device="cpu")
    >>> steps = results.steps.merge(results.runs[["run_id", "seed"]], on="run_id")
    >>> print(steps.groupby("seed")["loss"].count().to_dict())  # at steps 0 to 3
    {0: 4, 1: 4}
    """

    runs: pd.DataFrame
    steps: pd.DataFrame
    layers: pd.DataFrame
    plan: pd.DataFrame
    modes: pd.DataFrame
    outputs: pd.DataFrame
    path: Path
    made_from: str  # fingerprint: changes whenever the plan or the finished runs do

    def kernels(self, run_id: str) -> dict[str, np.ndarray] | None:
        """Return the whole kernels stored for a run as arrays: `steps` (K,) and `ntk` (K, N, N, O, O), for the steps in
        `probes.kernels` of the config; None if there are none.

        >>> kept = results.kernels(results.runs["run_id"][0])
        >>> print(kept["steps"], kept["ntk"].shape)
        [0 3] (2, 4, 4, 1, 1)
        """
        return Stacks(self.path).kernels(run_id)

    def write_figure(self, name: str, raw: bytes) -> Path:
        """Write the file of a figure under figures/ and return its path.

        >>> results.write_figure("drift.svg", b"<svg/>").relative_to(results.path).as_posix()
        'figures/drift.svg'
        """
        path = inside(self.path, "figures", name)
        with errors_as_sentence(path):
            replace_file(path, lambda temporary: temporary.write_bytes(raw))
        return path

    def remove_figure(self, stem: str, endings: Iterable[str]) -> None:
        """Remove the figure's files in these formats, if they exist.

        >>> results.remove_figure("old", ["svg", "png"])
        """
        for ending in endings:
            path = inside(self.path, "figures", f"{stem}.{ending}")
            with errors_as_sentence(path):
                disk.remove(path)

    def write_captions(self, captions: dict[str, str]) -> None:
        """Write the caption of each figure, by its stem, and the fingerprint of the tables. Call this after all are
        drawn.

        >>> results.write_captions({"drift": "The relative change of the kernel."})
        """
        text = json.dumps({"made_from": self.made_from, "captions": captions}, indent=1, ensure_ascii=False) + "\n"
        file = inside(self.path, "figures", "captions.json")
        with errors_as_sentence(file):
            replace_file(file, lambda path: path.write_text(text, encoding="utf-8"))

    def config(self) -> dict[str, Any]:
        """Return the resolved config that the sweep was last run with, as plain values.

        >>> results.config()["network"]["activation"]  # a default
        'relu'
        """
        return dict(description_of(self.path)["config"])

    def write_claims(self, text: str) -> None:
        """Write the verdicts on these tables as claims.json. Nothing is written if the file already holds this text, so
        that a read-only directory can be judged.

        >>> results.write_claims("[]")
        >>> (results.path / "claims.json").read_text()
        '[]'
        """
        path = inside(self.path, "claims.json")
        with errors_as_sentence(path):
            if holds(path, text.encode()):
                return
            replace_file(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))

    def captions(self) -> dict[str, str]:
        """Return the caption of each figure, by its stem; {} if they were not all drawn from these very tables or the
        captions file is damaged.

        >>> results.captions()
        {'drift': 'The relative change of the kernel.'}
        """
        try:
            drawn = read_json(inside(self.path, "figures", "captions.json"), LARGEST_TEXT)
        except (Unreadable, UserError):
            return {}
        current = isinstance(drawn, dict) and drawn.get("made_from") == self.made_from
        captions = drawn.get("captions") if current else None
        valid = isinstance(captions, dict) and all(isinstance(text, str) for text in captions.values())
        return captions if isinstance(captions, dict) and valid else {}

    def figures_are_current(self) -> bool:
        """Return True if every figure was drawn from these very tables.

        >>> results.figures_are_current()
        True
        """
        return bool(self.captions())


def description_of(root: Path) -> dict[str, Any]:
    """Return the contents of sweep.yaml: `config`, `made_by` and more. Raises UserError where it cannot be read."""
    return read_description(inside(root, "sweep.yaml"))
