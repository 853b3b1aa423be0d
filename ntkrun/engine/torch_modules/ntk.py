"""The empirical kernel of any torch module."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from ntkrun.engine.devices import budget
from ntkrun.engine.kernel import fill, tiled_shape, untiled
from ntkrun.engine.tiles import check_outputs, pieces
from ntkrun.engine.torch_modules.checks import inspect, trainable
from ntkrun.engine.torch_modules.memory_plan import plan
from ntkrun.engine.torch_modules.state import state
from ntkrun.engine.torch_settings import full_float32
from ntkrun.engine.uses import Outputs
from ntkrun.errors import UserError


@full_float32()
def module_ntk(
    module: nn.Module,
    x: Tensor,
    x2: Tensor | None = None,
    outputs: Outputs = "full",
    *,
    memory: float | None = None,
) -> Tensor:
    """Return the empirical NTK of any module on inputs x (N, ...) and x2 (M, ...). `x2 = None` means x; that kernel is
    exactly symmetric.

        K_ij(x, x') = Σ_p ∂_p F_i(x) ∂_p F_j(x')       over the parameters with requires_grad=True, each once

    `outputs`: "full" K_ij, (N, M, O, O); "diagonal" K_ii, (N, M, O); "trace" Σ_i K_ii, (N, M), in the parameters' own
    dtype. F(x) = module(x) must be (N, O) or (N,), and each output may depend only on its own input. Parameters are
    used as they are. In the NTK parametrization weights are N(0, 1) with a scale before them, so for that kernel the
    module itself must contain the scale.

    Gradients are computed layer by layer where checks on these inputs show that this is exact, and by blocks of the
    Jacobian elsewhere. Temporaries are planned to stay within `memory` GiB (None: half of the free memory). Nothing of
    the module is changed, neither its mode nor its parameters, gradients, buffers and hooks; nor is torch's random
    state.

    Raises UserError for a module without such a kernel, for example one that mixes the inputs of a batch or draws
    random numbers (batch normalisation and dropout in training mode), and where one pair of inputs does not fit.

    >>> import ntkrun, torch
    >>> x = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    >>> ntkrun.module_ntk(torch.nn.Linear(2, 1, dtype=torch.float64), x, outputs="trace")  # x·x' + 1
    tensor([[2.0000, 1.6000],
            [1.6000, 2.0000]], dtype=torch.float64)
    """
    check_outputs(outputs)
    with _undisturbed(module):
        parameters = trainable(module)
        x, x2 = _plain(x), None if x2 is None else _plain(x2)
        o = inspect(module, x)
        if x2 is not None and inspect(module, x2) != o:
            raise UserError("the module has different numbers of outputs for x and x2")
        others = x if x2 is None else x2
        like = next(iter(parameters.values()))
        dtype = _common([p.dtype for p in parameters.values()])
        shape = tiled_shape(outputs, 1, len(x), len(others), o)
        result = like.new_zeros(shape, dtype=dtype, requires_grad=False)
        limit = budget(memory, result.numel() * result.element_size(), like.device)
        for group in plan(module, parameters, x, max(len(x), len(others)), o, limit):
            gradients_of = partial(state, module, parameters, group.names, group.pairs)
            rows, columns = pieces(len(x), group.inputs), None if x2 is None else pieces(len(x2), group.inputs)
            fill(result, outputs, o, rows, columns, group.kept, partial(gradients_of, x), partial(gradients_of, others))
        return untiled(result, outputs, o)[0]


def _plain(x: Tensor) -> Tensor:
    """Return x detached from any graph; copied if it is an inference tensor, which autograd cannot store."""
    if not isinstance(x, Tensor) or x.ndim == 0 or len(x) == 0:
        raise UserError("the kernel needs a tensor of at least one input, with the inputs on its first axis")
    x = x.detach()
    return x.clone() if x.is_inference() else x


def _common(dtypes: list[torch.dtype]) -> torch.dtype:
    common = dtypes[0]
    for dtype in dtypes[1:]:
        common = torch.promote_types(common, dtype)
    return common


@contextmanager
def _undisturbed(module: nn.Module) -> Iterator[None]:
    """Enable gradients in any mode of the caller, and restore torch's random state afterwards."""
    devices = {p.device.index for p in module.parameters() if p.is_cuda}
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(devices=sorted(devices)):
        yield
