"""``params.yaml`` as strict, frozen models: a bad key dies at the door, with its path and what is allowed.

What only the registries can know (does a loss of this name exist, does it take ``gamma``) is checked
by :mod:`lossbench.checking`, which stands on top of them.
"""

import math
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    SerializeAsAny,
    Tag,
    ValidationError,
    field_validator,
    model_validator,
)

from lossbench.documents import read_document
from lossbench.errors import UserError, brief, nearest
from lossbench.options import telling
from lossbench.recipe import (
    Compute,
    Count,
    Fraction,
    Model,
    Name,
    Network,
    NonNegative,
    Open,
    Positive,
    Recipe,
    TaskSpec,
)
from lossbench.scripts.spec import COMMAND, ScriptRecipe, ScriptTask


class Splits(Model):
    """How samples fall into splits where the publisher gives none: by a hash of their content."""

    validation: Fraction = 0.15
    """Share of the samples."""
    test: Fraction = 0.15
    """Share of the samples."""
    reference: Fraction = 0.05
    """Share that retraining keeps aside, frozen."""
    salt: str = "lossbench"
    """Another word makes another split."""

    @model_validator(mode="after")
    def _leaves_training_data(self) -> "Splits":
        if self.validation + self.test + self.reference >= 1:
            raise ValueError(
                "validation + test + reference must stay below 1, or nothing is left to train on"
            )
        return self


class Corruption(Model):
    """Damage done to the training split on purpose, to see which loss bears it."""

    label_noise: Fraction = 0.0
    """Share of the training labels that are replaced by another class."""
    imbalance: Annotated[float, Field(ge=1)] = 1.0
    """How many times the commonest class outnumbers the rarest; 1 leaves classes as they are."""
    seed: int = 0
    """Of these draws."""


class Anomaly(Model):
    """Turns a labelled dataset into one for anomaly detection: trained on normal samples alone.

    Name either the classes that are normal or those that are not.
    """

    normal: tuple[str, ...] = ()
    """Classes that are normal."""
    abnormal: tuple[str, ...] = ()
    """Classes that are not."""

    @model_validator(mode="after")
    def _one_of_both(self) -> "Anomaly":
        if bool(self.normal) == bool(self.abnormal):
            raise ValueError("name either the normal classes or the abnormal ones")
        return self


class Expectations(Model):
    """Knobs of the built-in data expectations, and a file with further ones."""

    min_per_class: Annotated[int, Field(ge=0)] = 1
    """Fewest training samples of a class."""
    max_share_drift: NonNegative = 0.25
    """Largest difference of a class's share between splits."""
    max_intensity_drift: NonNegative = 0.25
    """Largest difference of mean intensity between splits, in standard deviations."""
    severities: dict[str, Literal["critical", "warning", "info"]] = Field(default_factory=dict)
    """Expectation → `critical` (stops the chain), `warning` or `info`."""
    extra: str | None = None
    """YAML file with a list of further expectations, by their names in Great Expectations."""


class Dataset(Open):
    """One dataset: a source, its options, and how it is split, damaged and validated.

    ``path`` is what DVC watches for changes: the user's file or folder; where the data ship inside a pinned
    package or are downloaded under a pinned checksum, requirements.lock (lossbench.lock outside a checkout).
    """

    source: str
    """A source's name, or `module:Object` of your own; its keys stand beside it."""
    path: str
    """What DVC watches: your file or folder; where data ship in a package, the lock of its version."""
    splits: Splits = Splits()
    corruption: Corruption = Corruption()
    anomaly: Anomaly | None = None
    expectations: Expectations = Expectations()
    subset: Count | None = None
    """Use so many samples, drawn by hash; null: all."""
    folds: Annotated[int, Field(ge=3)] | None = None
    """Divide the data so many times, so that every sample is tested; seeds go round the folds. null: once."""

    @model_validator(mode="after")
    def _folds_divide(self) -> "Dataset":
        if self.folds is None:
            return self
        untouched = Splits(salt=self.splits.salt).model_dump()
        shares = [one for one, share in self.splits.model_dump().items() if share != untouched[one]]
        if shares:
            raise ValueError(
                f"folds divide the data, and so does splits.{shares[0]}; keep one (of splits, only 'salt' "
                "goes with folds)"
            )
        if self.anomaly is not None:
            raise ValueError("folds beside anomaly, whose samples are tested and never trained on; keep one")
        return self


