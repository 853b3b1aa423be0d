"""Figures as the bytes of their files."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

STYLE = Path(__file__).with_name("ntkrun.mplstyle")
ALWAYS, ON_REQUEST = ("png", "svg"), ("pdf",)  # formats; PDF is for papers, and takes as long as the other two
# Options of each format. There are no dates, so that the same figure gives the same bytes. PNG is compressed less,
# which is faster and makes the files a sixth larger.
OPTIONS: dict[str, dict[str, Any]] = {
    "png": {"pil_kwargs": {"compress_level": 3}},
    "svg": {"metadata": {"Date": None}},
    "pdf": {"metadata": {"CreationDate": None}},
}
Saved = dict[str, bytes]  # by format


def saved(figure: Figure, formats: Sequence[str]) -> Saved:
    """Return the contents of a file of the figure in each of these formats. The bytes are the same each time."""
    files = {name: io.BytesIO() for name in formats}
    with mpl.rc_context(fname=STYLE):
        for name, file in files.items():
            figure.savefig(file, format=name, **OPTIONS[name])
    return {name: file.getvalue() for name, file in files.items()}
