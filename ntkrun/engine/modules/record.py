"""Which functions used which parameters, on what: seen as the module runs, whatever its modules are called."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any, cast

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ntkrun.engine.modules.layers import LAYERS, Use


@dataclass
class Record:
    """What one forward pass left: its output, and every known use of a parameter, by the parameter's name."""

    output: Tensor
    uses: dict[str, list[Use]] = field(default_factory=dict)


def record(call: Callable[[], Tensor], parameters: Mapping[str, nn.Parameter]) -> Record:
    """Runs `call` and notes the functions of `LAYERS` that these parameters, themselves and not copies, go into.

    Nothing is hung on the module. A parameter may also be used by functions that are not known: whoever reads the
    record has to check it.
    """
    recorder = _Recorder(parameters)
    with recorder:
        output = call()
    return Record(output, recorder.uses)


class _Recorder(TorchFunctionMode):
    """Sees every call of a torch function from Python; within it the mode is off."""

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
        used = [(self.names.get(id(p)), use) for p, use in LAYERS[func](*args, **kwargs)]
        for name, use in used:
            if name is not None:
                self.uses.setdefault(name, []).append(use.at(output))
        # A copy goes on, so that the gradient is that of the output itself even where it is changed in place later.
        return output.clone() if any(name for name, _ in used) else output


def _unguarded(function: FunctionType) -> FunctionType:
    """A copy of a function of torch.nn.functional that does not ask whether a mode would like to have it instead."""
    names = {**function.__globals__, "has_torch_function": lambda _: False}
    copy = FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


# nn.MultiheadAttention is one Python function to a mode; the projections are inside it. Should a release of torch ask
# otherwise, they are not recorded, and go the way of every unknown parameter.
_ATTENTION = _unguarded(cast(FunctionType, F.multi_head_attention_forward))
