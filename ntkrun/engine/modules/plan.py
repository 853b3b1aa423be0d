"""Which parameters of a module go together, and how many inputs at a time, within a memory budget."""

from dataclasses import dataclass

from torch import Tensor, nn

from ntkrun.engine.memory import GIB
from ntkrun.engine.modules.state import Checked, checked, pays, positions
from ntkrun.errors import UserError

CPU_INPUTS, DEVICE_INPUTS = 64, 512  # at a time: enough for full speed
TRIED = 2  # inputs on which sizes are found out: the fewest whose own axis can be told from others


@dataclass(frozen=True)
class Group:
    """Parameters whose kernels are made together, the inputs of a tile, and how many tiles' rows are kept."""

    names: list[str]
    inputs: int
    kept: int


@dataclass(frozen=True)
class _Sizes:
    """Bytes an input: the graph of a pass, and for every parameter what is kept of it and what making it takes."""

    graph: int
    kept: dict[str, int]
    making: dict[str, int]

    def inputs(self, names: list[str], most: int, limit: int, tiles_of: int) -> Group | None:
        """The largest tiles that fit, halving; None where not one input fits."""
        state = sum(self.kept[name] for name in names)
        work = self.graph + sum(self.making[name] for name in names)
        size = most
        while size * (2 * state + work) > limit:
            if size == 1:
                return None
            size = -(-size // 2)
        kept = int((limit / size - work) // state) - 1
        return Group(names, size, max(1, min(kept, -(-tiles_of // size))))


def plan(
    module: nn.Module,
    parameters: dict[str, nn.Parameter],
    x: Tensor,
    count: int,
    outputs: int,
    limit: int,
) -> list[Group]:
    """All parameters in one group if they fit, else in halves, and so on: every group costs all passes again."""
    tried = min(TRIED, len(x))
    sizes = _sizes(checked(module, parameters, x[:tried]), parameters, outputs, tried)
    most = min(count, CPU_INPUTS if x.device.type == "cpu" else DEVICE_INPUTS)
    groups, waiting = [], [sorted(parameters, key=lambda name: sizes.kept[name])]
    while waiting:
        names = waiting.pop()
        group = sizes.inputs(names, most, limit, count)
        if group is not None:
            groups.append(group)
        elif len(names) == 1:
            need = 2 * sizes.kept[names[0]] + sizes.graph + sizes.making[names[0]]
            raise UserError(
                f"memory: {limit / GIB:.3g} GiB for temporaries is too little: parameter {names[0]!r} takes about "
                f"{need / GIB:.3g} GiB for one pair of inputs"
            )
        else:
            waiting += [names[: len(names) // 2], names[len(names) // 2 :]]
    return groups


def _sizes(found: Checked, parameters: dict[str, nn.Parameter], o: int, count: int) -> _Sizes:
    outputs = {id(use.output): use.output for uses in found.record.uses.values() for use in uses}
    graph = sum(t.numel() * t.element_size() for t in outputs.values() if t is not None) // count
    kept, making = {}, {}
    for name, p in parameters.items():
        rows = o * p.numel() * p.element_size()
        uses = found.layerwise.get(name)
        if uses is None:
            kept[name], making[name] = rows, rows + 2 * o * graph  # the pass is mapped over outputs as well
        elif pays(uses, p.numel(), count, o):
            ts = sum(positions(use).numel() for use, _ in uses) // count
            channels = p.shape[0] if uses[0][0].kind == "matrix" else p.shape[1]
            kept[name] = making[name] = ts * (p.numel() // channels + o * channels) * p.element_size()
        else:
            deltas = sum(use.output.numel() for use, _ in uses if use.output is not None) // count
            kept[name], making[name] = rows, rows + o * deltas * p.element_size()
    return _Sizes(6 * graph, kept, making)
