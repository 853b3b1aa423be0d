"""Errors of `module_ntk`: modules without a kernel of two inputs, or modules that change when they run."""

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import is_lazy

from ntkrun.engine.torch_modules.jacobian import run
from ntkrun.errors import UserError

LOOKED_AT = 8  # inputs used for the checks: enough to detect mixing of inputs


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters with requires_grad by name, each once. Raises UserError where they have no kernel."""
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    if not parameters:
        raise UserError("the module has no parameter with requires_grad=True, so its kernel is empty")
    for name, parameter in parameters.items():
        if is_lazy(parameter):
            raise UserError(f"parameter {name!r} has no shape yet: call the module once first")
        if parameter._backward_hooks:
            raise UserError(f"parameter {name!r} has a gradient hook, which would change its kernel: remove it first")
    return parameters


def inspect(module: nn.Module, x: Tensor) -> int:
    """Check the module on a few inputs and return its number of outputs O. Raises UserError where it has no kernel."""
    _check_normalisation(module)
    few = x[:LOOKED_AT]
    output = _run_on_copies(module, few)
    _check_output(output, len(few))
    if len(few) > 1:
        _check_inputs_apart(module, few, output.reshape(len(few), -1))
    return output.shape[1] if output.ndim == 2 else 1


def _check_normalisation(module: nn.Module) -> None:
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and (child.training or child.running_mean is None):
            raise UserError(
                f"{name or 'the module'} normalises by its batch, which mixes inputs: call eval() on the module"
                + (", and give it running statistics" if child.running_mean is None else "")
            )


def _run_on_copies(module: nn.Module, x: Tensor) -> Tensor:
    """Run the module on copies and return its output. Raises UserError if it changes a parameter or draws random
    numbers."""
    copies = {name: p.detach().clone().requires_grad_(p.requires_grad) for name, p in module.named_parameters()}
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    versions = {name: copy._version for name, copy in copies.items()}
    before = _random_states(x)
    output = functional_call(module, {**buffers, **copies}, (x,))
    if any(not torch.equal(a, b) for a, b in zip(before, _random_states(x), strict=True)):
        raise UserError("the module draws random numbers (dropout?), so its kernel is not unique: call eval() on it")
    changed = [name for name, copy in copies.items() if copy._version != versions[name]]
    if changed:
        raise UserError(f"the module changes its parameter {changed[0]!r} as it runs (max_norm?), so it has no kernel")
    return output


def _random_states(x: Tensor) -> list[Tensor]:
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(x.device)] if x.is_cuda else [])]


def _check_output(output: object, count: int) -> None:
    if not isinstance(output, Tensor):
        raise UserError(f"the module returns a {type(output).__name__}: wrap it so that it returns one tensor, (N, O)")
    if output.ndim not in (1, 2) or len(output) != count or output.numel() == 0:
        raise UserError(
            f"the module returns shape {tuple(output.shape)} for {count} inputs: it must be ({count}, O) or ({count},)"
        )
    if not output.is_floating_point():
        raise UserError(f"the module returns {output.dtype}: its outputs must be real floating-point numbers")
    if not output.isfinite().all():
        raise UserError("the module's outputs are not finite on these inputs")
    if not output.requires_grad:
        raise UserError("the output does not depend on any parameter with requires_grad=True")


def _check_inputs_apart(module: nn.Module, x: Tensor, output: Tensor) -> None:
    """Check that an output does not depend on the other inputs of its batch, up to the rounding of other shapes."""
    with torch.no_grad():
        apart = torch.cat([run(module, x[:1]), run(module, x[1:])])
    rounding = torch.finfo(output.dtype).eps ** 0.5
    if not torch.allclose(apart, output, rtol=0, atol=rounding * float(output.detach().abs().max())):
        raise UserError(
            "the module's output for an input depends on the others in its batch, so it has no kernel of two inputs"
        )
