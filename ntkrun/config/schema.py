"""The sections of a config: every key, its type, its default and what it must satisfy on its own."""

import difflib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag, ValidationInfo, field_validator

from ntkrun.config.claims import Claims, check_claims
from ntkrun.data import Data, DataConfig
from ntkrun.data.base import LARGEST_SEED, MOST
from ntkrun.errors import FieldError, UserError
from ntkrun.theory.activations import activation, registered_values
from ntkrun.theory.architecture import Parametrization
from ntkrun.theory.losses import LOSSES
from ntkrun.validation import Strict

Size = Annotated[int, Field(ge=1, le=MOST)]
MOST_POINTS = 10_000  # of a sweep
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
    """L, the number of weight layers: L-1 of them hidden."""
    width: Annotated[
        Annotated[Size, Tag("<number>")] | Annotated[tuple[Size, ...], Tag("<list>")], Discriminator(_kind)
    ] = 256
    """Hidden width n, or a list of L-1 widths."""
    activation: str = "relu"
    """σ: `ntkrun list activations`, or one that your Python has registered with `ntkrun.register_activation`."""
    beta: float = Field(0.1, ge=0, le=LARGEST)
    """β, the scale of the biases; at least 0."""
    weight_scale: float = Field(1.0, gt=0, le=LARGEST)
    """σ_w, the scale of the weights."""
    parametrization: Parametrization = "ntk"
    """Where the scales stand. `ntk`: weights start as N(0, 1), σ_w/√n and β stand in the forward pass. `standard`:
    weights start as N(0, σ_w²/n), biases as N(0, β²), no factors: the same function at the start, a kernel that grows
    like n. `mean_field`: the ntk network's output over √n of the last hidden layer: a kernel that never freezes."""

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
    """ℓ, whose mean over the inputs is descended: `ntkrun list losses`. logistic takes targets of ±1 (`signed`),
    cross_entropy distributions over two outputs or more (`one_hot`)."""
    step_size: Annotated[
        Annotated[float, Field(gt=0, le=LARGEST), Tag("<number>")] | Annotated[Relative, Tag("<mapping>")],
        Discriminator(_kind),
    ] = Relative(relative=1.0)
    """η itself, or `{relative: r}`: η = r/λ_max(K/N), K the kernel that theory expects at the start. Under `ntk` that
    is the infinite-width kernel, so η is the same at every width; under `mean_field` it is K_inf/n, under `standard`
    the layerwise limits with their factors. Where the kernel stays, training is stable for r < 2."""
    steps: int = Field(500, ge=0, le=MOST)
    """Steps of gradient descent; with 0 the networks are measured as they start."""
    batch: Annotated[
        Annotated[Literal["full"], Tag("<text>")] | Annotated[Size, Tag("<number>")], Discriminator(_word_or_number)
    ] = "full"
    """`full`: the whole training set a step; or a number, at most `data.samples`: that many inputs a step, drawn i.i.d.
    with replacement from a generator of each run's own. Kernel and loss are measured on all inputs all the same."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """μ of heavy-ball momentum, 0 ≤ μ < 1: v ← μ v - η∇loss, W ← W + v. Linear dynamics are then stable for
    η λ_max < 2(1+μ), and about 1/(1-μ) times as fast; time stays η·step."""
    output_scale: Annotated[
        Annotated[float, Field(gt=0, le=LARGEST), Tag("<number>")] | Annotated[Centred, Tag("<mapping>")],
        Discriminator(_kind),
    ] = 1.0
    """α: f = αF is trained on loss(f)/α². `{centred: α}`: f = α(F - F_0), which starts from zero on every input. f
    moves by the kernel of F itself, so step sizes keep their meaning; W moves 1/α as far, and a large α makes a network
    of any width lazy, when centred."""
    dtype: Literal["float32", "float64"] = "float32"
    """`float32` or `float64`: how networks are trained and measured. A small λ_min, or α of 100 and more, needs
    float64."""

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
    """Measure at every so many steps, or `{log_spaced: k}`: at about k steps evenly spaced in log(step). Steps 0 and
    the last are always measured."""
    detail: Annotated[
        Annotated[Literal["none"], Tag("<text>")]
        | Annotated[Size, Tag("<number>")]
        | Annotated[LogSpaced, Tag("<mapping>")],
        Discriminator(_form_of_spacing),
    ] = LogSpaced(log_spaced=16)
    """The steps at which the dearer probes are measured too, which become probed steps: every so many,
    `{log_spaced: k}`, or `none`; else steps 0 and the last always."""
    kernels: tuple[Kept, ...] = ("first", "last")
    """Steps whose whole kernel is kept: `first`, `last` or a number; `[]` for none."""
    outputs: tuple[Kept, ...] = ("first", "last")
    """Steps whose outputs are kept, likewise. `last` is the last step of the training: a run that diverges has none."""


Seeds = Annotated[int, Field(ge=1, le=MOST_RUNS)]


class SweepBlock(Strict):
    """Grid points (every combination of `grid`, with the aligned lists of `zip`), each with these seeds."""

    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Lists of values by dotted key, as in `{network.width: [64, 128]}`; every combination is a grid point."""
    zip: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Lists of equal length by dotted key, advanced together and combined with the grid."""
    seeds: Annotated[
        Annotated[Seeds, Tag("<number>")]
        | Annotated[tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...], Field(min_length=1), Tag("<list>")],
        Discriminator(_kind),
    ] = 10
    """That many seeds, from 0; or a list of seeds."""

    @property
    def size(self) -> tuple[int, int]:
        """Grid points and runs."""
        points = math.prod(map(len, self.grid.values())) * max(map(len, self.zip.values()), default=1)
        return points, points * (self.seeds if isinstance(self.seeds, int) else len(self.seeds))


class Point(Strict):
    """A grid point: everything that a run's numbers depend on, but for its seed."""

    network: Network = Network()
    data: DataConfig
    training: Training = Training()
    probes: Probes = Probes()

    def identity(self) -> dict[str, Any]:
        return {name: getattr(self, name).identity() for name in type(self).model_fields}

    def check_batch(self) -> None:
        """Raises FieldError where a batch is larger than the training set."""
        batch, samples = self.training.batch, self.data.samples
        if batch != "full" and batch > samples:
            what = f"{batch} inputs a step, but data.samples is {samples}; at most that many, or `full`"
            raise FieldError("training.batch", what)

    def check_targets(self, data: Data) -> None:
        """Raises FieldError where the targets of its data do not suit the loss."""
        y_test = data.y_test[:0] if self.data.between else data.y_test  # of a path there are none
        objection = LOSSES[self.training.loss].objection(np.concatenate([data.y, y_test]))
        if objection:
            raise FieldError("training.loss", objection)


class Config(Point):
    """A whole config file. Claims and what is expected of them change no number of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Results go to `results/<name>`. Letters, digits, `.`, `_` and `-`, at most 100, a letter or digit first."""
    sweep: Annotated[
        Annotated[SweepBlock, Tag("<mapping>")] | Annotated[tuple[SweepBlock, ...], Field(min_length=1), Tag("<list>")],
        Discriminator(_kind),
    ] = SweepBlock()
    claims: Claims = ()
    """What to judge when the runs are done: names (`ntkrun list claims`), or `{name: ..., expect: refuted}` and margins
    of your own. No part of a run's identity."""
    expect: Literal["diverged"] | None = None
    """`diverged`: some run has to diverge, and then it counts as a failure if none does."""

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
