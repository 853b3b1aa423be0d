"""The sections of a config: every key, its type, its default and its constraints."""

import difflib
import json
import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import (
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from ntkrun.config.architectures import Dense, NetworkConfig
from ntkrun.data import Data, DataConfig
from ntkrun.data.base import LARGEST, LARGEST_SEED, MOST, Size
from ntkrun.errors import FieldError
from ntkrun.evidence.claims.entry import Claims
from ntkrun.theory.losses import LOSSES
from ntkrun.validation import Strict, form

MOST_POINTS = 10_000  # grid points in a sweep
MOST_RUNS = 1_000_000  # runs in a sweep
MOST_ROWS = 1_000_000  # rows of one run in a table


def _text_or_number(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<number>"


class Relative(Strict):
    """A step size η = relative / λ_max(K/N), K the expected kernel at initialisation (K_inf under ntk)."""

    relative: float = Field(gt=0, le=LARGEST)


class Centred(Strict):
    """Outputs that are zero at the start: f = centred · (F - F_0)."""

    centred: float = Field(gt=0, le=LARGEST)


class Training(Strict):
    """Gradient descent on all inputs or on batches, with or without heavy-ball momentum."""

    loss: str = Field("squared", json_schema_extra={"enum": list(LOSSES)})
    """The loss ℓ: a name from `ntkrun list losses`. Training minimises its mean over the inputs. `logistic` needs
    targets of ±1 (`signed`), `cross_entropy` needs distributions over two or more outputs (`one_hot`)."""
    huber_threshold: float = Field(1.0, gt=0, le=LARGEST)
    """The threshold δ of the loss `huber`, beyond which a residual pulls no harder: its gradient is F - y, clipped to
    [-δ, δ]. Other losses have none."""
    step_size: Annotated[
        Annotated[float, Field(gt=0, le=LARGEST), Tag("<number>")] | Annotated[Relative, Tag("<mapping>")],
        Discriminator(form),
    ] = Relative(relative=1.0)
    """The step size η, or `{relative: r}` for η = r/λ_max(K/N), K the expected kernel at initialisation. Under `ntk` K
    is the infinite-width kernel, so η is the same at every width. Under `mean_field` it is K_inf/n, under `standard`
    the sum of the layers' limits, each with its factor. If the kernel stays constant, training is stable for r < 2."""
    steps: int = Field(500, ge=0, le=MOST)
    """Number of gradient descent steps. With 0 the networks are only measured at initialisation."""
    batch: Annotated[
        Annotated[Literal["full"], Tag("<text>")] | Annotated[Size, Tag("<number>")], Discriminator(_text_or_number)
    ] = "full"
    """Inputs per step. `full`: the whole training set. A number (at most `data.samples`): that many inputs, drawn
    i.i.d. with replacement by each run's own random generator. Kernel and loss are always measured on all inputs."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Heavy-ball momentum μ, 0 ≤ μ < 1: v ← μ v - η∇loss, W ← W + v. Linear dynamics are stable for
    η λ_max < 2(1+μ) and about 1/(1-μ) times as fast as without momentum. Time is still η·step."""
    output_scale: Annotated[
        Annotated[float, Field(gt=0, le=LARGEST), Tag("<number>")] | Annotated[Centred, Tag("<mapping>")],
        Discriminator(form),
    ] = 1.0
    """Output scale α: f = αF is trained on loss(f)/α². With `{centred: α}`, f = α(F - F_0), which is zero on every
    input at the start. The kernel that drives f is the kernel of F, so step sizes keep their meaning. The weights move
    1/α as far: with a centred output, a large α puts a network of any width into the lazy regime."""
    dtype: Literal["float32", "float64"] = "float32"
    """Floating-point type in which networks are trained and measured: `float32` or `float64`. Use float64 for a small
    λ_min, or for an output scale α of 100 or more."""

    @model_serializer(mode="wrap")
    def _without_unused(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the threshold where the loss has none."""
        return {key: value for key, value in dump(self).items() if key != "huber_threshold" or self.loss == "huber"}

    @field_validator("huber_threshold")
    @classmethod
    def _of_huber(cls, threshold: float, others: ValidationInfo) -> float:
        loss = others.data.get("loss", "huber")  # a wrong loss has its own sentence
        if loss != "huber" and threshold != 1:
            raise ValueError(f"the loss {loss} has no threshold; leave it out, or set `loss: huber`")
        return threshold

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, name: str) -> str:
        if name not in LOSSES:
            near = difflib.get_close_matches(name, LOSSES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(LOSSES)}"
            raise ValueError(f"unknown loss {name!r}; {hint}")
        return name


class LogSpaced(Strict):
    """About `log_spaced` probed steps, evenly spaced in log(step), including step 0 and the last step."""

    log_spaced: int = Field(ge=2, le=MOST_ROWS)


def _spacing_form(value: Any) -> str:
    return "<text>" if isinstance(value, str) else form(value)


Spacing = int | LogSpaced
Kept = Annotated[
    Annotated[Literal["first", "last"], Tag("<text>")] | Annotated[int, Field(ge=0, le=MOST), Tag("<number>")],
    Discriminator(_text_or_number),
]


class Probes(Strict):
    """The steps at which to measure, the steps for expensive measurements, and the kernels and outputs to store."""

    every: Annotated[Annotated[Size, Tag("<number>")] | Annotated[LogSpaced, Tag("<mapping>")], Discriminator(form)] = 1
    """Interval between measurements, in steps, or `{log_spaced: k}` for about k steps evenly spaced in log(step). Step
    0 and the last step are always measured."""
    detail: Annotated[
        Annotated[Literal["none"], Tag("<text>")]
        | Annotated[Size, Tag("<number>")]
        | Annotated[LogSpaced, Tag("<mapping>")],
        Discriminator(_spacing_form),
    ] = LogSpaced(log_spaced=16)
    """Interval between expensive measurements, in steps, `{log_spaced: k}` as for `every`, or `none`. All other probes
    are measured at these steps too. Unless `none`, step 0 and the last step are always included."""
    kernels: tuple[Kept, ...] = ("first", "last")
    """Steps whose whole kernel is stored: `first`, `last` or step numbers. `[]` stores none."""
    outputs: tuple[Kept, ...] = ("first", "last")
    """Steps whose outputs are stored, written as for `kernels`. `last` is the last step of training, so a run that
    diverges has none."""


Seeds = Annotated[int, Field(ge=1, le=MOST_RUNS)]


class SweepBlock(Strict):
    """Grid points to train, each with the same seeds: all combinations of the `grid` values and the `zip` rows."""

    grid: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Lists of values by dotted key, as in `{network.width: [64, 128]}`. Every combination is a grid point."""
    zip: dict[str, tuple[Any, ...]] = Field(default_factory=dict)
    """Lists of equal length by dotted key. They advance together, and are combined with `grid`."""
    seeds: Annotated[
        Annotated[Seeds, Tag("<number>")]
        | Annotated[tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...], Field(min_length=1), Tag("<list>")],
        Discriminator(form),
    ] = 10
    """Number of seeds, counted from 0, or a list of seeds."""

    @property
    def size(self) -> tuple[int, int]:
        """The numbers of grid points and of runs."""
        points = math.prod(map(len, self.grid.values())) * max(map(len, self.zip.values()), default=1)
        return points, points * (self.seeds if isinstance(self.seeds, int) else len(self.seeds))


class Point(Strict):
    """A grid point: everything that determines a run's numbers except its seed."""

    network: NetworkConfig = Dense()
    data: DataConfig
    training: Training = Training()
    probes: Probes = Probes()

    def identity(self) -> dict[str, Any]:
        return {name: getattr(self, name).identity() for name in type(self).model_fields}

    def check_batch(self) -> None:
        """Check that a batch fits the training set. Raises FieldError where it is larger."""
        batch, samples = self.training.batch, self.data.samples
        if batch != "full" and batch > samples:
            message = f"{batch} inputs per step, but data.samples is {samples}; use at most that many, or `full`"
            raise FieldError("training.batch", message)

    def check_targets(self, data: Data) -> None:
        """Check that the targets suit the loss. Raises FieldError where they do not."""
        y_test = data.y_test[:0] if self.data.between else data.y_test  # test inputs on a path have no targets
        objection = LOSSES[self.training.loss].objection(np.concatenate([data.y, y_test]))
        if objection:
            raise FieldError("training.loss", objection)


class Config(Point):
    """A whole config file. `claims` and `expect` do not affect the numbers of a run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """Name of the sweep. Results go to `results/<name>`. At most 100 letters, digits, `.`, `_` and `-`, starting with a
    letter or digit."""
    sweep: Annotated[
        Annotated[SweepBlock, Tag("<mapping>")] | Annotated[tuple[SweepBlock, ...], Field(min_length=1), Tag("<list>")],
        Discriminator(form),
    ] = SweepBlock()
    claims: Claims = ()
    """Claims to judge when the runs are finished: names from `ntkrun list claims`, or mappings such as
    `{name: ..., expect: refuted}`, which may also set margins. Changing claims does not require new runs."""
    expect: Literal["diverged"] | None = None
    """`diverged`: at least one run is expected to diverge, and the sweep counts as failed if none does."""


def completed(config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in this version's defaults in a resolved config that another version wrote. A config that this version
    cannot read is returned unchanged."""
    try:
        return Config.model_validate_json(json.dumps(config)).model_dump(mode="json")
    except ValueError:
        return dict(config)
