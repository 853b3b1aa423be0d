"""Tables as a sweep leaves them, made from known laws instead of from networks."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from tests.store.store_of import SETTINGS

STEPS = (0, 1, 10, 100)
CONFIG = SETTINGS | {"training.steps": 100}


def tables(
    seeds: Mapping[object, int], slope: float = -1.0, scatter: float = 0.1, seed: int = 0, **config: object
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """runs, steps, layers of `seeds[width]` runs a width, with sup kernel drift = width^slope · exp(scatter · N(0,1)),
    half of that for the weights, and a loss of exp(-step/10)."""
    draw = np.random.default_rng(seed)
    runs, steps, layers = [], [], []
    for width, count in seeds.items():
        for k in range(count):
            run_id = f"w{width}s{k}" + "".join(map(str, config.values()))
            runs.append({"run_id": run_id, **CONFIG, **config, "network.width": width, "seed": k})
            size = float(width) ** slope if isinstance(width, int) else 1.0
            drift = size * np.exp(scatter * draw.standard_normal())
            for step in STEPS:
                share, loss = step / STEPS[-1], 0.5 * np.exp(-step / 10)
                steps.append(
                    {"run_id": run_id, "step": step, "time": 0.5 * step, "loss": loss, "test_loss": loss + 0.1}
                    | {"kernel_drift": drift * share, "weight_drift": drift * share / 2, "output_drift": share}
                )
                for layer in range(2):
                    named = {"layer": layer, "name": ("input", "output")[layer]}
                    layers.append({"run_id": run_id, "step": step, **named, "weight_drift": drift * share / 2})
    frame = pd.DataFrame(runs).assign(status="done", reason="", seconds=1.0, step_size=0.5, smooth=False)
    return frame, pd.DataFrame(steps), pd.DataFrame(layers)
