"""From a block of params.yaml to a loss: names, ranges and what has to be known of the data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lossbench.errors import UserError, nearest
from lossbench.losses import foreign
from lossbench.losses.base import Loss
from lossbench.losses.compound import Sum, Weight
from lossbench.losses.declare import ParameterError
from lossbench.losses.registry import REGISTRY
from lossbench.losses.schedules import LEARNED, is_change, marks, number_at
from lossbench.losses.weights import balanced, class_balanced
from lossbench.plugins import is_path

#: Words that class_weights takes in params.yaml, and what they stand for.
WORDS = ("balanced", "class_balanced")


@dataclass(frozen=True)
class LossContext:
    """What a loss may need to know of the task and its training data.

    Attributes:
        classes: C, the number of logits.
        class_counts: how many training positions each class has (with several labels: positives).
        multilabel: whether targets are a label per channel.
        ignore_index: the target value of positions that do not count.
        positions: how many labelled positions there are; needed for ``pos_weight: balanced``, and told to
            losses that declare ``positions``.
        distributions: whether training targets are made distributions over the classes (mixup, say).
    """

    classes: int
    class_counts: tuple[int, ...] | None = None
    multilabel: bool = False
    ignore_index: int | None = None
    positions: int | None = None
    distributions: bool = False


def build(spec: Mapping[str, Any], context: LossContext, key: str = "losses", progress: float = 1.0) -> Loss:
    """Return the loss that a block of params.yaml describes.

    Args:
        spec: ``{name: focal, gamma: 2.0, class_weights: balanced}``, or a sum ``{sum: {cross_entropy: 1.0,
            dice: {weight: 1.0, smooth: 1.0}}}``, whose items are named by their key unless they say ``name``.
            A number may change over the epochs: ``{from: 0.01, to: 1.0, over: 0.5}``.
        context: what the task and the training data are.
        key: where in params.yaml the block stands, for messages.
        progress: the share of the training whose values are wanted of numbers that change: 0 is the first
            epoch, 1 the last.

    Raises:
        UserError: unknown name or parameter, a value out of range, a loss that does not fit the task.
    """
    if _is_sum(spec, key):
        items = _items(spec, key, progress)
        parts = {item: _single(block, context, f"{key}.sum.{item}") for item, (block, _) in items.items()}
        return _sum(parts, key, {item: weight for item, (_, weight) in items.items()})
    loss = _single(_at(spec, key, progress), context, key)
    _refuse_alone(type(loss), key)
    return loss


def check(spec: Mapping[str, Any], key: str = "losses") -> None:
    """Validate a block of params.yaml without data.

    Raises what ``build`` would, as far as the block alone tells.
    """
    summed = _is_sum(spec, key)
    for progress in marks(spec, key):  # the ends first, whose values stand in the file
        if not summed:
            _refuse_alone(type(_checked(_at(spec, key, progress), key)), key)
            continue
        items = _items(spec, key, progress)
        if not any(weight for _, weight in items.values()):
            raise UserError(
                f"{key}.sum: all weights are 0 {progress:.0%} into the training; allowed: one above 0 at "
                "any time"
            )
        parts = {item: _checked(block, f"{key}.sum.{item}") for item, (block, _) in items.items()}
        _sum(parts, key, {item: weight for item, (_, weight) in items.items()})


def _sum(parts: Mapping[str, Loss], key: str, weights: Mapping[str, Weight]) -> Sum:
    """Sum losses, which may not go together."""
    try:
        return Sum(parts, weights)
    except ValueError as error:
        raise UserError(f"{key}.sum: {str(error).removeprefix('Sum: ')}") from error


def _is_sum(spec: object, key: str) -> bool:
    if not isinstance(spec, Mapping) or not spec:
        raise UserError(f"{key} is {spec!r}; allowed: a block with name: or sum:")
    if "sum" not in spec:
        return False
    if len(spec) > 1:
        other = next(str(name) for name in spec if name != "sum")
        raise UserError(
            f"{key}.{other} stands beside sum:; allowed there: nothing, parameters belong to the parts"
        )
    if not isinstance(spec["sum"], Mapping) or not spec["sum"]:
        raise UserError(f"{key}.sum is {spec['sum']!r}; allowed: a mapping of losses to weights")
    return True


def _items(spec: Mapping[str, Any], key: str, progress: float) -> dict[str, tuple[dict[str, Any], Weight]]:
    """Return a sum's items as (block of the loss, weight), their numbers at a share of the training."""
    return {item: _item(block, item, f"{key}.sum.{item}", progress) for item, block in spec["sum"].items()}


