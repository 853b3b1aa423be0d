"""Gradients of a module, from the uses of its parameters in known functions, recorded as it runs, or by Jacobians."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ntkrun.engine.torch_modules import jacobian
from ntkrun.engine.torch_modules.gradients import Factor, Factors, Part, Rows, factors_pay, sum_of
from ntkrun.engine.torch_modules.layers import LAYERS, Use, rows, total
from ntkrun.errors import UserError


@dataclass
class Record:
    """The record of one forward pass: its output, and the known uses of parameters by the parameter's name."""

    output: Tensor
    uses: dict[str, list[Use]] = field(default_factory=dict)


def record(call: Callable[[], Tensor], parameters: Mapping[str, nn.Parameter]) -> Record:
    """Run `call` and record the functions of `LAYERS` that use these parameters themselves, not copies of them.

    No hooks are added to the module. Unknown functions may use a parameter too: users of the record must check that.
    """
    recorder = _Recorder(parameters)
    with recorder:
        output = call()
    return Record(output, recorder.uses)


class _Recorder(TorchFunctionMode):
    """Intercepts every call of a torch function from Python. The mode is off within such a call."""

    def __init__(self, parameters: Mapping[str, nn.Parameter]):
        super().__init__()
        self.names = {id(p): name for name, p in parameters.items()}
        self.uses: dict[str, list[Use]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            with self:
                return _ATTENTION(*args, **kwargs)
        output = func(*args, **kwargs)
        if func not in LAYERS or not output.requires_grad:
            return output
        uses = [(self.names.get(id(p)), use) for p, use in LAYERS[func](*args, **kwargs)]
        for name, use in uses:
            if name is not None:
                self.uses.setdefault(name, []).append(use.at(output))
        # Returning a copy keeps the recorded output's gradient right even if the module changes it in place later.
        return output.clone() if any(name for name, _ in uses) else output


def _unguarded(function: FunctionType) -> FunctionType:
    """Return a copy of a function of torch.nn.functional that is not redirected to an active mode."""
    names = {**function.__globals__, "has_torch_function": lambda _: False}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


# A mode sees nn.MultiheadAttention as one Python function, with the projections inside it. If a release of torch checks
# for modes in another way, the projections are not recorded and are treated like every unknown parameter.
_ATTENTION = _unguarded(cast(FunctionType, F.multi_head_attention_forward))


# ---------------------------------------------------------------- state


Parameters = Mapping[str, nn.Parameter]


@dataclass(frozen=True)
class Axis:
    """The positions that belong to each input: axis `axis` of a use's positions has N·T entries, N `outer` or inner."""

    axis: int
    outer: bool

    def by_input(self, positions: Tensor, lead: int, count: int) -> Tensor:
        """Return positions (*lead, ...) as (N, T, ...), for `lead` axes of positions."""
        inner = positions.shape[self.axis] // count
        split = torch.unflatten(positions, self.axis, (count, inner) if self.outer else (inner, count))
        return split.movedim(self.axis + (not self.outer), 0).flatten(1, lead)


@dataclass(frozen=True)
class Check:
    """Results of one backward pass from a random cotangent v (N, O), zero where `chosen` is False: δ of every recorded
    output, and autograd's gradient in every parameter."""

    cotangent: Tensor
    chosen: Tensor
    deltas: dict[int, Tensor]
    gradients: dict[str, Tensor]


@dataclass(frozen=True)
class Checked:
    """A forward pass, its checks, and the uses with their axes of every parameter that passed the checks."""

    record: Record
    checks: list[Check]
    layerwise: dict[str, list[tuple[Use, Axis]]]


def checked(module: nn.Module, parameters: Parameters, x: Tensor) -> Checked:
    """Run the module and find the parameters whose recorded uses add up to autograd's gradient."""
    forward = record(lambda: jacobian.run(module, x), parameters)
    checks = _checks(forward, parameters, len(x))
    layerwise = {}
    for name, uses in forward.uses.items():
        axes = [_axis(use, checks, len(x)) for use in uses]
        known = [(use, axis) for use, axis in zip(uses, axes, strict=True) if axis is not None]
        if len(known) == len(uses) and all(_adds_up(uses, name, check) for check in checks):
            layerwise[name] = known
    return Checked(forward, checks, layerwise)


def state(module: nn.Module, parameters: Parameters, names: list[str], x: Tensor) -> dict[str, Part]:
    """Return the gradients of x in the parameters `names`. Raises UserError where no method agrees with autograd."""
    result = checked(module, parameters, x)
    parts: dict[str, Part] = {}
    uses = [use for name in names for use, _ in result.layerwise.get(name, [])]
    deltas = _deltas(result.record.output, uses)
    for name in names:
        if name in result.layerwise:
            parts[name] = _part(result.layerwise[name], deltas, parameters[name].shape, len(x))
    rest = {name: parameters[name] for name in names if name not in parts}
    checks = result.checks
    del result, deltas  # frees the graph
    return {**parts, **_jacobians(module, rest, x, checks)} if rest else parts


def positions(use: Use) -> torch.Size:
    """Return the axes of positions of a use's output."""
    assert use.output is not None
    shape = use.output.shape
    return shape[:1] + shape[2:] if use.channels_first else shape[: use.output.ndim - use.trailing]


def pays(uses: list[tuple[Use, Axis]], entries: int, count: int, outputs: int) -> bool:
    """Return True if a parameter's uses are cheaper as factors than multiplied out. Only possible for matrices of one
    group and for tables."""
    if any(use.kind not in ("matrix", "table") or use.groups > 1 for use, _ in uses):
        return False
    use = uses[0][0]
    assert use.given is not None
    assert use.output is not None
    number = sum(positions(use).numel() for use, _ in uses) // count
    given = use.given.shape[-1] if use.kind == "matrix" else 0
    channels = use.output.shape[1 if use.channels_first else -1]
    return factors_pay(entries, number, given, channels, outputs)


def _checks(forward: Record, parameters: Parameters, count: int) -> list[Check]:
    output = forward.output
    random = torch.Generator().manual_seed(0)  # a separate generator leaves torch's random state unchanged
    cotangent = torch.randn(output.shape, generator=random, dtype=torch.float64).to(output)
    chosen = (torch.randperm(count, generator=random) < (count + 1) // 2).to(output.device)
    halves = [chosen] if count == 1 else [chosen, ~chosen]
    zs = _outputs([use for uses in forward.uses.values() for use in uses])
    checks = []
    for half in halves:
        v = cotangent * half.unsqueeze(1)
        sources = [*zs.values(), *parameters.values()]
        grads = _pulled_back(output, v, sources)
        deltas = dict(zip(zs, grads, strict=False))
        checks.append(Check(v, half, deltas, dict(zip(parameters, map(jacobian.dense, grads[len(zs) :]), strict=True))))
    return checks


def _pulled_back(output: Tensor, cotangent: Tensor, sources: list[Tensor]) -> tuple[Tensor, ...]:
    if not output.requires_grad:  # these inputs took a branch that uses no parameter
        return tuple(torch.zeros_like(source) for source in sources)
    return torch.autograd.grad(output, sources, cotangent, retain_graph=True, materialize_grads=True)


def _outputs(uses: list[Use]) -> dict[int, Tensor]:
    return {id(use.output): use.output for use in uses if use.output is not None}


def _axis(use: Use, checks: list[Check], count: int) -> Axis | None:
    """Return the axis of positions that belongs to the inputs; None if there is none or it is not unique."""
    lead = positions(use)
    candidates = [
        Axis(k, outer) for k, size in enumerate(lead) for outer in (True, False) if _divides(size, count, outer)
    ]
    if count == 1:
        return candidates[0] if candidates else None
    matches = [axis for axis in candidates if all(_vanishes(use, axis, check, count) for check in checks)]
    return matches[0] if len(matches) == 1 else None


def _divides(size: int, count: int, outer: bool) -> bool:
    return size % count == 0 and (outer or size > count)


def _vanishes(use: Use, axis: Axis, check: Check, count: int) -> bool:
    """Return True if δ is exactly zero for the inputs with zero cotangent (products of zeros are exactly zero)."""
    delta = axis.by_input(use.arranged(check.deltas[id(use.output)]), len(positions(use)), count)
    return not bool(delta[~check.chosen].any())


def _adds_up(uses: list[Use], name: str, check: Check) -> bool:
    truth = check.gradients[name]
    sums = [total(use, use.arranged(check.deltas[id(use.output)]), truth.shape) for use in uses]
    return _agree(sum_of([value for value, _ in sums]), truth, sum_of([scale for _, scale in sums]))


def _agree(value: Tensor, truth: Tensor, scale: Tensor) -> bool:
    """Return True if both agree to rounding: they are sums of the same products, of total size `scale`. Half precision
    rounds by 1e-2."""
    tolerance = min(256 * torch.finfo(truth.dtype).eps, 0.05)
    return bool(torch.linalg.vector_norm(value - truth) <= tolerance * scale)


def _deltas(output: Tensor, uses: list[Use]) -> dict[int, Tensor]:
    """Return ∂F_i/∂z of every output z of these uses, stacked over i: (O, *shape of z), by one backward pass per i."""
    zs = _outputs(uses)
    if not zs:
        return {}
    passes = [
        torch.autograd.grad(column.sum(), list(zs.values()), retain_graph=True, materialize_grads=True)
        for column in output.unbind(dim=1)
    ]
    return {key: torch.stack(deltas) for key, deltas in zip(zs, zip(*passes, strict=True), strict=True)}


def _part(uses: list[tuple[Use, Axis]], deltas: dict[int, Tensor], shape: torch.Size, count: int) -> Part:
    factors = [_factor(use, axis, deltas[id(use.output)], count) for use, axis in uses]
    outputs = factors[0][2].shape[1]
    if pays(uses, shape.numel(), count, outputs):
        return Factors([Factor(use, given, d) for use, given, d in factors if given is not None], shape)
    return Rows(sum_of([rows(use, given, d, shape) for use, given, d in factors]))


def _factor(use: Use, axis: Axis, deltas: Tensor, count: int) -> tuple[Use, Tensor | None, Tensor]:
    """Return the input `given` (N, T, ...) and δ (N, O, T, n) of one use."""
    lead = len(positions(use))
    delta = torch.stack([axis.by_input(use.arranged(d), lead, count) for d in deltas], dim=1)
    return use, None if use.given is None else axis.by_input(use.given, lead, count), delta


def _jacobians(module: nn.Module, parameters: Parameters, x: Tensor, checks: list[Check]) -> dict[str, Part]:
    for name in parameters:
        if not all(check.gradients[name].isfinite().all() for check in checks):
            raise UserError(f"parameter {name!r}: its gradient is not finite on these inputs")
    try:
        gradients = jacobian.together(module, parameters, x)
    except (RuntimeError, ValueError):  # torch.func raises these where it cannot map a module
        gradients = {}
    if not gradients or _wrong(gradients, checks):
        gradients = jacobian.one_by_one(module, parameters, x)
    wrong = _wrong(gradients, checks)
    if wrong:
        raise UserError(
            f"parameter {wrong[0]!r}: its gradient over a batch is not the sum of those over its inputs one at a time, "
            "so the module mixes the inputs of a batch and has no kernel of two inputs"
        )
    return {name: Rows(j) for name, j in gradients.items()}


def _wrong(gradients: Mapping[str, Tensor], checks: list[Check]) -> list[str]:
    def adds_up(j: Tensor, check: Check, name: str) -> bool:
        scale = (check.cotangent.abs() * torch.linalg.vector_norm(j, dim=2)).sum()
        truth = check.gradients[name].flatten()
        return _agree(torch.einsum("no,nop->p", check.cotangent, j), truth, scale)

    return [name for name, j in gradients.items() if not all(adds_up(j, check, name) for check in checks)]
