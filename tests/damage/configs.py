"""Configs after accidents: their trees changed, or their bytes."""

import itertools
import random
from pathlib import Path

import yaml

from tests.damage.values import changed, damaged

SMALL = """\
name: small
network: {depth: 3, width: 16, activation: erf, beta: 0.1}
data: {name: circle, samples: 4, test_samples: 4, targets: product}
training: {steps: 5, step_size: {relative: 1.0}, momentum: 0.0, loss: squared}
probes: {every: 1, detail: {log_spaced: 3}, kernels: [first, last]}
sweep: {grid: {network.width: [8, 16]}, zip: {network.depth: [2, 3]}, seeds: 2}
claims: [frozen-kernel, {name: lazy-weights, all: [-1, 0]}]
"""
OTHERS = (
    "name: a\ndata: {name: gaussian, samples: 6, dimension: 3, targets: {component: 2}}\ntraining: {batch: 2}\n",
    "name: b\ndata: {name: file, path: good.csv, inputs: [a], targets: [y], samples: 3, test_samples: 1}\n",
    "name: c\nnetwork: {width: [8, 4, 8]}\ndata: {name: digits, samples: 6, classes: [3, 8], targets: one_hot}\n",
    "name: d\ndata: {name: sphere, samples: 4, radius: 2.0, between: [0, 1]}\nsweep: [{seeds: [1, 5]}, {seeds: 1}]\n",
)
BOMBS = (
    "a: &a [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghi")),
    "[" * 5000,
    "name: " + "{a: " * 300,
    "name: !!python/object/apply:os.system [touch sprung]\n",
    "sweep: {grid: {" + ", ".join(f"network.k{k}: [1, 2, 3, 4, 5, 6, 7, 8, 9]" for k in range(20)) + "}}\n",
)


def config(draw: random.Random) -> bytes:
    """The text of a config that something has happened to."""
    text = draw.choice([SMALL, SMALL, *OTHERS])
    if draw.random() < 0.01:
        return draw.choice(BOMBS).encode()
    if draw.random() < 0.3:
        return damaged(text.encode(), draw, [other.encode() for other in (*OTHERS, *BOMBS)])
    tree = yaml.safe_load(text)
    for _ in range(draw.randrange(1, 4)):
        tree = changed(tree, draw)
    return yaml.dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def data_files(folder: Path) -> None:
    """What the configs above name."""
    (folder / "good.csv").write_text("a,y\n" + "".join(f"{k},{k * k}\n" for k in range(6)))