def _item(block: object, name: str, key: str, progress: float) -> tuple[dict[str, Any], Weight]:
    """Return an item of a sum as (block of the loss, weight), their numbers at a share of the training."""
    inner: dict[str, Any] = {"weight": block}
    where = key
    if isinstance(block, Mapping) and not is_change(block):
        inner, where = dict(block), f"{key}.weight"
    written = inner.pop("weight", 1.0)
    made = {"name": name, **_at(inner, key, progress)}
    if written == LEARNED:
        return made, LEARNED
    weight = number_at(written, progress, where)
    finite = isinstance(weight, (int, float)) and not isinstance(weight, bool) and 0 <= weight < float("inf")
    if not finite or not (weight or is_change(written)):  # 0 for a while is a schedule, 0 for ever a mistake
        raise UserError(f"{where} is {weight!r}; allowed: a finite number > 0, or {LEARNED}")
    return made, float(weight)


def _at(spec: Mapping[str, Any], key: str, progress: float) -> dict[str, Any]:
    return {name: number_at(value, progress, f"{key}.{name}") for name, value in spec.items()}


def _class(spec: Mapping[str, Any], key: str) -> type[Loss]:
    if "name" not in spec:
        raise UserError(f"{key} has no name; allowed: {', '.join(sorted(REGISTRY))}, or a sum: of them")
    name = spec["name"]
    if not isinstance(name, str) or name not in REGISTRY:
        raise UserError(f"{key}.name is {name!r}; {nearest(str(name), REGISTRY)}")
    return REGISTRY[name]


def _checked(spec: Mapping[str, Any], key: str) -> Loss:
    """Check name, parameter names and ranges; return the loss, the data's part in it stood in for."""
    if is_path(spec.get("name")):
        return foreign.build(spec, None, key)
    cls = _class(spec, key)
    known = dict(spec)
    for name, value in spec.items():
        if name == "name":
            continue
        if name not in cls.declared:
            raise UserError(
                f"{key}.{name} is no parameter of {spec['name']}; {nearest(str(name), cls.declared)}"
            )
        if _is_word(name, value):
            _beta(value, f"{key}.{name}")
            known.pop(name)
    if spec.get("reduction") == "none":
        raise UserError(f"{key}.reduction is 'none'; allowed in training: mean, sum")
    if "class_counts" in cls.declared and known.get("class_counts") is None:
        known["class_counts"] = [1.0]
    return _construct(cls, known, key)


def _single(spec: Mapping[str, Any], context: LossContext, key: str) -> Loss:
    if is_path(spec.get("name")):
        return foreign.build(spec, context.ignore_index, key)
    cls = type(_checked(spec, key))
    if not (cls.multi if context.multilabel else cls.single):
        kind = "several labels a sample" if context.multilabel else "one class a sample"
        fitting = [
            name for name, other in REGISTRY.items() if (other.multi if context.multilabel else other.single)
        ]
        raise UserError(
            f"{key}.name is {spec['name']}, which does not fit a task with {kind}; {_listed(fitting)}"
        )
    if context.multilabel and spec.get("labels") == "exclusive":
        raise UserError(
            f"{key}.labels is 'exclusive', one distribution a sample; a task with several labels a sample "
            "allows: independent"
        )
    if context.distributions:
        _refuse_numbers_alone(spec, key)
        spec = {**spec, "labels": "exclusive"}
    return _construct(cls, _resolved(cls, spec, context, key), key, context.classes)


def check_distributions(spec: Mapping[str, Any], key: str = "losses") -> None:
    """Refuse a loss that takes no distributions over the classes, or a part of a sum that takes none.

    Of a loss that somebody else wrote nobody knows; it is shown them.

    Args:
        spec: as for ``build``, checked.
        key: where in params.yaml the block stands, for messages.

    Raises:
        UserError: naming the loss and those that take them.
    """
    if not _is_sum(spec, key):
        _refuse_numbers_alone(spec, key)
        return
    for item, (block, _) in _items(spec, key, 1.0).items():
        _refuse_numbers_alone(block, f"{key}.sum.{item}")


