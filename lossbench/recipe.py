"""What a replicate is trained by: recipe, network, task and device, as strict, frozen models.

Apart from the rest of ``params.yaml``: a replicate's key holds the code that it runs, and a new knob of the
report is no part of that.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


class Model(BaseModel):
    """Frozen, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Open(Model):
    """A block whose further keys belong to whatever its first key names (a source, a model, a task)."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=False)

    @property
    def options(self) -> dict[str, Any]:
        """The keys beyond the declared ones."""
        return dict(self.model_extra or {})


class Optimizer(Model):
    """The optimizer and its constants, as torch names them."""

    name: Literal["sgd", "momentum", "rmsprop", "adam", "adamw"] = "adam"
    learning_rate: Positive = 1e-3
    weight_decay: NonNegative = 0.0
    momentum: Fraction = 0.9
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)


class Schedule(Model):
    """Learning rate over time; ``warmup`` is a share of all steps, ``step_at`` are shares of all epochs."""

    name: Literal["constant", "cosine", "exponential", "step"] = "constant"
    warmup: Fraction = 0.0
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9
    step_at: tuple[Fraction, ...] = (0.5, 0.75)
    final: NonNegative = 0.0


class Augmentation(Model):
    """Random changes of training images, drawn on the device from the replicate's own generator.

    ``own`` names a function of yours, ``module:function``, called last: (inputs, targets, generator) → the
    same two, changed. It is to draw from the generator alone.
    """

    shift: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    vertical_flip: bool = False
    noise: NonNegative = 0.0
    cutout: Annotated[int, Field(ge=0)] = 0
    rare_classes_only: bool = False
    own: str | None = None


Share = Annotated[float, Field(gt=0, le=1)]


class Recipe(Model):
    """Everything about training but the loss: the same for all arms of an experiment.

    ``budgets`` are shares of the epochs, 1 among them: every replicate is trained at each, with a schedule of
    that length, so that the report can say whether a verdict hangs on how long one trains.
    """

    epochs: Count
    batch_size: Count
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    l1: NonNegative = 0.0
    gradient_clip: NonNegative | None = None
    early_stopping: Count | None = None
    checkpoint: Literal["last", "best"] = "last"
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    augmentation: Augmentation = Augmentation()
    validation: Literal["fixed", "per_seed"] = "fixed"
    drop_last: bool = True
    prior_bias: Literal["auto"] | bool = "auto"
    budgets: tuple[Share, ...] = ()

    @model_validator(mode="after")
    def _budgets_differ(self) -> "Recipe":
        epochs = [self.epochs_at(share) for share in self.budgets]
        if self.budgets and (self.budgets[-1] != 1 or any(b <= a for a, b in pairwise(epochs))):
            raise ValueError(
                f"budgets must ascend to 1, each with epochs of its own; found {list(self.budgets)} of "
                f"{self.epochs} epochs"
            )
        return self

    def epochs_at(self, share: float) -> int:
        """Epochs of a budget."""
        return max(1, round(share * self.epochs))

    def at(self, share: float) -> "Recipe":
        """Return the recipe of one budget alone."""
        return self.model_copy(update={"epochs": self.epochs_at(share), "budgets": ()})


class Network(Open):
    """A model by name; further keys are its options."""

    name: str


class TaskSpec(Open):
    """A task by name; further keys are its options."""

    name: str


class Compute(Model):
    """What decides the bits of a result: part of every replicate's identity."""

    device: Literal["cpu", "cuda"] = "cpu"
    engine: Literal["loop", "population"] = "loop"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: Count = 1