class Range(Model):
    """A searched range, both ends included.

    With ``ratio`` it is searched at that number's powers: a wider range has all points of a narrower one.
    """

    low: Positive
    """Least value."""
    high: Positive
    """Greatest value."""
    scale: Literal["log", "linear"] = "log"
    """How points spread between them."""
    ratio: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = None
    """Searched at this number's powers, a grid that a wider range extends; null: `trials` points."""

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must lie below high ({self.high:g})")
        if self.ratio is not None and self.scale != "log":
            raise ValueError("ratio makes a grid of equal ratios, which scale: linear is not; leave one out")
        if self.ratio is not None and not self.grid():
            raise ValueError(f"no power of {self.ratio:g} lies between {self.low:g} and {self.high:g}")
        return self

    def grid(self) -> list[float]:
        """Powers of ``ratio`` within the range, to four significant digits; an end counts where it is one."""
        if self.ratio is None:
            return []
        step = math.log(self.ratio)
        first = math.ceil(math.log(self.low) / step - SLACK)
        last = math.floor(math.log(self.high) / step + SLACK)
        return [float(f"{math.exp(power * step):.4g}") for power in range(first, last + 1)]


SLACK = 0.01
"""Of a grid's step: 0.003 written for 0.003162 is no end, 0.0316 for 0.03162 is."""


class Tuning(Model):
    """The search every arm gets alike, before its replicates: same points, same tuning seeds."""

    trials: Annotated[int, Field(ge=0)] = 0
    """Points tried for each arm; 0: no search; what a grid has where ranges have a `ratio`."""
    scope: Literal["arm", "replicate"] = "arm"
    """One search for all replicates of an arm, or one for each, with tuning seeds of its own."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = (1000,)
    """Seeds of the search; none may stand in `seeds`."""
    learning_rate: Range | None = None
    weight_decay: Range | None = None
    loss_parameters: bool = False
    """Whether what a loss declares as tunable is searched too."""
    epochs: Count | None = None
    """Of a trial; null: the recipe's."""

    @model_validator(mode="before")
    @classmethod
    def _trials_of_the_grid(cls, block: Any) -> Any:
        """With a grid ``trials`` is what it has of points."""
        if not isinstance(block, Mapping) or "trials" in block:
            return block
        found = [one for key in SEARCHED if (one := block.get(key)) is not None]
        grids = [_grid_of(one) for one in found]
        return {**block, "trials": math.prod(map(len, grids))} if grids and all(grids) else block

    @model_validator(mode="after")
    def _one_kind_of_points(self) -> "Tuning":
        ratios = [one.ratio is not None for one in self.ranges.values()]
        if any(ratios) and not all(ratios):
            raise ValueError("give every searched range a ratio, or none")
        if any(ratios) and self.loss_parameters:
            raise ValueError("a grid (ratio) has no room for loss_parameters; leave one out")
        points = math.prod(len(one.grid()) for one in self.ranges.values())
        if any(ratios) and self.trials not in (0, points):
            raise ValueError(
                f"trials is {self.trials}, but the grid of ratio has {points} points; leave trials out, "
                "or write 0 for no search"
            )
        return self

    @property
    def ranges(self) -> dict[str, Range]:
        """What is searched, by name."""
        found = {"learning_rate": self.learning_rate, "weight_decay": self.weight_decay}
        return {name: one for name, one in found.items() if one is not None}

    @property
    def is_grid(self) -> bool:
        """Whether points are powers of a ratio."""
        return any(one.ratio is not None for one in self.ranges.values())


SEARCHED = ("learning_rate", "weight_decay")


def _grid_of(block: Any) -> list[float]:
    """Points of a range as written; none where it has no ratio, or is no range: that is refused elsewhere."""
    try:
        return Range.model_validate(block).grid()
    except ValidationError:
        return []


