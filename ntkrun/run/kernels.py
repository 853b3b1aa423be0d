"""Compute the kernel matrices that `ntkrun kernel` writes: those of a config's network on its data."""

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
from ntkrun.plan.limits import layered_network, network
from ntkrun.plan.problem import DTYPES, data_of
from ntkrun.plan.runs import flattened
from ntkrun.run.engines import EngineSelection
from ntkrun.theory.limit import limit_kernels_with_error

CPU = torch.device("cpu")
ZEROS = 2**24  # bytes written at a time
Arrays = dict[str, np.ndarray]
LIMITS = {"ntk": "", "standard": "; ntk is the limit of K_n/n", "mean_field": "; both are limits of n times the kernel"}


def limit_arrays(sweep: Sweep, device: str = "auto") -> tuple[Arrays, str]:
    """Return `ntk` and `nngp` (N, N) of infinite width in float64 with the inputs `x` (N, n_0), and how they were
    computed, in words.

    A limit depends on no width and no seed. Where the kernel itself has no limit, `ntk` is the limit of K_n/n
    (standard) or of n·K_n (mean_field), and `nngp` is the limit of n times the outputs' covariance (mean_field). Raises
    UserError where the sweep holds more than one architecture or data set.
    """
    for grid_point, _ in sweep.points:
        _check_equal_widths(grid_point)
    point = _single(sweep, lambda p: p.model_copy(update={"network": p.network.of_any_width()}))
    net, x = layered_network(point), data_of(point).x
    inputs = torch.tensor(x, device=resolve_device(device))
    for needed_on in {inputs.device, CPU}:
        what = f"the limit kernels of {len(x)} inputs"
        check_free(16 * len(x) ** 2, needed_on, "data.samples", what, "take fewer")
    kernels, error = limit_kernels_with_error(net, inputs)
    how = f"numerical dual of {net.activation}, error {error:.0e}" if error else "closed form"
    arrays = {"ntk": kernels.ntk.cpu().numpy(), "nngp": kernels.nngp.cpu().numpy(), "x": x}
    return arrays, how + LIMITS[net.parametrization]


def empirical_arrays(sweep: Sweep, device: str = "auto") -> tuple[Arrays, str]:
    """Return `ntk` (S, N, N, O, O) of the initial networks of the sweep's S seeds in the config's dtype, with their
    `seeds` and the inputs `x`, and how they were computed, in words. Raises UserError where the sweep holds more than
    one network or data set."""
    point, seeds = _networks(sweep)
    compute_device, net, data = resolve_device(device), network(point), data_of(point)
    dtype = DTYPES[point.training.dtype]
    x = torch.tensor(data.x, dtype=dtype, device=compute_device)
    size = (len(x) * net.outputs) ** 2 * dtype.itemsize  # of one kernel
    for needed_on, needed in {compute_device: size, CPU: size * (len(seeds) + (compute_device == CPU))}.items():
        what = f"the kernels of {len(seeds)} network{'s' * (len(seeds) > 1)} on {len(x)} inputs"
        todo = "take fewer, or fewer sweep.seeds, or --engine ray, which assembles them on disk"
        check_free(needed, needed_on, "data.samples", what, todo)
    kernels = torch.empty(len(seeds), len(x), len(x), net.outputs, net.outputs, dtype=dtype)
    for kernel, seed in zip(kernels, seeds, strict=True):  # one network at a time: all of them together may not fit
        kernel.copy_(empirical_ntk(net, net.init([seed], dtype, compute_device), x)[0])
    return _empirical(point, seeds, kernels.numpy())


