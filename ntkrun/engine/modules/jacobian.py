"""Gradients in any parameter, one input at a time: what a kernel is by definition, and the dearest way to it."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap


def run(module: nn.Module, x: Tensor, parameters: Mapping[str, Tensor] | None = None) -> Tensor:
    """The module's output, (N, O), with copies of its buffers, so that it may change them as it runs.

    `parameters` stand in for those of the same name.
    """
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    output: Tensor = functional_call(module, {**buffers, **(parameters or {})}, (x,))
    return output.unsqueeze(1) if output.ndim == 1 else output


def together(module: nn.Module, parameters: Mapping[str, nn.Parameter], x: Tensor) -> dict[str, Tensor]:
    """∂F_i(x)/∂p by torch.func, all inputs at once: (N, O, P) each. RuntimeError where the module cannot be mapped."""

    def outputs(values: dict[str, Tensor], one: Tensor) -> Tensor:
        return run(module, one.unsqueeze(0), values)[0]

    values = {name: p.detach() for name, p in parameters.items()}
    with warnings.catch_warnings(), torch.no_grad():  # no graph beyond that of torch.func itself
        warnings.simplefilter("ignore")  # of functions that it maps slowly
        found: dict[str, Tensor] = vmap(jacrev(outputs), in_dims=(None, 0))(values, x)
    return {name: j.flatten(2) for name, j in found.items()}


def one_by_one(module: nn.Module, parameters: Mapping[str, nn.Parameter], x: Tensor) -> dict[str, Tensor]:
    """The same by plain autograd: a forward pass an input and a backward pass an output of it."""
    found: list[list[tuple[Tensor, ...]]] = []
    for n in range(len(x)):
        outputs = run(module, x[n : n + 1])[0]
        found.append([_gradients(value, list(parameters.values())) for value in outputs])
    return {
        name: torch.stack([torch.stack([row[k].flatten() for row in of_one]) for of_one in found])
        for k, name in enumerate(parameters)
    }


def _gradients(value: Tensor, parameters: list[nn.Parameter]) -> tuple[Tensor, ...]:
    if not value.requires_grad:  # of this input: a branch that uses no parameter
        return tuple(torch.zeros_like(p) for p in parameters)
    found = torch.autograd.grad(value, parameters, retain_graph=True, materialize_grads=True)
    return tuple(dense(g) for g in found)


def dense(gradient: Tensor) -> Tensor:
    return gradient.to_dense() if gradient.is_sparse else gradient
