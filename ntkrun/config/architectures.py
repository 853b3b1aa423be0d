"""The architectures that a config may name, each with the keys of its networks. Torch is imported when one is built."""

from collections.abc import Mapping
from importlib import import_module
from types import MappingProxyType
from typing import Annotated, Any, ClassVar, Literal, Self, get_args

from pydantic import BeforeValidator, Discriminator, Field, Tag, ValidationInfo, field_validator

from ntkrun.data.base import LARGEST, Size
from ntkrun.errors import UserError
from ntkrun.theory.activations import activation, registered_values
from ntkrun.theory.architecture import Parametrization
from ntkrun.validation import Strict, form

Depth = Annotated[int, Field(ge=1, le=1000)]


class Network(Strict):
    """The keys that every network takes. An architecture is a subclass, which adds its own keys."""

    statement: ClassVar[str]  # one line for `ntkrun list architectures`
    engine: ClassVar[str]  # module and class that compute it; it is called with inputs, outputs and all other keys

    architecture: str
    depth: Depth = 4
    """L, the number of weight layers. The network has L-1 hidden layers."""
    width: Annotated[
        Annotated[Size, Tag("<number>")] | Annotated[tuple[Size, ...], Tag("<list>")], Discriminator(form)
    ] = 256
    """Width n of every hidden layer, or a list of L-1 widths."""
    activation: str = "relu"
    """The activation σ: a name from `ntkrun list activations`, or one registered from Python with
    `ntkrun.register_activation`."""
    beta: float = Field(0.1, ge=0, le=LARGEST)
    """β, the scale of the biases, at least 0."""
    weight_scale: float = Field(1.0, gt=0, le=LARGEST)
    """σ_w, the scale of the weights."""
    parametrization: Parametrization = "ntk"
    """The place of the scales. `ntk`: weights start as N(0, 1), and the forward pass multiplies by σ_w/√n and β.
    `standard`: weights start as N(0, σ_w²/n) and biases as N(0, β²), without factors in the forward pass. The initial
    function is the same, but the kernel grows like n. `mean_field`: the output of the `ntk` network divided by √n, n
    the width of the last hidden layer. Its kernel changes during training at every width."""

    @field_validator("width")
    @classmethod
    def _check_widths(cls, width: int | tuple[int, ...], info: ValidationInfo) -> int | tuple[int, ...]:
        depth = info.data.get("depth")
        if isinstance(width, tuple) and depth is not None and len(width) != depth - 1:
            raise ValueError(f"{len(width)} widths for {depth - 1} hidden layers (depth {depth}); give one per layer")
        return width

    @field_validator("activation")
    @classmethod
    def _known_activation(cls, name: str) -> str:
        try:
            activation(name)
        except UserError as error:
            raise ValueError(str(error)) from None
        return name

    def identity(self) -> dict[str, Any]:
        """Return the values that identify the network. The widths are always listed, so that one width for all layers
        and the same width for each are the same network. A registered σ is identified by its values."""
        widths = self.width if isinstance(self.width, tuple) else (self.width,) * (self.depth - 1)
        values = registered_values(self.activation)
        return super().identity() | {"width": list(widths)} | ({} if values is None else {"activation_values": values})

    def of_any_width(self) -> Self:
        """Return what networks of all widths have in common: the smallest one."""
        return self.model_copy(update={"width": 1})

    def build(self, inputs: int, outputs: int) -> Any:
        """Return the engine's network of this architecture, which is imported now, for n_0 and n_L."""
        module, _, name = self.engine.partition(":")
        return getattr(import_module(module), name)(inputs, outputs, **self.model_dump(exclude={"architecture"}))


class Dense(Network):
    """The dense network: L = depth weight layers, hidden widths n, activation σ, bias scale β, weight scale σ_w and the
    parametrization."""

    statement = "every layer reads the one before it: z^(l+1) = s_l w^(l) σ(z^(l)) + c_l b^(l)"
    engine = "ntkrun.engine.dense:DenseNetwork"

    architecture: Literal["dense"] = "dense"
    """How the layers are connected: a name from `ntkrun list architectures`."""


class Residual(Network):
    """The dense network with skip connections between hidden layers, which have the same width. Up to depth 2 there are
    none."""

    statement = "hidden layers add to the one before them: z^(l+1) = γ z^(l) + s_l w^(l) σ(z^(l)) + c_l b^(l)"
    engine = "ntkrun.engine.residual:ResidualNetwork"

    architecture: Literal["residual"]  # without a default, so that it is part of every identity
    """Skip connections between the hidden layers."""
    skip: float = Field(1.0, ge=0, le=LARGEST)
    """γ, the factor of the skip connections, at least 0: the limit depends on γ² only. With 0 the network is dense."""

    @field_validator("width")
    @classmethod
    def _check_equal(cls, width: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if isinstance(width, tuple) and len(set(width)) > 1:
            raise ValueError(f"{list(width)}: a skip connection joins layers of equal width; give one number")
        return width


def _with_default(value: Any) -> Any:
    """Return the section with `architecture: dense` where it names none, as before there were others."""
    return {"architecture": "dense", **value} if isinstance(value, dict) else value


AnyNetwork = Dense | Residual
NetworkConfig = Annotated[AnyNetwork, Field(discriminator="architecture"), BeforeValidator(_with_default)]
ARCHITECTURES: Mapping[str, type[Network]] = MappingProxyType(
    {get_args(network.model_fields["architecture"].annotation)[0]: network for network in get_args(AnyNetwork)}
)
