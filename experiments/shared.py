"""Sweeps that several experiments share."""

from experiments.framework import Planned

WIDTH_SWEEP = Planned(
    "width", smoke=("sweep=[{grid: {network.width: [32, 64, 128, 256]}, seeds: 3}]", "training.steps=100")
)