def empirical_in_blocks(sweep: Sweep, device: str, selection: EngineSelection, folder: Path) -> tuple[Arrays, str]:
    """Return what `empirical_arrays` returns, computed with Ray in blocks, for kernels of any size.

    The kernels are assembled in an unnamed file in `folder`, which disappears with the array. Raises UserError where
    the disk has no room for that file and for the output file that is written from it.
    """
    from ntkrun.run.kernel_blocks import fill
    from ntkrun.run.ray import connected_workers

    point, seeds = _networks(sweep)
    net, data, dtype = network(point), data_of(point), DTYPES[point.training.dtype]
    shape = (len(seeds), len(data.x), len(data.x), net.outputs, net.outputs)
    size = dtype.itemsize * math.prod(shape)
    with ExitStack() as contexts:
        with errors_as_sentence(
            folder, comfort=f"; the kernel takes {2 * size / GIB:.2g} GiB there while it is computed"
        ):
            _check_disk(folder, 2 * size)
            file = contexts.enter_context(tempfile.TemporaryFile(dir=folder, buffering=0))
            _make_room(file, 2 * size)
        ntk = np.memmap(file, point.training.dtype, "r+", shape=shape)  # remains valid after the file is closed
        workers = contexts.enter_context(connected_workers(selection.ray_address, selection.jobs, device))
        fill(ntk, net, seeds, data.x, dtype, workers)
        file.truncate(size)  # frees the rest for the output file
    return _empirical(point, seeds, ntk)


def _check_disk(folder: Path, needed: int) -> None:
    """Raise UserError where the disk cannot hold the kernels, before any of them is written."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = f"the kernels take {needed / GIB:.3g} GiB of disk and {free / GIB:.3g} GiB are free"
        raise UserError(f"{folder}: {sizes}; take fewer data.samples or sweep.seeds, or another disk with --out")


def _make_room(file: IO[bytes], size: int) -> None:
    """Reserve disk space for the file. Writing through a memory map would otherwise end the process with SIGBUS when
    the disk is full."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
        return
    for part in pieces(size, ZEROS):  # macOS
        file.write(bytes(part.stop - part.start))


def _networks(sweep: Sweep) -> tuple[Point, list[int]]:
    point = _single(sweep, lambda p: p)
    return point, list(dict.fromkeys(seed for _, point_seeds in sweep.points for seed in point_seeds))


def _empirical(point: Point, seeds: list[int], ntk: np.ndarray) -> tuple[Arrays, str]:
    arrays = {"ntk": ntk, "x": data_of(point).x, "seeds": np.array(seeds)}
    return arrays, f"width {point.network.width}, {len(seeds)} seed{'s' * (len(seeds) > 1)}, {point.training.dtype}"


def _check_equal_widths(point: Point) -> None:
    """Raise FieldError where K_n/n has no limit because the widths differ."""
    net = point.network
    if net.parametrization == "standard" and isinstance(net.width, tuple) and len(set(net.width)) > 1:
        raise FieldError(
            "network.width", "K_n/n has a limit in the standard parametrization for equal widths; give one"
        )


def _single(sweep: Sweep, essence: Callable[[Point], Point]) -> Point:
    """Return the only point of the sweep, ignoring what the kernel does not depend on. Raises UserError where there are
    several."""
    points = [essence(Point(network=p.network, data=p.data, training=_kernel_part(p))) for p, _ in sweep.points]
    distinct = list(dict.fromkeys(points))
    if len(distinct) == 1:
        return distinct[0]
    rows = [flattened(point.model_dump(mode="json")) for point in distinct]
    keys = dict.fromkeys(key for row in rows for key in row)
    varying = {key: _values(rows, key) for key in keys if len(_values(rows, key)) > 1}
    listed = "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in varying.items())
    axes = ", ".join(f"{key}: [{values[0]}]" for key, values in varying.items())
    raise UserError(
        f"{sweep.name}: the sweep holds {len(distinct)} different kernels ({listed}); choose one, as in "
        f"'sweep={{grid: {{{axes}}}, seeds: 1}}'"
    )


def _kernel_part(point: Point) -> Any:
    """Return the part of the training that an initial kernel depends on: its precision."""
    return type(point.training)(dtype=point.training.dtype)


def _values(rows: list[dict[str, Any]], key: str) -> list[Hashable]:
    return list(dict.fromkeys(row[key] for row in rows if key in row))
