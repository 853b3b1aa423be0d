"""`ntkrun slurm`."""

from pathlib import Path
from typing import Annotated

import typer

from ntkrun.commands.arguments import ConfigFile, Overrides, one_of


def slurm(
    config: ConfigFile,
    overrides: Overrides = None,
    results: Annotated[Path, typer.Option(help="Folder for the results, on a file system that all nodes share")] = Path(
        "results"
    ),
    tasks: Annotated[
        int | None,
        typer.Option(
            metavar="K", help="Number of tasks in the array; default: enough for about an hour each", show_default=False
        ),
    ] = None,
    cpus: Annotated[int, typer.Option(metavar="N", help="CPUs per task")] = 1,
    device: Annotated[
        str,
        typer.Option(
            metavar="cpu|cuda",
            help="Device of each task; cuda requests one GPU per task",
            autocompletion=one_of("cpu", "cuda"),
        ),
    ] = "cpu",
    memory: Annotated[float, typer.Option(metavar="GIB", help="Memory limit of a stack of networks, in GiB")] = 4.0,
) -> None:
    """Print an sbatch script that runs the sweep as a job array, with memory and a rough time.

    Example: ntkrun slurm configs/width.yaml --tasks 8 > width.sbatch
    """
    from ntkrun.config.reader import load_config
    from ntkrun.plan.slurm import Array, sbatch_script

    array = Array(str(config), tuple(overrides or ()), str(results), tasks, cpus, device, memory)
    print(sbatch_script(load_config(config, overrides or []), array), end="")