class Experiment(Model):
    """A task on a dataset with a model and a recipe, and the metric that decides."""

    task: SerializeAsAny[TaskSpec]
    dataset: Name
    """Which of `datasets`."""
    model: Network
    recipe: SerializeAsAny[Recipe]
    metric: str
    """Metric that decides; the task's page lists them."""
    margin: Positive
    """Differences below this do not matter to you: a tie."""
    tuning: Tuning | None = None
    """This experiment's own search; null: that of all."""

    @model_validator(mode="before")
    @classmethod
    def _short_forms(cls, block: Any) -> Any:
        """``task: classification`` is short for ``task: {name: classification}``; so for the model."""
        if isinstance(block, Mapping):
            return {
                key: {"name": value} if key in ("task", "model") and isinstance(value, str) else value
                for key, value in block.items()
            }
        return block


class ScriptExperiment(Experiment):
    """An experiment whose replicates the user's own script trains: its network is the script's business."""

    task: ScriptTask
    recipe: ScriptRecipe
    model: Network = Network(name=COMMAND)

    @model_validator(mode="before")
    @classmethod
    def _beside_the_task(cls, block: Any) -> Any:
        """``task: command`` with ``command:``, … beside it is short for all of it below ``task:``."""
        if not isinstance(block, Mapping):
            return block
        own = [key for key in ScriptTask.model_fields if key in block and key not in Experiment.model_fields]
        below = block.get("task", COMMAND)
        named = {"name": below} if isinstance(below, str) else below
        kept = {key: value for key, value in block.items() if key not in own}
        if own and isinstance(named, Mapping):
            kept["task"] = {**named, **{key: block[key] for key in own}}
        return kept

    @field_validator("model", mode="before")
    @classmethod
    def _no_model(cls, block: Any) -> Any:
        if block not in (COMMAND, {"name": COMMAND}):
            raise ValueError(f"a script brings its own network; leave it out, found {brief(block)}")
        return block

    @property
    def monitor(self) -> str:
        """The validation metric that the search goes by."""
        return self.task.monitor or self.metric


NETWORK, SCRIPT = "[network]", "[script]"
"""The two kinds of experiment, in the path of an error."""


def _kind(block: Any) -> str:
    task = block.get("task") if isinstance(block, Mapping) else getattr(block, "task", None)
    name = task.get("name") if isinstance(task, Mapping) else getattr(task, "name", task)
    return SCRIPT if name == COMMAND else NETWORK


AnyExperiment = Annotated[
    Annotated[Experiment, Tag(NETWORK)] | Annotated[ScriptExperiment, Tag(SCRIPT)], Discriminator(_kind)
]


class Arm(Model):
    """One experiment trained with one loss."""

    experiment: Name
    """Which of `experiments`."""
    dataset: Name
    """The experiment's dataset once more: DVC reads it here."""
    loss: Name
    """Which of `losses`."""


class Comparison(Model):
    """Which loss the others are compared with, and how sure one wants to be.

    ``baselines`` names another baseline for single experiments (a task that cross-entropy does not fit).
    ``looks`` are numbers of seeds at which one decides; without, all seeds are one look.
    """

    baseline: Name
    """Loss that the others are compared with."""
    baselines: dict[Name, Name] = Field(default_factory=dict)
    """Experiment → another baseline."""
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance of a false verdict in a family of contrasts."""
    contrasts: Literal["baseline", "all_pairs"] = "baseline"
    """Against the baseline, or every pair."""
    power: Annotated[float, Field(gt=0.5, lt=1)] = 0.8
    """Of the number of seeds that is said to be needed."""
    looks: tuple[Annotated[int, Field(ge=2)], ...] = ()
    """Numbers of seeds at which one decides; none: all seeds are one look."""


class Hypothesis(Model):
    """A claim that the report answers: ``better`` beats ``than`` on ``on`` by at least ``by``.

    Both are losses of ``experiment``, or the second of ``than_experiment``: replicates pair by seed.
    Without ``by`` it is the experiment's margin where ``on`` is the metric that decides there, so that no
    claim is supported where the verdict is a tie; else 0.
    ``limits`` says what the experiment can and cannot tell.
    """

    experiment: Name
    """Of the better loss."""
    better: Name
    """Loss that is claimed to be better."""
    than: Name
    """Loss that it is compared with."""
    than_experiment: Name | None = None
    """Experiment of that one; null: the same."""
    on: str
    """Metric of the claim."""
    by: NonNegative | None = None
    """Least difference of the claim; null: the margin, on the metric that decides."""
    claim: str = ""
    """The claim in words."""
    limits: str = ""
    """What the experiment can and cannot tell."""


class Tracking(Model):
    """Where runs are recorded besides the outs."""

    system_metrics: bool = True
    """Whether processor and memory are recorded."""
    log_models: bool = True
    """Whether the best model of each arm is recorded."""


ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9 ._-]{0,98}[A-Za-z0-9])?$")]
"""Of a registered model: it stands in addresses (``models:/NAME@champion``) and in MLflow's queries."""


