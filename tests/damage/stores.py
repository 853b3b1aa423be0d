"""Results directories after accidents: any byte of any file, and tables whose columns hold what none should."""

import os
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from tests.damage.values import ODD, changed, damaged

CONFIG = """\
name: small
network: {depth: 3, activation: erf}
data: {name: circle, samples: 4, test_samples: 4, targets: product}
training: {steps: 6}
probes: {detail: {log_spaced: 3}}
sweep: {grid: {network.width: [48, 64, 96]}, seeds: 3}
claims: [frozen-kernel, exponential-convergence, limit-ensemble, stability-edge, lazy-by-scale]
"""


def accident(root: Path, draw: random.Random, outside: Path, again: bool = False) -> None:
    """One thing happens to a results directory; `again`, to one whose tables may be torn already."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = draw.choice(files)
    how = draw.random() * (0.6 if again else 1.0)
    if how < 0.4:
        path.write_bytes(damaged(path.read_bytes(), draw, [other.read_bytes() for other in draw.sample(files, 2)]))
    elif how < 0.5:
        path.unlink()
    elif how < 0.53:
        _replaced(path, draw, outside)
    elif how < 0.56:
        shutil.rmtree(folder := draw.choice([folder for folder in root.rglob("*") if folder.is_dir()]))
        if draw.random() < 0.5:
            folder.symlink_to(outside)
    elif how < 0.6:
        source, copy = draw.choice(sorted((root / "stacks").iterdir())), root / "stacks" / draw.choice(["x", "../y"])
        if not copy.exists():  # the accident before may have made it
            shutil.copytree(source, copy)
    else:
        _rewritten(draw.choice([file for file in files if file.suffix in (".parquet", ".npz", ".yaml")]), draw)


def _replaced(path: Path, draw: random.Random, outside: Path) -> None:
    """By what is no plain file."""
    path.unlink()
    how = draw.randrange(4)
    if how == 0:
        path.mkdir()
    elif how == 1:
        os.mkfifo(path)
    elif how == 2:
        path.symlink_to(outside / "secret")
    else:
        path.symlink_to(path.name)


def _rewritten(path: Path, draw: random.Random) -> None:
    """Well formed, with other contents."""
    if path.suffix == ".yaml":
        path.write_bytes(yaml.dump(changed(yaml.safe_load(path.read_text()), draw)).encode("utf-8", "surrogatepass"))
    elif path.suffix == ".npz":
        with np.load(path) as arrays:
            kept = dict(arrays)
        name = draw.choice(list(kept))
        kept[draw.choice([name, name, "x"])] = _other_array(kept.pop(name), draw)
        np.savez(path, **kept)
    else:
        noted = pq.read_schema(path).metadata
        table = pa.Table.from_pandas(_other_frame(pd.read_parquet(path), draw), preserve_index=False)
        if draw.random() < 0.5:  # else the tables are seen to be others
            table = table.replace_schema_metadata(noted)
        pq.write_table(table, path)


def _other_array(array: np.ndarray, draw: random.Random) -> np.ndarray:
    values = array.copy()
    how = draw.randrange(5)
    if how == 0:
        return values[..., None]
    if how == 1:
        return values[:0]
    if how == 2:
        return values.astype(draw.choice([bool, complex, "U8", "int8", object]))
    with np.errstate(over="ignore"):  # 1e300 is infinite in float32
        odd = draw.choice([np.nan, np.inf, 1e300, 0])
        values[draw.randrange(len(values))] = odd if values.dtype.kind == "f" else -3
    return values


def _other_frame(frame: pd.DataFrame, draw: random.Random) -> pd.DataFrame:
    name = draw.choice(list(frame))
    how = draw.randrange(8)
    if how == 0:
        return frame.drop(columns=name)
    if how == 1:
        return frame.rename(columns={name: draw.choice(["x", "run_id ", "Loss"])})
    if how == 2:
        return frame.iloc[: draw.randrange(len(frame) + 1)]
    if how == 3:
        return pd.concat([frame, frame.sample(n=min(3, len(frame)), random_state=draw.randrange(99))])
    if how == 4:
        return frame.sample(frac=1, random_state=draw.randrange(99))
    if how == 5 and len(frame):
        return _with_cell(frame, name, draw)
    return frame.assign(**{name: _column(len(frame), draw)})


def _with_cell(frame: pd.DataFrame, name: str, draw: random.Random) -> pd.DataFrame:
    """One value is another, of the column's own kind where it has one."""
    numbers = pd.api.types.is_numeric_dtype(frame[name]) and not pd.api.types.is_bool_dtype(frame[name])
    values = frame[name].astype(object if not numbers else float).tolist()
    texts = ["../../x", "a\x1b[31mb", "", "{", "$\\frac", None, "[bold]x"]
    values[draw.randrange(len(values))] = draw.choice([np.nan, np.inf, -1.0, 0.0, 1e9, 1e300] if numbers else texts)
    try:
        return frame.assign(**{name: pd.Series(values, index=frame.index)}).astype({name: frame[name].dtype})
    except (ValueError, TypeError, OverflowError):
        return frame.assign(**{name: pd.Series(values, index=frame.index)})


def _column(rows: int, draw: random.Random) -> Any:
    value = draw.choice(ODD)
    if isinstance(value, dict | list):
        value = repr(value)
    return [2**62 if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**62 else value] * rows
