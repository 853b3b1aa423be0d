"""Data files after accidents, with a config each."""

import io
import random
from pathlib import Path

import numpy as np
import pandas as pd

from tests.damage.values import ODD, damaged

CONFIG = "name: data\ndata: {{name: file, path: {path}, inputs: [a, b], targets: [y], samples: 3, test_samples: 1}}\n"
IDX = "name: data\ndata: {{name: idx, images: {path}, labels: {path}, samples: 3, test_samples: 1}}\n"
GOOD = pd.DataFrame({"a": [0.5, 1.5, -2.0, 3.0, 0.1], "b": [1, 2, 3, 4, 5], "y": [1.0, -1.0, 1.0, -1.0, 1.0]})


def data_file(folder: Path, draw: random.Random) -> Path:
    """A config in `folder`, whose data something has happened to."""
    ending = draw.choice(["csv", "npz", "parquet", "idx"])
    path, others = folder / f"data.{ending}", [_bytes(GOOD, kind) for kind in ("csv", "npz", "parquet")]
    if ending == "idx":
        raw = damaged(b"\0\0\x08\x03\0\0\0\5\0\0\0\2\0\0\0\2" + bytes(range(20)), draw, others)
    elif draw.random() < 0.5:
        raw = damaged(_bytes(GOOD, ending), draw, others)
    else:
        raw = _bytes(_changed(draw), ending)
    path.write_bytes(raw)
    config = folder / "config.yaml"
    config.write_text((IDX if ending == "idx" else CONFIG).format(path=path))
    return config


def _changed(draw: random.Random) -> pd.DataFrame:
    """Cells and columns that hold what no data do."""
    frame = GOOD.astype(object)
    for _ in range(draw.randrange(1, 4)):
        name = draw.choice(list(GOOD))
        how = draw.randrange(4)
        if how == 0 and name in frame:
            frame = frame.drop(columns=name)
        elif how == 1:
            frame[name] = [draw.choice(ODD) for _ in range(len(frame))]
        elif how == 2:
            value = draw.choice(ODD)
            frame[name] = [value] * len(frame)
        else:
            frame = frame.iloc[: draw.randrange(len(frame) + 1)]
    return frame


def _bytes(frame: pd.DataFrame, ending: str) -> bytes:
    out = io.BytesIO()
    if ending == "csv":
        frame.to_csv(out, index=False, errors="replace")
    elif ending == "npz":
        np.savez(out, **{name: np.array(frame[name].tolist() or [0], dtype=_dtype(frame[name])) for name in frame})
    else:
        for name in frame:
            try:
                pd.DataFrame({name: frame[name]}).to_parquet(io.BytesIO())
            except (ValueError, TypeError, OverflowError, NotImplementedError):
                frame = frame.assign(**{name: frame[name].map(repr)})
        frame.to_parquet(out)
    return out.getvalue()


def _dtype(column: pd.Series) -> type:
    """Numbers where they are; objects, which npz files hold as pickles, elsewhere."""
    return float if all(isinstance(value, int | float) and abs(value) < 1e300 for value in column) else object