class Retraining(Model):
    """When a challenger may take the champion's place.

    ``slices`` are columns of the manifest: no value of one may score worse by more than ``max_class_drop``.
    """

    experiment: Name | None = None
    """Experiment that is retrained; null: the only one."""
    model_name: ModelName = "lossbench"
    """Of the registered model."""
    margin: NonNegative = 0.0
    """A challenger must be better by more than this."""
    floor: float | None = None
    """Least score of a champion; null: none."""
    max_class_drop: NonNegative = 0.05
    """Most that any class, or value of a slice, may lose."""
    slices: tuple[str, ...] = ()
    """Columns of the manifest whose values are watched."""
    level: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    """Chance of promoting a model that is no better."""
    notify: list[str] = Field(default_factory=list)
    """Command that is called after every attempt, as a list."""


class Params(Model):
    """The whole of ``params.yaml``. ``root`` leads from the study's folder to the code (dvc.yaml uses it).

    ``code`` is the folder of the user's own modules.
    """

    root: str = "."
    """Leads from the study's folder to the code."""
    code: str = "plugins"
    """Folder of your own modules."""
    datasets: dict[Name, Dataset]
    """Name → dataset."""
    experiments: dict[Name, AnyExperiment]
    """Name → experiment."""
    losses: dict[Name, dict[str, Any]]
    """Name → loss and its parameters."""
    arms: dict[Name, Arm]
    """Name → one experiment with one loss."""
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(min_length=1)
    """Seeds of the replicates: each arm is trained once for each."""
    compute: Compute  # required: DVC knows no optional dependency on a key
    tuning: Tuning
    comparison: Comparison
    hypotheses: dict[Name, Hypothesis] = Field(default_factory=dict)
    """Name → claim that the report answers."""
    tracking: Tracking = Tracking()
    retraining: Retraining = Retraining()

    def arms_of(self, experiment: str) -> dict[str, Arm]:
        """The arms of one experiment, in the order written.

        Where all pairs are compared, the baseline comes first: every other is then held against it, not
        it against those before.
        """
        mine = {name: arm for name, arm in self.arms.items() if arm.experiment == experiment}
        if self.comparison.contrasts == "baseline":
            return mine
        wanted = self._baseline_loss(experiment)
        return dict(sorted(mine.items(), key=lambda one: one[1].loss != wanted))

    def by_of(self, claim: Hypothesis) -> float:
        """By how much a claim says that one loss beats the other."""
        if claim.by is not None:
            return claim.by
        experiment = self.experiments[claim.experiment]
        return experiment.margin if claim.on == experiment.metric else 0.0

    def tuning_of(self, experiment: str) -> Tuning:
        """The search of an experiment's arms: its own, or that of all."""
        return self.experiments[experiment].tuning or self.tuning

    def baseline_of(self, experiment: str) -> str | None:
        """The name of the experiment's baseline arm, or None where it has no arm with that loss."""
        wanted = self._baseline_loss(experiment)
        for name, arm in self.arms_of(experiment).items():
            if arm.loss == wanted:
                return name
        return None

    def _baseline_loss(self, experiment: str) -> str:
        return self.comparison.baselines.get(experiment, self.comparison.baseline)


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check ``params.yaml``.

    Raises:
        UserError: naming the file, the key's path, what was found and what is allowed.

    """
    path = Path(path)
    return parse_params(read_yaml(path), path.name)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping safely (see :mod:`lossbench.documents`)."""
    content = read_document(path, "; run from the folder that holds params.yaml")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a mapping at the top level, found {type(content).__name__}")
    return content


