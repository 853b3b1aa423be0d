"""The sections of a config: every key, its type, its default and what it must satisfy on its own."""

import difflib
import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from ntkrun.engine.data import DataConfig
from ntkrun.engine.data.base import LARGEST_SEED, MOST
from ntkrun.errors import UserError
from ntkrun.lab.asked import Claims, check_claims
from ntkrun.strict import Strict
from ntkrun.theory.activations import activation, registered_values
from ntkrun.theory.limit import Parametrization
from ntkrun.theory.losses import LOSSES

Size = Annotated[int, Field(ge=1, le=MOST)]
MOST_POINTS = 10_000
MOST_RUNS = 1_000_000  # of a sweep
MOST_ROWS = 1_000_000  # of a run in a table
LARGEST = 1e15  # of scales and step sizes: their squares are still numbers in float32


def _kind(value: Any) -> str:
    """Which form of a key that takes several forms was meant, so that the error speaks of that form alone."""
    if isinstance(value, dict | Strict):
        return "<mapping>"
    return "<list>" if isinstance(value, tuple | list) else "<number>"


def _word_or_number(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<number>"


Depth = Annotated[int, Field(ge=1, le=1000)]


class Network(Strict):
    """The dense network: L = depth weight layers, hidden widths n, σ, β, σ_w, and where these scales stand."""

    depth: Depth = 4
    width: Annotated[
        Annotated[Size, Tag("<number>")] | Annotated[tuple[Size, ...], Tag("<list>")], Discriminator(_kind)
    ] = 256
    activation: str = "relu"
    beta: float = Field(0.1, ge=0, le=LARGEST)
    weight_scale: float = Field(1.0, gt=0, le=LARGEST)
    parametrization: Parametrization = "ntk"

    @field_validator("width")
    @classmethod
    def _one_width_a_hidden_layer(cls, width: int | tuple[int, ...], info: ValidationInfo) -> int | tuple[int, ...]:
        depth = info.data.get("depth")
        if isinstance(width, tuple) and depth is not None and len(width) != depth - 1:
            raise ValueError(f"{len(width)} widths for the {depth - 1} hidden layers that depth {depth} has")
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
        """One width for all layers and the same width for each are one network; a user's own σ is its values."""
        widths = self.width if isinstance(self.width, tuple) else (self.width,) * (self.depth - 1)
        own = registered_values(self.activation)
        return super().identity() | {"width": list(widths)} | ({} if own is None else {"activation_values": own})


class Relative(Strict):
    """A step η = relative / λ_max(K/N), K the kernel to expect at the start: K_inf under ntk."""

    relative: float = Field(gt=0, le=LARGEST)


class Centred(Strict):
    """Outputs that start from zero: f = centred · (F - F_0)."""

    centred: float = Field(gt=0, le=LARGEST)


class Training(Strict):
    """Gradient descent, on all inputs or on batches, with heavy-ball momentum or without."""

    loss: str = Field("squared", json_schema_extra={"enum": list(LOSSES)})
    step_size: Annotated[
        Annotated[float, Field(gt=0, le=LARGEST), Tag("<number>")] | Annotated[Relative, Tag("<mapping>")],
        Discriminator(_kind),
    ] = Relative(relative=1.0)
    steps: int = Field(500, ge=0, le=MOST)
    batch: Annotated[
        Annotated[Literal["full"], Tag("<text>")] | Annotated[Size, Tag("<number>")], Discriminator(_word_or_number)
    ] = "full"
    momentum: float = Field(0.0, ge=0, lt=1)
    output_scale: Annotated[
        Annotated[float, Field(gt=0, le=LARGEST), Tag("<number>")] | Annotated[Centred, Tag("<mapping>")],
        Discriminator(_kind),
    ] = 1.0
    dtype: Literal["float32", "float64"] = "float32"

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        if name not in LOSSES:
            near = difflib.get_close_matches(name, LOSSES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(LOSSES)}"
            raise ValueError(f"unknown loss {name!r}; {hint}")
        return name


class LogSpaced(Strict):
    """About this many probed steps, evenly spaced in log(step), with step 0 and the last."""

    log_spaced: int = Field(ge=2, le=MOST_ROWS)


def _form_of_spacing(value: Any) -> str:
    return "<text>" if isinstance(value, str) else _kind(value)


Spacing = int | LogSpaced
Kept = Annotated[
    Annotated[Literal["first", "last"], Tag("<text>")] | Annotated[int, Field(ge=0, le=MOST), Tag("<number>")],
    Discriminator(_word_or_number),
]


class Probes(Strict):
    """When to measure, when to measure what is dearer, and which whole kernels and outputs to keep."""

    every: Annotated[
        Annotated[Size, Tag("<number>")] | Annotated[LogSpaced, Tag("<mapping>")], Discriminator(_kind)
    ] = 1
    detail: Annotated[
        Annotated[Literal["none"], Tag("<text>")]
        | Annotated[Size, Tag("<number>")]
        | Annotated[LogSpaced, Tag("<mapping>")],
        Discriminator(_form_of_spacing),
    ] = LogSpaced(log_spaced=16)
    kernels: tuple[Kept, ...] = ("first", "last")
    outputs: tuple[Kept, ...] = ("first", "last")


Seeds = Annotated[int, Field(ge=1, le=MOST_RUNS)]


class SweepBlock(Strict):
    """Grid points (every combination of `grid`, with the aligned lists of `zip`), each with these seeds."""

    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    zip: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    seeds: Annotated[
        Annotated[Seeds, Tag("<number>")]
        | Annotated[tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...], Field(min_length=1), Tag("<list>")],
        Discriminator(_kind),
    ] = 10


class Point(Strict):
    """A grid point: everything that a run's numbers depend on, but for its seed."""

    network: Network = Network()
    data: DataConfig
    training: Training = Training()
    probes: Probes = Probes()

    def identity(self) -> dict[str, Any]:
        return {name: getattr(self, name).identity() for name in type(self).model_fields}


class Config(Point):
    """A whole config file. Claims and what is expected of them change no number of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    sweep: Annotated[
        Annotated[SweepBlock, Tag("<mapping>")] | Annotated[tuple[SweepBlock, ...], Field(min_length=1), Tag("<list>")],
        Discriminator(_kind),
    ] = SweepBlock()
    claims: Claims = ()
    expect: Literal["diverged"] | None = None

    @field_validator("claims")
    @classmethod
    def _known_claims(cls, claims: Claims) -> Claims:
        return check_claims(claims)


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved config of another version with the defaults of this one filled in; as it is where this version cannot
    read it."""
    try:
        return Config.model_validate_json(json.dumps(config)).model_dump(mode="json")
    except ValueError:
        return dict(config)