def _refuse_numbers_alone(spec: Mapping[str, Any], key: str) -> None:
    if is_path(spec.get("name")):
        return
    if not _takes_distributions(REGISTRY[spec["name"]]):
        fitting = [name for name in REGISTRY if _takes_distributions(REGISTRY[name])]
        raise UserError(
            f"{key}.name is {spec['name']}, which takes no distribution over the classes, as soft labels "
            f"are, and as 'recipe.mixing' and 'recipe.label_smoothing' make of targets; {_listed(fitting)}"
        )
    if spec.get("labels", "exclusive") != "exclusive":
        raise UserError(
            f"{key}.labels is {spec['labels']!r}, but 'recipe.mixing' and 'recipe.label_smoothing' make of a "
            "target a distribution over the classes, and soft labels are one; allowed: exclusive"
        )


def _takes_distributions(cls: type[Loss]) -> bool:
    try:
        cls.declared["labels"].accept("exclusive")
    except ValueError:
        return False
    return cls.single


def _resolved(cls: type[Loss], spec: Mapping[str, Any], context: LossContext, key: str) -> dict[str, Any]:
    """Replace what depends on the data by numbers."""
    resolved = dict(spec)
    if "ignore_index" not in spec:
        resolved["ignore_index"] = context.ignore_index
    for name, value in spec.items():
        if _is_word(name, value):
            resolved[name] = _from_word(value, name, context, f"{key}.{name}")
    if "class_counts" in cls.declared and spec.get("class_counts") is None:
        resolved["class_counts"] = _counts(context, f"{key}.class_counts")
    if "positions" in cls.declared and spec.get("positions") is None:
        resolved["positions"] = context.positions
    return resolved


def _is_word(name: str, value: object) -> bool:
    if name == "pos_weight":
        return value == "balanced"
    if name != "class_weights":
        return False
    is_beta = isinstance(value, Mapping) and set(value) == {"class_balanced"}
    return is_beta or (isinstance(value, str) and value in WORDS)


def _from_word(value: object, name: str, context: LossContext, key: str) -> tuple[float, ...]:
    counts = _counts(context, key)
    if name == "pos_weight":
        if context.positions is None:
            raise UserError(
                f"{key} is 'balanced', which needs the number of labelled positions; allowed: a list"
            )
        positions = context.positions
        return tuple(max(positions - count, 1) / max(count, 1) for count in counts)
    if value == "balanced":
        return balanced(counts)
    return class_balanced(counts, _beta(value, key))


def _beta(value: object, key: str) -> float:
    """Return β of class-balanced weights, 0.999 unless given."""
    beta = value["class_balanced"] if isinstance(value, Mapping) else 0.999
    if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1:
        raise UserError(f"{key}.class_balanced is {beta!r}; allowed: a number in [0, 1)")
    return float(beta)


def _counts(context: LossContext, key: str) -> tuple[int, ...]:
    if context.class_counts is None:
        raise UserError(
            f"{key} needs the number of training samples of each class, which this task does not have"
        )
    return context.class_counts


def _construct(cls: type[Loss], spec: Mapping[str, Any], key: str, classes: int | None = None) -> Loss:
    given = {name: value for name, value in spec.items() if name != "name"}
    try:
        loss = cls(**given)
    except ParameterError as error:
        words = f", or one of {', '.join(WORDS)}" if error.name == "class_weights" else ""
        raise UserError(f"{key}.{error.name} is {error.value!r}; allowed: {error.allowed}{words}") from error
    for name in ("class_weights", "class_counts", "pos_weight"):
        values = getattr(loss, name, None)
        if classes is not None and values is not None and len(values) != classes:
            raise UserError(f"{key}.{name} is {list(values)}; allowed: {classes} numbers, one per class")
    cost = getattr(loss, "cost", None)
    if classes is not None and cost is not None and len(cost) != classes:
        rows = [list(row) for row in cost]
        raise UserError(f"{key}.cost is {rows}; allowed: {classes} rows of {classes} numbers, a row a class")
    return loss


def _refuse_alone(cls: type[Loss], key: str) -> None:
    if cls.only_in_sum:
        raise UserError(f"{key}.name is {cls.name}, which collapses alone; allowed: as a part of a sum:")


def _listed(names: list[str]) -> str:
    return f"allowed: {', '.join(sorted(names))}"
