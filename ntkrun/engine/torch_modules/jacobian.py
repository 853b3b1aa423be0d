"""Gradients in any parameter, one input at a time: the definition of a kernel, and its slowest computation."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap


def run(module: nn.Module, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """Return the module's output, (N, O), run with copies of its buffers, so that the run may change them.

    `parameters` replace those of the same name.
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    output: Tensor = functional_call(module, {**buffers, **(parameters or {})}, (x,))
    return output.unsqueeze(1) if output.ndim == 1 else output


def together(module: nn.Module, parameters: Mapping[str, nn.Parameter], x: Tensor) -> dict[str, Tensor]:
    """Return ∂F_i(x)/∂p by torch.func for all inputs at once, (N, O, P) per parameter. Raises RuntimeError where the
    module cannot be mapped."""

    def outputs(values: dict[str, Tensor], point: Tensor) -> Tensor:
        return run(module, point.unsqueeze(0), values)[0]

    values = {name: p.detach() for name, p in parameters.items()}
    with warnings.catch_warnings(), torch.no_grad():  # no graph beyond that of torch.func itself
        warnings.simplefilter("ignore")  # warnings about functions that are mapped slowly
        jacobians: dict[str, Tensor] = vmap(jacrev(outputs), in_dims=(None, 0))(values, x)
    return {name: j.flatten(2) for name, j in jacobians.items()}


def one_by_one(module: nn.Module, parameters: Mapping[str, nn.Parameter], x: Tensor) -> dict[str, Tensor]:
    """Return the gradients of `together` by plain autograd: a forward pass per input, a backward pass per output."""
    by_input: list[list[tuple[Tensor, ...]]] = []
    for n in range(len(x)):
        outputs = run(module, x[n : n + 1])[0]
        by_input.append([_gradients(value, list(parameters.values())) for value in outputs])
    return {
        name: torch.stack([torch.stack([row[k].flatten() for row in gradients]) for gradients in by_input])
        for k, name in enumerate(parameters)
    }


def _gradients(value: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor, ...]:
    if not value.requires_grad:  # this input took a branch that uses no parameter
        return tuple(torch.zeros_like(p) for p in parameters)
    gradients = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return tuple(dense(g) for g in gradients)


def dense(gradient: Tensor) -> Tensor:
    """Return the gradient as a dense tensor."""
    return gradient.to_dense() if gradient.is_sparse else gradient
