"""What a replicate is trained by: recipe, network, task and device, as strict, frozen models.

Apart from the rest of ``params.yaml``: a replicate's key holds the code that it runs, and a new knob of the
report is no part of that.
"""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

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

    name: Literal["sgd", "momentum", "nesterov", "rmsprop", "adam", "adamw"] = "adam"
    """Which optimizer, as torch names it; `momentum` is SGD with it, `nesterov` with Nesterov's."""
    learning_rate: Positive = 1e-3
    """Rate that the schedule scales; where a search is declared, what it finds takes its place."""
    weight_decay: NonNegative = 0.0
    """Weight decay: decoupled for `adamw`, L2 for the others."""
    momentum: Fraction = 0.9
    """Of `momentum`, `nesterov` and `rmsprop`."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Of `adam` and `adamw`."""


class Schedule(Model):
    """Learning rate over time; ``warmup`` is a share of all steps, ``step_at`` are shares of all epochs."""

    name: Literal["constant", "cosine", "linear", "exponential", "step"] = "constant"
    """How the learning rate changes."""
    warmup: Fraction = 0.0
    """Share of all steps in which the rate rises from 0."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Factor of every epoch (`exponential`) or of every step down (`step`)."""
    step_at: tuple[Fraction, ...] = (0.5, 0.75)
    """Where `step` steps down, as shares of the training."""
    final: NonNegative = 0.0
    """Share of the rate at which `cosine` and `linear` end."""


class Augmentation(Model):
    """Random changes of training images, drawn on the device from the replicate's own generator.

    ``own`` names a function of yours, ``module:function``, called last: (inputs, targets, generator) → the
    same two, changed. It is to draw from the generator alone.
    """

    shift: Annotated[int, Field(ge=0)] = 0
    """Images move by up to so many pixels each way."""
    flip: Literal["alternating"] | bool = False
    """Left and right change places in half of the images; `alternating`: of two epochs, in one of them."""
    vertical_flip: bool = False
    """Top and bottom change places in half of the images."""
    noise: NonNegative = 0.0
    """Standard deviation of Gaussian noise, in units of the standardised input."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Side of a square that is blanked, in pixels."""
    rare_classes_only: bool = False
    """Only samples of classes with fewer than the mean number of samples are changed."""
    own: str | None = None
    """A function of your own, `module:function`, called last."""


class Mixing(Model):
    """Batches mixed with themselves, their targets too; drawn anew for every batch, the same for all arms.

    Where both are given, a coin chooses for every batch. Losses must take distributions over the classes.
    """

    mixup: NonNegative = 0.0
    """α of Beta(α, α), from which the share of one sample in a blend of two is drawn; 0: none."""
    cutmix: NonNegative = 0.0
    """α of the same, for the area of a box that comes from another sample; 0: none. Masks move along."""


Share = Annotated[float, Field(gt=0, le=1)]


LATER = ("mixing", "label_smoothing")
"""Knobs of a recipe that came after looks had been declared."""


