"""Kernel matrices of a config's network on its data: what `ntkrun kernel` writes."""

import math
import os
import shutil
import tempfile
from collections.abc import Callable, Hashable
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch

from ntkrun.config.reader import Sweep
from ntkrun.config.schema import Point
from ntkrun.engine.devices import GIB, check_free, resolve_device
from ntkrun.engine.kernel import empirical_ntk
from ntkrun.engine.tiles import pieces
from ntkrun.errors import FieldError, UserError
from ntkrun.files.writing import errors_as_sentence
from ntkrun.plan.problem import DTYPES, data_of, network
from ntkrun.plan.runs import flattened
from ntkrun.run.engines import EngineSelection
from ntkrun.theory.limit import dual_error, limit_kernels

CPU = torch.device("cpu")
ZEROS = 2**24  # bytes at a time
Arrays = dict[str, np.ndarray]
LIMITS = {"ntk": "", "standard": "; ntk is the limit of K_n/n", "mean_field": "; both are limits of n times the kernel"}


def limit_arrays(sweep: Sweep, device: str = "auto") -> tuple[Arrays, str]:
    """`ntk` and `nngp` (N, N) of infinite width, float64, and the inputs `x` (N, n_0); and how they were had, in words.

    A limit knows no width and no seed; where the kernel has none, `ntk` is the limit of K_n/n (standard) or n·K_n and
    `nngp` of n times the outputs' covariance (mean_field). Raises UserError where the sweep holds more than one
    architecture or data set.
    """
    for swept, _ in sweep.points:
        _check_equal_widths(swept)
    point = _single(sweep, lambda p: p.model_copy(update={"network": p.network.model_copy(update={"width": 1})}))
    net, x = network(point), data_of(point).x
    where = torch.tensor(x, device=resolve_device(device))
    for each in {where.device, CPU}:
        what = f"the limit kernels of {len(x)} inputs"
        check_free(16 * len(x) ** 2, each, "data.samples", what, "take fewer")
    kernels, error = limit_kernels(net, where), dual_error(net, where)
    how = f"numerical dual of {net.activation}, error {error:.0e}" if error else "closed form"
    arrays = {"ntk": kernels.ntk.cpu().numpy(), "nngp": kernels.nngp.cpu().numpy(), "x": x}
    return arrays, how + LIMITS[net.parametrization]


def empirical_arrays(sweep: Sweep, device: str = "auto") -> tuple[Arrays, str]:
    """`ntk` (S, N, N, O, O) of the initial networks of the sweep's S seeds, in the config's dtype, with their `seeds`
    and the inputs `x`; and how they were had, in words. Raises UserError where the sweep holds more than one network or
    data set."""
    point, seeds = _networks(sweep)
    where, net, data, dtype = resolve_device(device), network(point), data_of(point), DTYPES[point.training.dtype]
    x = torch.tensor(data.x, dtype=dtype, device=where)
    one = (len(x) * net.outputs) ** 2 * dtype.itemsize
    for each, needed in {where: one, CPU: one * (len(seeds) + (where == CPU))}.items():
        what = f"the kernels of {len(seeds)} network{'s' * (len(seeds) > 1)} on {len(x)} inputs"
        todo = "take fewer, or fewer sweep.seeds, or --engine ray, which puts them together on disk"
        check_free(needed, each, "data.samples", what, todo)
    kernels = torch.empty(len(seeds), len(x), len(x), net.outputs, net.outputs, dtype=dtype)
    for kernel, seed in zip(kernels, seeds, strict=True):  # one network at a time: all together need not fit
        kernel.copy_(empirical_ntk(net, net.init([seed], dtype, where), x)[0])
    return _empirical(point, seeds, kernels.numpy())


def empirical_in_blocks(sweep: Sweep, device: str, selection: EngineSelection, folder: Path) -> tuple[Arrays, str]:
    """The same with Ray, a block a task, for kernels of any size: they are put together in a file without a name in
    `folder`, which is gone with the array. Raises UserError where the disk has no room for that and for the file that
    is written of it."""
    from ntkrun.run.kernel_blocks import fill
    from ntkrun.run.ray import connected

    point, seeds = _networks(sweep)
    net, data, dtype = network(point), data_of(point), DTYPES[point.training.dtype]
    shape = (len(seeds), len(data.x), len(data.x), net.outputs, net.outputs)
    size = dtype.itemsize * math.prod(shape)
    with ExitStack() as held:
        with errors_as_sentence(folder, comfort=f"; the kernel takes {2 * size / GIB:.2g} GiB there while it is made"):
            _check_disk(folder, 2 * size)
            file = held.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
            _make_room(file, 2 * size)
        ntk = np.memmap(file, point.training.dtype, "r+", shape=shape)  # which outlives the open file
        fill(
            ntk, net, seeds, data.x, dtype, held.enter_context(connected(selection.ray_address, selection.jobs, device))
        )
        file.truncate(size)  # the rest is free for what is written of it
    return _empirical(point, seeds, ntk)


def _check_disk(folder: Path, needed: int) -> None:
    """Raises UserError before a disk that cannot hold them is filled."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"the kernels take {needed / GIB:.3g} GiB of disk and {free / GIB:.3g} GiB are free"
        raise UserError(f"{folder}: {sizes}; take fewer data.samples or sweep.seeds, or another disk with --out")


def _make_room(file: IO[bytes], size: int) -> None:
    """So many bytes of the disk are the file's: one that is written through a map, and finds no room as it is, ends the
    process (SIGBUS)."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for part in pieces(size, ZEROS):  # macOS
        file.write(bytes(part.stop - part.start))


def _networks(sweep: Sweep) -> tuple[Point, list[int]]:
    point = _single(sweep, lambda p: p)
    return point, list(dict.fromkeys(seed for _, of_point in sweep.points for seed in of_point))


def _empirical(point: Point, seeds: list[int], ntk: np.ndarray) -> tuple[Arrays, str]:
    arrays = {"ntk": ntk, "x": data_of(point).x, "seeds": np.array(seeds)}
    return arrays, f"width {point.network.width}, {len(seeds)} seed{'s' * (len(seeds) > 1)}, {point.training.dtype}"


def _check_equal_widths(point: Point) -> None:
    """K_n/n is of one n."""
    net = point.network
    if net.parametrization == "standard" and isinstance(net.width, tuple) and len(set(net.width)) > 1:
        raise FieldError(
            "network.width", "K_n/n has a limit in the standard parametrisation for equal widths; give one"
        )


def _single(sweep: Sweep, essence: Callable[[Point], Point]) -> Point:
    """The one point of the sweep, as far as the kernel is concerned."""
    points = [essence(Point(network=p.network, data=p.data, training=_kernel_part(p))) for p, _ in sweep.points]
    distinct = list(dict.fromkeys(points))
    if len(distinct) == 1:
        return distinct[0]
    rows = [flattened(point.model_dump(mode="json")) for point in distinct]
    varied = {key: _values(rows, key) for key in rows[0] if len(_values(rows, key)) > 1}
    listed = "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in varied.items())
    axes = ", ".join(f"{key}: [{values[0]}]" for key, values in varied.items())
    raise UserError(
        f"{sweep.name}: the sweep holds {len(distinct)} different kernels ({listed}); choose one, as in "
        f"'sweep={{grid: {{{axes}}}, seeds: 1}}'"
    )


def _kernel_part(point: Point) -> Any:
    """Of the training, only its precision matters to an initial kernel."""
    return type(point.training)(dtype=point.training.dtype)


def _values(rows: list[dict[str, Any]], key: str) -> list[Hashable]:
    return list(dict.fromkeys(row.get(key) for row in rows))
