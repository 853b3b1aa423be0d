"""Groups of a module's parameters and tiles of its inputs, chosen within a memory limit."""

from dataclasses import dataclass

from torch import Tensor, nn

from ntkrun.engine.devices import GIB
from ntkrun.engine.torch_modules.state import Checked, checked, pays
from ntkrun.engine.uses import PAIRS
from ntkrun.errors import UserError

CPU_INPUTS, DEVICE_INPUTS = 64, 512  # most inputs of a tile: enough for full speed
OVERHEAD = 8  # fixed cost of a pass, in units of inputs: passes over few inputs are slow
TRIED = 2  # inputs used to measure sizes: the fewest that identify the axis of inputs


@dataclass(frozen=True)
class Group:
    """Parameters whose kernels are computed together, the inputs of a tile, how many row states are kept, and the
    entries of a product over positions at a time."""

    names: list[str]
    inputs: int
    kept: int
    pairs: int

    def cost(self, count: int) -> float:
        """Return the cost of all passes, in units of inputs: rows once, columns once for every group of kept rows."""
        tiles = -(-count // self.inputs)
        return (tiles + tiles * (tiles - 1) / 2 / self.kept) * (self.inputs + OVERHEAD)


@dataclass(frozen=True)
class _Sizes:
    """Sizes in bytes: of autograd's gradients in all parameters, of a pass's graph per input, and per input and
    parameter of the kept state (`kept`) and of the temporaries for computing it (`making`). There are O `outputs`, of
    `itemsize` bytes."""

    gradients: int
    graph: int
    kept: dict[str, int]
    making: dict[str, int]
    outputs: int
    itemsize: int

    def needs(self, names: list[str], inputs: int, kept: int) -> int:
        """Return the peak memory of a group, without its products over positions."""
        state = sum(self.kept[name] for name in names)
        work = self.graph + sum(self.making[name] for name in names)
        # The products of δ, of a, and those of a repeated for every output (uses.py).
        product = inputs**2 * (2 * self.outputs**2 + 1) * self.itemsize
        return self.gradients + inputs * (kept + 1) * state + max(inputs * work, product)

    def group(self, names: list[str], count: int, most: int, limit: int) -> Group | None:
        """Return the group with the cheapest passes within `limit`; None if not even one pair of inputs fits."""
        # An einsum over positions holds its rearranged operands and its result: a quarter of the limit in total.
        pairs = max(1, min(PAIRS, limit // 16 // self.itemsize))
        groups, size = [], most
        while True:
            tiles = -(-count // size)
            kept = [k for k in range(1, tiles + 1) if self.needs(names, size, k) <= limit - limit // 4]
            groups += [Group(names, size, kept[-1], pairs)] if kept else []
            if size == 1:
                return min(groups, key=lambda g: g.cost(count), default=None)
            size = -(-size // 2)


def plan(
    module: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor, count: int, outputs: int, limit: int
) -> list[Group]:
    """Return the groups of parameters: one group if it fits, else halves, and so on, since every group needs all passes
    again. Raises UserError where one parameter does not fit."""
    tried = min(TRIED, len(x))
    sizes = _sizes(checked(module, parameters, x[:tried]), parameters, outputs, tried)
    most = min(count, CPU_INPUTS if x.device.type == "cpu" else DEVICE_INPUTS)
    groups, waiting = [], [sorted(parameters, key=lambda name: sizes.kept[name])]
    while waiting:
        names = waiting.pop()
        group = sizes.group(names, count, most, limit)
        if group is not None:
            groups.append(group)
        elif len(names) == 1:
            raise UserError(
                f"memory: {limit / GIB:.3g} GiB for temporaries is too little: parameter {names[0]!r} takes about "
                f"{sizes.needs(names, 1, 1) * 4 / 3 / GIB:.3g} GiB for one pair of inputs"
            )
        else:
            waiting += [names[: len(names) // 2], names[len(names) // 2 :]]
    return groups


def _sizes(checks: Checked, parameters: dict[str, nn.Parameter], o: int, count: int) -> _Sizes:
    item = max(p.element_size() for p in parameters.values())
    outputs = {id(use.output): use.output for uses in checks.record.uses.values() for use in uses}
    # Recorded bytes per input. The module holds as much again between known functions, and as gradients.
    recorded = sum(t.numel() for t in outputs.values() if t is not None) * item // count
    kept, making = {}, {}
    for name, p in parameters.items():
        uses = checks.layerwise.get(name)
        kept[name] = o * p.numel() * item
        if uses is None:
            making[name] = kept[name] + 2 * o * recorded  # the pass is also mapped over outputs
            continue
        deltas = o * sum(use.output.numel() for use, _ in uses if use.output is not None) * item // count
        making[name] = deltas + kept[name]
        if pays(uses, p.numel(), count, o):
            kept[name] = deltas + sum(use.given.numel() * use.given.element_size() for use, _ in uses) // count
            making[name] = (2 + (len(uses) > 1)) * deltas  # while they are stacked, rearranged and joined
    gradients = 3 * sum(p.numel() for p in parameters.values()) * item  # of two checks, and one more for comparison
    return _Sizes(gradients, 6 * recorded, kept, making, o, item)