def parse_params(content: Mapping[str, Any], file: str = "params.yaml") -> Params:
    """Check the shape of the content, then what its names refer to; the first fault is one sentence."""
    try:
        params = Params.model_validate(content)
    except ValidationError as error:
        raise UserError(_sentence(error, file)) from None
    _check_references(params, file)
    return params


def _sentence(error: ValidationError, file: str) -> str:
    first = telling(error)
    where = [str(part) for part in first["loc"] if part not in ("[key]", NETWORK, SCRIPT)]
    key = ".".join(where) or "(top level)"
    match first["type"]:
        case "extra_forbidden":
            model = _model_at(first["loc"][:-1])
            known = {} if model is None else dict(model.model_fields)
            if model is ScriptExperiment:  # what belongs to the task may stand beside it
                known |= ScriptTask.model_fields
            allowed = nearest(where[-1], known) if known else "see the documentation"
            return f"{file}: unknown key '{key}'; {allowed}"
        case "missing":
            return f"{file}: key '{key}' is missing"
        case "value_error":
            return f"{file}: '{key}': {first['ctx']['error']}"
        case "string_pattern_mismatch":
            return f"{file}: '{key}' is no valid name; allowed: letters, digits, '_' and '-'"
        case _:
            return f"{file}: '{key}' is {brief(first['input'])}; {_plain(first['msg'])}"


def _plain(message: str) -> str:
    return message[0].lower() + message[1:]


