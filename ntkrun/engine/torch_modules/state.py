"""Gradients of a module, from known functions of its parameters, recorded as it runs, or by Jacobians."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import FunctionType
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ntkrun.engine.kernel import Gradients
from ntkrun.engine.torch_modules import jacobian
from ntkrun.engine.torch_modules.layers import LAYERS, Application
from ntkrun.engine.torch_modules.tied import Tied
from ntkrun.engine.uses import Affine, Free, Lookup, Use
from ntkrun.errors import UserError


@dataclass
class Record:
    """The record of one forward pass: its output, and the known uses of parameters by the parameter's name."""

    output: Tensor
    uses: dict[str, list[Application]] = field(default_factory=dict)


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
        self.uses: dict[str, list[Application]] = {}

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
    layerwise: dict[str, list[tuple[Application, Axis]]]


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


def state(
    module: nn.Module, parameters: Parameters, names: list[str], pairs: int, x: Tensor, piece: slice = slice(None)
) -> Gradients:
    """Return the gradients of a piece of x in the parameters `names`, in this order, as those of S = 1 networks;
    `pairs` as in uses.py. Raises UserError where no method agrees with autograd."""
    x = x[piece]
    result = checked(module, parameters, x)
    known = [name for name in names if name in result.layerwise]
    deltas = _deltas(result.record.output, [use for name in known for use, _ in result.layerwise[name]])
    parts = {name: _part(result.layerwise[name], deltas, parameters[name], len(x), pairs) for name in known}
    rest = {name: parameters[name] for name in names if name not in parts}
    checks = result.checks
    del result, deltas  # frees the graph
    if rest:
        parts |= {name: (Free(), j.unsqueeze(0)) for name, j in _jacobians(module, rest, x, checks).items()}
    return Gradients([parts[name][0] for name in names], [parts[name][1] for name in names])


def positions(use: Application) -> torch.Size:
    """Return the axes of positions of a use's output."""
    assert use.output is not None
    shape = use.output.shape
    return shape[:1] + shape[2:] if use.channels_first else shape[: use.output.ndim - use.trailing]


def by_kind(uses: list[tuple[Application, Axis]]) -> list[list[tuple[Application, Axis]]]:
    """Return the uses as linear maps and those as tables, where there are any."""
    kinds = [[(use, axis) for use, axis in uses if use.kind is kind] for kind in (Affine, Lookup)]
    return [same for same in kinds if same]


def pays(uses: list[tuple[Application, Axis]], entries: int, count: int, outputs: int) -> bool:
    """Return True if a parameter's uses are cheaper by pairs of positions than multiplied out. Only possible for Affine
    of one group and Lookup."""
    if any(use.kind not in (Affine, Lookup) or use.groups > 1 for use, _ in uses):
        return False
    sizes = []
    for same in by_kind(uses):
        first = same[0][0]
        assert first.output is not None
        number = sum(positions(use).numel() for use, _ in same) // count
        given = first.given.shape[-1] if first.kind is Affine else 0
        sizes.append((number, given, first.output.shape[1 if first.channels_first else -1]))
    return pairs_pay(entries, outputs, sizes)


def pairs_pay(entries: int, outputs: int, sizes: list[tuple[int, int, int]]) -> bool:
    """Return True if products over pairs of positions, T² (n + O² (m + 1)) in total over the kinds of use, cost less
    than over gradients, O² P.

    P = `entries` of the parameter; `sizes` are T, n (0 for a table, where indices are compared) and m of each kind.
    """
    return sum(t**2 * (n + outputs**2 * (m + 1)) for t, n, m in sizes) < outputs**2 * entries


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


def _outputs(uses: list[Application]) -> dict[int, Tensor]:
    return {id(use.output): use.output for use in uses if use.output is not None}


def _axis(use: Application, checks: list[Check], count: int) -> Axis | None:
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


