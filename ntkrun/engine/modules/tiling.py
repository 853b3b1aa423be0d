"""Which parameters of a module go together, and how many inputs at a time, within a memory budget."""

from dataclasses import dataclass

from torch import Tensor, nn

from ntkrun.engine.devices import GIB
from ntkrun.engine.modules.state import Checked, checked, pays, positions
from ntkrun.errors import UserError

CPU_INPUTS, DEVICE_INPUTS = 64, 512  # at a time: enough for full speed
OVERHEAD = 8  # what a pass costs beside its inputs, in inputs: few at a time are slow
PAIRS = 2**22  # entries of a product over positions: more spill out of cache
TRIED = 2  # inputs on which sizes are found out: the fewest whose own axis can be told from others


@dataclass(frozen=True)
class Group:
    """Parameters whose kernels are made together, the inputs of a tile, how many tiles' rows are kept, and the entries
    of a product over positions at a time."""

    names: list[str]
    inputs: int
    kept: int
    pairs: int

    def cost(self, count: int) -> float:
        """What the passes of all tiles cost, in inputs: rows once, columns again for every group of rows."""
        tiles = -(-count // self.inputs)
        return (tiles + tiles * (tiles - 1) / 2 / self.kept) * (self.inputs + OVERHEAD)


@dataclass(frozen=True)
class _Sizes:
    """Bytes: of autograd's gradients in all parameters, for each input of the graph of a pass, and for each input and
    parameter of what is kept of it and of what making that takes beside it. O outputs, of `itemsize` bytes."""

    gradients: int
    graph: int
    kept: dict[str, int]
    making: dict[str, int]
    outputs: int
    itemsize: int

    def needs(self, names: list[str], inputs: int, kept: int) -> int:
        """The most that a group holds, beside its products over positions."""
        state = sum(self.kept[name] for name in names)
        work = self.graph + sum(self.making[name] for name in names)
        product = (inputs * self.outputs) ** 2 * self.itemsize
        return self.gradients + inputs * (kept + 1) * state + max(inputs * work, product)

    def group(self, names: list[str], count: int, most: int, limit: int) -> Group | None:
        """The tiles within `limit` whose passes cost least; None where not one pair of inputs fits."""
        # An einsum over positions holds its operands rearranged and its result: a quarter of the budget in all.
        pairs = max(1, min(PAIRS, limit // 16 // self.itemsize))
        found, size = [], most
        while True:
            tiles = -(-count // size)
            kept = [k for k in range(1, tiles + 1) if self.needs(names, size, k) <= limit - limit // 4]
            found += [Group(names, size, kept[-1], pairs)] if kept else []
            if size == 1:
                return min(found, key=lambda g: g.cost(count), default=None)
            size = -(-size // 2)


def plan(
    module: nn.Module, parameters: dict[str, nn.Parameter], x: Tensor, count: int, outputs: int, limit: int
) -> list[Group]:
    """All parameters in one group if they fit, else in halves, and so on: every group costs all passes again."""
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


def _sizes(found: Checked, parameters: dict[str, nn.Parameter], o: int, count: int) -> _Sizes:
    item = max(p.element_size() for p in parameters.values())
    outputs = {id(use.output): use.output for uses in found.record.uses.values() for use in uses}
    # What is recorded of an input; the module holds as much again between known functions, and as gradients.
    recorded = sum(t.numel() for t in outputs.values() if t is not None) * item // count
    kept, making = {}, {}
    for name, p in parameters.items():
        uses = found.layerwise.get(name)
        kept[name] = o * p.numel() * item
        if uses is None:
            making[name] = kept[name] + 2 * o * recorded  # the pass is mapped over outputs as well
            continue
        deltas = o * sum(use.output.numel() for use, _ in uses if use.output is not None) * item // count
        making[name] = deltas + kept[name]
        if pays(uses, p.numel(), count, o):
            given = p.numel() // (p.shape[0] if uses[0][0].kind == "matrix" else p.shape[1])
            kept[name] = deltas + sum(positions(use).numel() for use, _ in uses) // count * given * item
            making[name] = 2 * deltas  # as they are stacked, and rearranged
    gradients = 3 * sum(p.numel() for p in parameters.values()) * item  # of two checks, and one more to compare with
    return _Sizes(gradients, 6 * recorded, kept, making, o, item)