class Recipe(Model):
    """Everything about training but the loss: the same for all arms of an experiment.

    ``budgets`` are shares of the epochs, 1 among them: every replicate is trained at each, with a schedule of
    that length, so that the report can say whether a verdict hangs on how long one trains.
    """

    epochs: Count
    """Passes over the training split."""
    batch_size: Count
    """Samples a step."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    l1: NonNegative = 0.0
    """Factor of the weights' absolute sum, added to the loss."""
    gradient_clip: NonNegative | None = None
    """Largest norm of all gradients together; null: none."""
    early_stopping: Count | None = None
    """Epochs without a better monitor after which training ends; null: never."""
    checkpoint: Literal["last", "best"] = "last"
    """Which weights count: of the last epoch, or of the best by the monitor."""
    sampling: Literal["shuffle", "balanced"] = "shuffle"
    """How batches are drawn: all samples once an epoch, or classes alike."""
    augmentation: Augmentation = Augmentation()
    mixing: Mixing = Mixing()
    label_smoothing: Fraction = 0.0
    """ε that every training target gives to all classes alike; the same for all losses."""
    validation: Literal["fixed", "per_seed"] = "fixed"
    """Which samples validate: the same for all seeds, or drawn anew for each from training and validation."""
    drop_last: bool = True
    """Whether a last, smaller batch is left out."""
    prior_bias: Literal["auto"] | bool = "auto"
    """Whether the last bias begins at the classes' shares, for all losses; `auto`: where they are uneven."""
    budgets: tuple[Share, ...] = ()
    """Shares of the epochs, ascending to 1, at each of which every replicate is trained; empty: 1 alone."""

    @model_validator(mode="after")
    def _budgets_differ(self) -> "Recipe":
        epochs = [self.epochs_at(share) for share in self.budgets]
        if self.budgets and (self.budgets[-1] != 1 or any(b <= a for a, b in pairwise(epochs))):
            raise ValueError(
                f"budgets must ascend to 1, each with epochs of its own; found {list(self.budgets)} of "
                f"{self.epochs} epochs"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_later_knobs(self, serialised: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out knobs that came later and are not used: what was declared before keeps its hash."""
        made: dict[str, Any] = serialised(self)
        unused = {name for name in LATER if getattr(self, name) == type(self).model_fields[name].default}
        return {name: value for name, value in made.items() if name not in unused}

    @property
    def mixes(self) -> bool:
        """Whether batches are mixed, or their targets softened."""
        return bool(self.mixing.mixup or self.mixing.cutmix or self.label_smoothing)

    def epochs_at(self, share: float) -> int:
        """Epochs of a budget."""
        return max(1, round(share * self.epochs))

    def at(self, share: float) -> "Recipe":
        """Return the recipe of one budget alone."""
        return self.model_copy(update={"epochs": self.epochs_at(share), "budgets": ()})


class Network(Open):
    """A model by name; further keys are its options."""

    name: str
    """A model's name, or `module:Object` of your own or of an installed package."""


class TaskSpec(Open):
    """A task by name; further keys are its options."""

    name: str
    """A task's name, or `module:Object` of your own."""


WORKSPACE = ":4096:8"
WORKSPACES = (WORKSPACE, ":16:8", ":4096:2")
"""Values of ``CUBLAS_WORKSPACE_CONFIG`` with which a GPU's products repeat; the first where it is unset."""
RECURRENT_WORKSPACES = (":16:8", ":4096:2")
"""Those with which cuDNN's recurrent layers do, too."""


class Compute(Model):
    """What decides the bits of a result: part of every replicate's identity."""

    device: Literal["cpu", "cuda"] = "cpu"
    """Where training runs."""
    engine: Literal["loop", "population"] = "loop"
    """`population` trains several seeds as one stacked network."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """Numbers of the forward pass; `fp32` is IEEE's, `tf32` is for GPUs."""
    threads: Count = 1
    """Threads of one training; part of what decides its bits."""
    graphs: bool = False
    """Whether a GPU records a training step once and replays it (CUDA graphs); bits are the same."""
    processes: Count = 1
    """Processes that train one replicate together, each a part of every batch; they decide its bits, too."""
    members: Count | None = None
    """Seeds that one population holds at most, for a GPU's memory; null: all that may be trained together."""

    @model_serializer(mode="wrap")
    def _without_later_knobs(self, serialised: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out knobs that came later and are not used: what was trained before keeps its key."""
        made: dict[str, Any] = serialised(self)
        unused = [name for name, usual in (("processes", 1), ("members", None)) if made[name] == usual]
        return {key: one for key, one in made.items() if key not in unused}

    @field_validator("device", mode="before")
    @classmethod
    def _of_any_number(cls, device: Any) -> Any:
        if isinstance(device, str) and device.startswith("cuda:"):
            raise ValueError(
                f"{device!r} says which GPU, which is no part of a result; write cuda, and run with "
                f"`--device {device}` or CUDA_VISIBLE_DEVICES={device.removeprefix('cuda:')}"
            )
        return device