def _vanishes(use: Application, axis: Axis, check: Check, count: int) -> bool:
    """Return True if δ is exactly zero for the inputs with zero cotangent (products of zeros are exactly zero)."""
    delta = axis.by_input(use.arranged(check.deltas[id(use.output)]), len(positions(use)), count)
    return not bool(delta[~check.chosen].any())


def _adds_up(uses: list[Application], name: str, check: Check) -> bool:
    truth = check.gradients[name]
    sums = [use.total(use.arranged(check.deltas[id(use.output)]), truth.shape) for use in uses]
    return _agree(_sum([value for value, _ in sums]), truth, _sum([scale for _, scale in sums]))


def _agree(value: Tensor, truth: Tensor, scale: Tensor) -> bool:
    """Return True if both agree to rounding: they are sums of the same products, of total size `scale`. Half precision
    rounds by 1e-2."""
    tolerance = min(256 * torch.finfo(truth.dtype).eps, 0.05)
    return bool(torch.linalg.vector_norm(value - truth) <= tolerance * scale)


def _deltas(output: Tensor, uses: list[Application]) -> dict[int, Tensor]:
    """Return ∂F_i/∂z of every output z of these uses, stacked over i: (O, *shape of z), by one backward pass per i."""
    zs = _outputs(uses)
    if not zs:
        return {}
    passes = [
        torch.autograd.grad(column.sum(), list(zs.values()), retain_graph=True, materialize_grads=True)
        for column in output.unbind(dim=1)
    ]
    return {key: torch.stack(deltas) for key, deltas in zip(zs, zip(*passes, strict=True), strict=True)}


def _part(
    uses: list[tuple[Application, Axis]], deltas: dict[int, Tensor], parameter: Tensor, count: int, pairs: int
) -> tuple[Use, Tensor]:
    """Return the use of a parameter, and its δ, of S = 1 networks."""
    size, outputs = len(parameter), len(deltas[id(uses[0][0].output)])
    if not pays(uses, parameter.numel(), count, outputs):
        rows = [use.gradient(*_by_input(use, axis, deltas, count), size) for use, axis in uses]
        return Free(), _sum(rows).unsqueeze(0)
    parts = []
    for same in by_kind(uses):
        given, delta = zip(*(_by_input(use, axis, deltas, count) for use, axis in same), strict=True)
        parts.append(same[0][0].use(_joined(given, 1), _joined(delta, 2), size, pairs))
    match parts:
        case [(Affine() as linear, d), (Lookup() as table, e)]:
            return Tied(linear, table), torch.cat([d.flatten(3), e.flatten(3)], dim=3)
        case [(Affine() as linear, d)] if d.shape[3] == 1:
            return replace(linear, a=linear.a.squeeze(2)), d.squeeze(3)
    return parts[0]


def _by_input(use: Application, axis: Axis, deltas: dict[int, Tensor], count: int) -> tuple[Tensor, Tensor]:
    """Return the input (N, T, ...) and δ (N, O, T, m) of one use."""
    lead = len(positions(use))
    delta = [axis.by_input(use.arranged(d), lead, count) for d in deltas[id(use.output)]]
    return axis.by_input(use.given, lead, count), torch.stack(delta, dim=1)


def _joined(tensors: tuple[Tensor, ...], axis: int) -> Tensor:
    return tensors[0] if len(tensors) == 1 else torch.cat(tensors, axis)


def _sum(tensors: list[Tensor]) -> Tensor:
    return sum(tensors[1:], start=tensors[0])


def _jacobians(module: nn.Module, parameters: Parameters, x: Tensor, checks: list[Check]) -> dict[str, Tensor]:
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
    return gradients


def _wrong(gradients: Mapping[str, Tensor], checks: list[Check]) -> list[str]:
    def adds_up(j: Tensor, check: Check, name: str) -> bool:
        scale = (check.cotangent.abs() * torch.linalg.vector_norm(j, dim=2)).sum()
        truth = check.gradients[name].flatten()
        return _agree(torch.einsum("no,nop->p", check.cotangent, j), truth, scale)

    return [name for name, j in gradients.items() if not all(adds_up(j, check, name) for check in checks)]