def _model_at(location: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Find the model that stands at a path of params.yaml."""
    model: Any = Params
    for part in location:
        if part in (NETWORK, SCRIPT):
            model = Experiment if part == NETWORK else ScriptExperiment
        elif isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            model = field.annotation if field else None
        else:  # a dict (or tuple) of models: the part is a user's name
            model = get_args(model)[-1] if get_args(model) else None
        if get_args(model) and type(None) in get_args(model):
            model = next(arg for arg in get_args(model) if arg is not type(None))
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _check_references(params: Params, file: str) -> None:
    for name, experiment in params.experiments.items():
        _expect(experiment.dataset, params.datasets, f"experiments.{name}.dataset", "dataset", file)
    for name, arm in params.arms.items():
        _expect(arm.experiment, params.experiments, f"arms.{name}.experiment", "experiment", file)
        _expect(arm.loss, params.losses, f"arms.{name}.loss", "loss", file)
        expected = params.experiments[arm.experiment].dataset
        if arm.dataset != expected:
            raise UserError(
                f"{file}: 'arms.{name}.dataset' is '{arm.dataset}', but experiment '{arm.experiment}' "
                f"uses dataset '{expected}'"
            )
    _expect(params.comparison.baseline, params.losses, "comparison.baseline", "loss", file)
    for name, loss in params.comparison.baselines.items():
        _expect(name, params.experiments, "comparison.baselines", "experiment", file)
        losses = [arm.loss for arm in params.arms_of(name).values()]
        _expect(loss, losses, f"comparison.baselines.{name}", f"loss in '{name}'", file)
    _check_seeds(params, file)
    _check_folds(params, file)
    _check_arms(params, file)
    for name, claim in params.hypotheses.items():
        _expect(claim.experiment, params.experiments, f"hypotheses.{name}.experiment", "experiment", file)
        other = claim.than_experiment or claim.experiment
        _expect(other, params.experiments, f"hypotheses.{name}.than_experiment", "experiment", file)
        for key, loss, where in (("better", claim.better, claim.experiment), ("than", claim.than, other)):
            losses = [arm.loss for arm in params.arms_of(where).values()]
            _expect(loss, losses, f"hypotheses.{name}.{key}", f"loss in '{where}'", file)
        if (claim.better, claim.experiment) == (claim.than, other):
            raise UserError(
                f"{file}: 'hypotheses.{name}' compares '{claim.better}' with itself; name another loss under "
                "'than', or another experiment under 'than_experiment'"
            )
    if params.retraining.experiment is not None:
        _expect(params.retraining.experiment, params.experiments, "retraining.experiment", "experiment", file)
        expect_undivided(params, params.retraining.experiment, f"{file}: 'retraining.experiment'")


def _expect(name: str, known: Any, key: str, what: str, file: str) -> None:
    if name not in known:
        raise UserError(f"{file}: '{key}' names no {what}: '{name}'; {nearest(name, known)}")


def _check_seeds(params: Params, file: str) -> None:
    if len(set(params.seeds)) != len(params.seeds):
        raise UserError(f"{file}: 'seeds' holds a seed twice: {list(params.seeds)}; each may stand once")
    searches = {"tuning": params.tuning}
    searches |= {
        f"experiments.{name}.tuning": one.tuning for name, one in params.experiments.items() if one.tuning
    }
    for key, tuning in searches.items():
        shared = sorted(set(params.seeds) & set(tuning.seeds))
        if tuning.trials and shared:
            raise UserError(
                f"{file}: '{key}.seeds' shares {shared} with 'seeds'; replicates must not reuse tuning "
                "seeds, or the false-positive rate rises"
            )
    looks = params.comparison.looks
    if any(later <= sooner for sooner, later in pairwise(looks)):
        raise UserError(f"{file}: 'comparison.looks' must ascend, found {list(looks)}")
    if looks and looks[-1] > len(params.seeds):
        raise UserError(
            f"{file}: the last of 'comparison.looks' needs {looks[-1]} seeds, 'seeds' declares "
            f"{len(params.seeds)}"
        )


def _check_folds(params: Params, file: str) -> None:
    """Hold seeds, looks, search and retraining against folds: each has to count as often as another."""
    for name, experiment in params.experiments.items():
        key, folds = f"datasets.{experiment.dataset}.folds", params.datasets[experiment.dataset].folds
        if folds is None:
            continue
        counts = {"seeds": [len(params.seeds)], "comparison.looks": params.comparison.looks}
        for what, found in counts.items():
            odd = next((one for one in found if one % folds), None)
            if odd is not None:
                raise UserError(
                    f"{file}: '{what}' has {odd}, but '{key}' is {folds}, and each fold is to be tested as "
                    f"often as another; allowed: multiples of {folds}"
                )
        tuning = params.tuning_of(name)
        if tuning.trials and tuning.scope == "arm":
            where = "tuning" if experiment.tuning is None else f"experiments.{name}.tuning"
            raise UserError(
                f"{file}: '{where}.scope' is 'arm', but '{key}' is {folds}: one search for all would see "
                "what other folds test; allowed: replicate, or trials: 0"
            )


def expect_undivided(params: Params, experiment: str, what: str) -> None:
    """Refuse to put models of an experiment into service whose data are divided several times.

    Raises:
        UserError: beginning with ``what``.

    """
    dataset = params.experiments[experiment].dataset
    if params.datasets[dataset].folds is not None:
        raise UserError(
            f"{what} is '{experiment}', whose data 'datasets.{dataset}.folds' divides several times: each of "
            "its models saw other data, and none are kept aside to judge one; allowed: an experiment whose "
            "dataset has no folds"
        )


def _check_arms(params: Params, file: str) -> None:
    seen: dict[tuple[str, str], str] = {}
    for name, arm in params.arms.items():
        twin = seen.setdefault((arm.experiment, arm.loss), name)
        if twin != name:
            raise UserError(
                f"{file}: arms '{twin}' and '{name}' both train '{arm.experiment}' with '{arm.loss}'; "
                "give the second a loss entry of its own"
            )
    for experiment in params.experiments:
        if not params.arms_of(experiment):
            raise UserError(
                f"{file}: experiment '{experiment}' has no arm; add one under 'arms' or remove it"
            )
