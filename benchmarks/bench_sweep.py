"""A whole sweep, configs/width.yaml with fewer steps, against the same training as a plain torch script.

The sweep is timed as it is: initialising, training, every probe at every step, writing its tables. The script trains
one network after the other (autograd, torch.optim.SGD) and computes the kernel at every step by torch.func's Jacobian
contraction, as its tutorial does; five of its steps are timed at each width and their median is multiplied by steps
and seeds. It writes nothing and measures nothing else. Fewer steps do not favour the sweep: what it does once counts
in full.

    OMP_NUM_THREADS=1 python benchmarks/bench_sweep.py [steps]
"""

import sys
import tempfile
import time
from pathlib import Path

import torch
from common import DEVICE, medians, plain_network, where
from torch import Tensor
from torch.func import functional_call, jacrev, vmap

import ntkrun
from ntkrun.config.schema import Point
from ntkrun.plan.problem import data_of

CONFIG = Path(__file__).parents[1] / "configs" / "width.yaml"
STEPS = 20 if DEVICE.type == "cpu" else 300  # on a GPU all of them: the detail steps, 16 whatever the steps, are most
TIMED = 5


def script_step(point: Point) -> float:
    """Seconds of a step of the plain script: the kernel, then the update."""
    data = data_of(point)
    x, y = (torch.tensor(part, dtype=torch.float32, device=DEVICE) for part in (data.x, data.y))
    width = point.network.width
    assert isinstance(width, int)
    net = plain_network(x.shape[1], width, point.network.depth).to(DEVICE)
    optimiser = torch.optim.SGD(net.parameters(), lr=1e-3 / width)

    def output(params: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(net, params, (one.unsqueeze(0),)).squeeze(0)

    def step() -> None:
        params = {name: p.detach() for name, p in net.named_parameters()}
        jacobian = vmap(jacrev(output), (None, 0))(params, x)
        parts = [j.flatten(2) for j in jacobian.values()]
        torch.stack([torch.einsum("Naf,Mbf->NMab", j, j) for j in parts]).sum(0)
        optimiser.zero_grad()
        ((net(x) - y).square().sum() / (2 * len(x))).backward()
        optimiser.step()

    return medians({"script": step}, TIMED)["script"]


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else STEPS
    sweep = ntkrun.load_config(CONFIG, overrides=[f"training.steps={steps}"])
    with tempfile.TemporaryDirectory() as results:
        started = time.perf_counter()
        runs = ntkrun.run_sweep(sweep, results, str(DEVICE)).runs
        ours = time.perf_counter() - started
    print(f"\nconfigs/width.yaml with {steps} steps, {where()}\n")
    print("| n | seeds | sweep's stacks, s | script, s | ratio |\n|---|---|---|---|---|")
    total = 0.0
    for point, seeds in sweep.points:
        script = script_step(point) * (steps + 1) * len(seeds)
        total += script
        width = point.network.width
        stack = runs.loc[runs["network.width"] == width, "seconds"].sum()
        print(f"| {width} | {len(seeds)} | {stack:.1f} | {script:.1f} | {stack / script:.3f} |", flush=True)
    print(f"| whole sweep | | {ours:.1f} | {total:.1f} | {ours / total:.3f} |")


if __name__ == "__main__":
    main()
