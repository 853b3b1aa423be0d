"""`ntkrun kernel`: the kernel matrices of a config's network on its data."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ntkrun.commands.arguments import ConfigFile, Device, Engine, Jobs, Overrides, RayAddress
from ntkrun.commands.printing import interruptible, loading_torch, say, under_way
from ntkrun.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ntkrun.config.reader import Sweep
    from ntkrun.run.kernels import Arrays

    MakeArrays = Callable[[Sweep, str], tuple[Arrays, str]]

kernel_app = typer.Typer(no_args_is_help=True, help="Write the kernel matrices of a config's network on its data.")

# An initial kernel does not depend on the step size. A relative one would cost the limit kernel's largest eigenvalue.
NO_STEP = "training.step_size=1"

Out = Annotated[Path, typer.Option("--out", metavar="FILE.npz", help="File to write; an existing one is replaced")]


@kernel_app.command("limit")
def kernel_limit(config: ConfigFile, out: Out, overrides: Overrides = None, device: Device = "auto") -> None:
    """Write the infinite-width kernels on the training inputs: ntk and nngp, (N, N) float64, and the inputs x.

    Example: ntkrun kernel limit configs/width.yaml network.activation=tanh --out limit.npz
    """
    with loading_torch():
        from ntkrun.run.kernels import limit_arrays

    _write_kernel(config, overrides, out, device, limit_arrays)


@kernel_app.command("empirical")
def kernel_empirical(
    config: ConfigFile,
    out: Out,
    overrides: Overrides = None,
    device: Device = "auto",
    engine: Engine = "local",
    jobs: Jobs = None,
    ray_address: RayAddress = None,
) -> None:
    """Write the kernels of the initial networks on the training inputs: ntk, (seeds, N, N, O, O), and the inputs x.

    With --engine ray they are computed in blocks, as many at once as there are cores or GPUs, and assembled on disk:
    for tens of thousands of inputs.

    Example: ntkrun kernel empirical configs/width.yaml 'sweep={grid: {network.width: [256]}, seeds: 3}' --out k.npz
    """
    with loading_torch():
        from ntkrun.run.engines import EngineSelection
        from ntkrun.run.kernels import empirical_arrays, empirical_in_blocks

    selection = EngineSelection(engine, jobs, ray_address)

    def in_blocks(sweep: "Sweep", device: str) -> "tuple[Arrays, str]":
        return empirical_in_blocks(sweep, device, selection, out.parent)

    _write_kernel(config, overrides, out, device, empirical_arrays if selection.engine == "local" else in_blocks)


def _write_kernel(config: Path, overrides: list[str] | None, out: Path, device: str, make: "MakeArrays") -> None:
    from ntkrun.config.reader import load_config
    from ntkrun.files.writing import write_arrays

    if out.suffix != ".npz":
        raise UserError(f"--out {out}: the file must end in .npz")
    with interruptible(f"{out} was not written"):
        sweep = load_config(config, [NO_STEP, *(overrides or [])])
        with under_way("computing kernels"):
            arrays, method = make(sweep, device)
        write_arrays(out, arrays)
    say(f"{out}: " + ", ".join(f"{name} {array.shape}" for name, array in arrays.items()) + f"; {method}")
