"""From a table of scores to verdicts, with a sentence on everything that foreign data bring along."""

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lossbench.errors import UserError, brief, nearest
from lossbench.statistics.examples import seeds_by_examples
from lossbench.statistics.family import floor_seeds, floor_unpaired
from lossbench.statistics.metrics import is_training_loss, known
from lossbench.statistics.paired import Interval, constant
from lossbench.statistics.record import Verdict, pairs
from lossbench.statistics.samples import Paired, Sample, Unpaired
from lossbench.statistics.sentences import level_over_report, sentence
from lossbench.statistics.trained import condition
from lossbench.statistics.verdict import Comparison, Contrast, Rules, judge
from lossbench.statistics.writing import digits
from lossbench.verdicts.files import named as name_of_file
from lossbench.verdicts.files import read_csv
from lossbench.verdicts.result import Found, Verdicts
from lossbench.verdicts.table import Located, Row, Scores, gather, name_of, rows_of, tidy

Array = npt.NDArray[Any]
PERCENT = 100
FEW_TIMES = 2
"""Two losses differ by less, where one is given in per cent and one in shares."""
FEWEST_TO_REPEAT = 4
LEAST_STEP = 0.01
"""Per cent; a test sample that weighs less is one of more than ten thousand, or a share."""
LARGEST = 1e100
"""Scores beyond which squares overflow; a diverged perplexity can be that large."""
SMALLEST = 1e-100
"""Scores below which, all of them, squares are 0."""


@dataclass(frozen=True)
class Question:
    """What is asked of a table.

    Attributes:
        baseline: the loss the others are compared with; all pairs where None.
        margin: differences within ± this do not matter, in the metric's unit.
        metric: which one, where the table has several.
        higher_is_better: its direction; looked up by its exact name where None.
        level: family-wise.
        power: wanted of the seeds recommended.
        floor: score of a predictor that needs no training.
        bounds: least and largest value of the metric; looked up by its exact name where None.
        step: what one test sample weighs.
        unpaired: whether equal seeds of two losses have nothing to do with each other.

    """

    baseline: str | None
    margin: float
    metric: str | None = None
    higher_is_better: bool | None = None
    level: float = 0.05
    power: float = 0.8
    floor: float | None = None
    bounds: tuple[float, float] | None = None
    step: float = 0.0
    unpaired: bool = False


def verdict(
    frame: Any,
    baseline: str | None = None,
    margin: float | None = None,
    metric: str | None = None,
    higher_is_better: bool | None = None,
    level: float = 0.05,
    power: float = 0.8,
    floor: float | None = None,
    bounds: tuple[float, float] | None = None,
    step: float = 0.0,
    unpaired: bool = False,
) -> Verdicts:
    """Say which loss is better, from scores that one already has.

    Args:
        frame: a pandas data frame, a mapping of columns, a list of rows (mappings), or a CSV file's path;
            long (``loss,seed,score[,metric,experiment,group]``) or wide (``seed`` and a column per loss).
        baseline: the loss the others are compared with; all pairs where None.
        margin: the largest difference that does not matter, in the metric's unit; there is no default.
        metric: which one decides, where the table has several; names it where the table names none.
        higher_is_better: the metric's direction; needed unless its exact name is known.
        level: of each experiment's verdicts together.
        power: wanted of the numbers of seeds recommended.
        floor: score of a predictor that needs no training; replicates without a score get it.
        bounds: of the metric; known for metrics whose exact name is.
        step: what one test sample weighs; where it outweighs the margin nothing ties.
        unpaired: compare the two sets of scores, not seed by seed.

    Returns:
        The verdicts: ``.frame``, ``.plot()``, ``.latex()``, ``.text()``, ``.markdown()``, ``.json()``,
        ``.html()``.

    Raises:
        UserError: in one sentence, for scores that cannot be judged.

    Examples:
        >>> rows = {"seed": range(6), "ce": [0.70, 0.71, 0.69, 0.72, 0.70, 0.71]}
        >>> rows["dice"] = [0.78, 0.79, 0.75, 0.80, 0.79, 0.77]
        >>> found = verdict(rows, baseline="ce", margin=0.01, metric="dice")
        >>> found[0].verdict
        <Verdict.BETTER: 'better'>

    """
    if margin is None:
        raise UserError(
            "margin is missing: the largest difference that does not matter to you, in the metric's unit"
        )
    named = None if baseline is None else name_of(baseline, "baseline")
    question = _plain(
        Question(named, margin, metric, higher_is_better, level, power, floor, bounds, step, unpaired)
    )
    if isinstance(frame, (str, Path)):
        return judge_table(read_csv(Path(frame)), name_of_file(Path(frame)), question)
    return judge_table(rows_of(frame), "the frame", question)


def judge_table(raw: Sequence[Located], what: str, question: Question) -> Verdicts:
    """Judge rows as read.

    Args:
        raw: a row each: where it stands, and column → cell.
        what: their name in messages.
        question: what is asked.

    Raises:
        UserError: for scores that cannot be judged.

    """
    _refuse_training_loss(question.metric, what)
    return judge_rows(tidy(raw, what, question.metric), what, question)


def judge_rows(rows: Sequence[Row], what: str, question: Question, said: Sequence[str] = ()) -> Verdicts:
    """Judge tidy rows; ``said`` is what their reader has to say of them."""
    _check_numbers(question)
    _refuse_training_loss(question.metric, what)  # before it is asked what a replicate without it is worth
    metric, experiments = gather(rows, question.metric, question.floor, what)
    _refuse_training_loss(metric, what)
    deciding = [row for row in rows if row.metric in ("", metric)]
    _refuse_out_of_range(deciding)
    if question.bounds is None:
        _refuse_two_units(deciding, metric)
    rules = _rules(metric, question, what, [row.score for row in deciding])
    found: list[Found] = []
    notes = [*said, *_about_units(metric, rules, question)]
    if question.bounds is None and known(metric) is None:
        notes += _two_units_likely(deciding)
    for name, scores in experiments.items():
        of_experiment, about = _experiment(name, scores, metric or "score", rules, question, what)
        found += of_experiment
        notes += about
    return Verdicts(
        found=tuple(found),
        notes=tuple(dict.fromkeys(notes)),
        metric=metric or "score",
        rules=rules,
        statement=level_over_report(2 * len(experiments), rules.level),
        scores={name: scores.scores for name, scores in experiments.items()},
    )


def _refuse_training_loss(metric: str | None, what: str) -> None:
    if metric and is_training_loss(metric):
        raise UserError(
            f"{what}: metric '{metric}' is the value of the training loss, whose unit differs from loss to "
            "loss; compare by a metric that is the same for all (accuracy, Dice, the NLL on test data)"
        )


def _refuse_out_of_range(rows: Sequence[Row]) -> None:
    largest = max(rows, key=lambda row: abs(row.score) if math.isfinite(row.score) else -1)
    if 0 < abs(largest.score) < SMALLEST:
        raise UserError(
            f"{largest.where}: no score is larger than this one's {largest.score:g}, too small to compute "
            "with; give all in another unit"
        )
    for row in rows:
        if math.isfinite(row.score) and abs(row.score) > LARGEST:
            raise UserError(
                f"{row.where}: a score of {row.score:g} is too large to compute with; if the replicate "
                "diverged, leave the score empty and say with --floor what it is worth"
            )


def _about_units(metric: str, rules: Rules, question: Question) -> list[str]:
    """Say what numbers meant for shares mean where scores are per cent."""
    there, floor = known(metric), question.floor
    if there is None or there.high != 1.0 or question.bounds or rules.bounds == (there.low, there.high):
        return []
    given = {"margin": rules.margin} if rules.margin < 1 else {}
    given |= {"floor": floor} if floor is not None and 0 < floor < 1 else {}
    given |= {"step": rules.step} if 0 < rules.step < LEAST_STEP else {}
    return [
        f"the scores are taken to be per cent, and so is the {name}: {value:g} of one per cent; say "
        f"--{name} {PERCENT * value:g} if you mean {PERCENT * value:g} per cent"
        for name, value in given.items()
    ]


def _plain(question: Question) -> Question:
    """Have Python's own numbers, which JSON can hold, in the place of numpy's."""
    _check_types(question)
    floor, bounds, higher = question.floor, question.bounds, question.higher_is_better
    return replace(
        question,
        margin=float(question.margin),
        higher_is_better=None if higher is None else bool(higher),
        level=float(question.level),
        power=float(question.power),
        floor=None if floor is None else float(floor),
        bounds=None if bounds is None else (float(bounds[0]), float(bounds[1])),
        step=float(question.step),
        unpaired=bool(question.unpaired),
    )


def _check_types(question: Question) -> None:
    """Refuse what a command line would have refused."""
    asked: dict[str, Any] = {"margin": question.margin, "level": question.level, "power": question.power}
    asked["step"] = question.step
    if question.floor is not None:
        asked["floor"] = question.floor
    if question.bounds is not None:
        asked["bounds[0]"], asked["bounds[1]"] = _two(question.bounds)
    for name, value in asked.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise UserError(f"{name} must be a number, found {brief(value)}")
    if question.metric is not None and not isinstance(question.metric, str):
        raise UserError(f"metric must be a name, found {brief(question.metric)}")
    if not isinstance(question.higher_is_better, (bool, np.bool_, type(None))):
        raise UserError(f"higher_is_better must be True or False, found {brief(question.higher_is_better)}")
    if not isinstance(question.unpaired, (bool, np.bool_)):
        raise UserError(f"unpaired must be True or False, found {brief(question.unpaired)}")


def _two(bounds: Any) -> tuple[Any, Any]:
    if not isinstance(bounds, Sequence) or isinstance(bounds, str) or len(bounds) != 2:
        raise UserError(f"bounds must be the least score and a larger one, found {brief(bounds)}")
    return bounds[0], bounds[1]


def _check_numbers(question: Question) -> None:
    if question.floor is not None and not math.isfinite(question.floor):
        raise UserError(f"floor must be a finite score, found {question.floor}")
    if question.bounds is not None and not question.bounds[0] < question.bounds[1]:
        low, high = question.bounds
        raise UserError(f"bounds must be the least score and a larger one, found {low:g} and {high:g}")


def _refuse_two_units(rows: Sequence[Row], metric: str) -> None:
    """Refuse shares that cannot be, and those of one loss beside per cent of another."""
    there = known(metric)
    if there is None or (there.low, there.high) != (0.0, 1.0):
        return
    highest: dict[str, Row] = {}
    for row in (row for row in rows if math.isfinite(row.score)):
        if not 0 <= row.score <= PERCENT:
            raise UserError(
                f"{row.where}: a score of {row.score:g}, but '{metric}' lies between 0 and 1 (or 100, in per "
                "cent); is it another metric? Name it as it is, or say --bounds LOW HIGH"
            )
        if row.score >= highest.setdefault(row.loss, row).score:
            highest[row.loss] = row
    shares = [row for row in highest.values() if row.score <= 1]
    percents = [row for row in highest.values() if row.score > 1]
    if shares and percents:
        raise UserError(
            f"{percents[0].where}: loss '{percents[0].loss}' has a score of {percents[0].score:g}, "
            f"'{shares[0].loss}' none above {shares[0].score:g}: per cent beside shares? Give all in one "
            "unit; if they are, say --bounds 0 100"
        )


def _two_units_likely(rows: Sequence[Row]) -> list[str]:
    """Say where a metric that is not known looks like shares in one loss and per cent in another."""
    scores: dict[str, list[float]] = {}
    for row in rows:
        if math.isfinite(row.score):
            scores.setdefault(row.loss, []).append(row.score)
    shares = {loss: max(found) for loss, found in scores.items() if 0 <= min(found) <= max(found) <= 1}
    percents = {loss: max(found) for loss, found in scores.items() if 1 < min(found) <= max(found) <= PERCENT}
    return [
        f"'{first}' has scores up to {high:g}, '{second}' none above {low:g}, a hundredth: per cent beside "
        "shares? If so, give all in one unit"
        for first, high in percents.items()
        for second, low in shares.items()
        if PERCENT / FEW_TIMES < high / max(low, SMALLEST) < PERCENT * FEW_TIMES
    ]


def _rules(metric: str, question: Question, what: str, scores: Sequence[float]) -> Rules:
    there = known(metric)
    higher = question.higher_is_better
    if higher is None:
        if there is None:
            name = f"metric '{metric}'" if metric else "the metric (nothing names it)"
            raise UserError(
                f"{what}: is more of {name} better? Say --higher-is-better or --lower-is-better (in Python: "
                "higher_is_better=True or False); that is never guessed"
            )
        higher = there.higher_is_better
    elif there is not None and there.higher_is_better != higher:
        raise UserError(
            f"{what}: '{metric}' is better the {'higher' if there.higher_is_better else 'lower'} it is, and "
            f"--{'higher' if higher else 'lower'}-is-better says otherwise; give it another name if it is "
            "another metric"
        )
    bounds = question.bounds or ((there.low, there.high) if there else None)
    outside = [
        score for score in scores if bounds and not bounds[0] <= score <= bounds[1] and math.isfinite(score)
    ]
    if outside and question.bounds:
        low, high = question.bounds
        raise UserError(f"{what}: a score of {outside[0]:g} lies outside --bounds {low:g} {high:g}")
    if outside and there:  # the name is known, its unit here is not: of shares it is per cent
        bounds = (0.0, float(PERCENT)) if (there.low, there.high) == (0.0, 1.0) else None
    if bounds and question.margin >= bounds[1] - bounds[0]:
        raise UserError(
            f"margin {question.margin:g} is as much as two scores between {bounds[0]:g} and {bounds[1]:g} "
            "can differ, so everything would tie; it is the largest difference that does not matter, in the "
            "scores' unit (0.01 for one per cent of shares)"
        )
    try:
        return Rules(question.level, question.margin, higher, question.power, bounds, question.step)
    except ValueError as error:
        raise UserError(str(error)) from None


def _experiment(
    name: str, scores: Scores, metric: str, rules: Rules, question: Question, what: str
) -> tuple[list[Found], list[str]]:
    table = scores.scores
    where = f"{what}: experiment '{name}'" if name else what
    if len(table) < 2:
        raise UserError(f"{where} has scores of one loss alone ({', '.join(table)}); a comparison needs two")
    if question.baseline is not None and question.baseline not in table:
        raise UserError(
            f"{where}: baseline '{question.baseline}' has no scores; {nearest(question.baseline, table)}"
        )
    if max(len(of_loss) for of_loss in table.values()) < 2:
        raise UserError(
            f"{where}: one seed per loss; a verdict needs at least 2, and "
            f"{floor_seeds(1, rules.level)} to decide"
        )
    compared = [_comparison(pair, scores, rules, question) for pair in pairs(list(table), question.baseline)]
    notes = _notes(name, scores, [one for one, _ in compared], [said for _, said in compared], rules)
    contrasts = judge([one for one, _ in compared], metric, rules)
    return [_found(name, one, scores, rules) for one in contrasts], notes


def _found(name: str, one: Contrast, scores: Scores, rules: Rules) -> Found:
    low, high = _over_groups(one, scores, rules)
    said = sentence(one, name, one.arm, one.baseline, rules.level)
    if math.isfinite(low) and math.isfinite(high):
        half = (high - low) / 2
        said += (
            f" For new groups too: {one.arm} − {one.baseline} from {digits(low, half)} to "
            f"{digits(high, half)} ({100 * (1 - rules.level):.3g} %), which decides nothing."
        )
    return Found(name, one, said, low, high)


def _comparison(
    pair: tuple[str, str], scores: Scores, rules: Rules, question: Question
) -> tuple[Comparison, list[str]]:
    """Pair what pairs, and say what was left out and why."""
    arm, other = pair
    first, second = scores.scores[arm], scores.scores[other]
    shared = [seed for seed in second if seed in first]
    unpaired = question.unpaired or not shared
    said = []
    if unpaired:
        values = (np.array(list(first.values())), np.array(list(second.values())))
        sample: Sample = Unpaired(*values)
        why = "as asked" if question.unpaired else f"no seed has scores of both: {_apart(first, second)}"
        said.append(
            f"{arm} and {other} are compared unpaired ({why}): Welch's t under permutation, {len(first)} and "
            f"{len(second)} seeds"
        )
    else:
        values = (np.array([first[seed] for seed in shared]), np.array([second[seed] for seed in shared]))
        sample = Paired(*values)
        said += _left_out(arm, other, first, second, len(shared))
        if len(shared) > 1 and not sample.differences.any():
            said.append(f"{arm} and {other} have the same score on every seed: one run under two names?")
    floors = {} if question.floor is None else {"the floor": question.floor}
    counted = [seed for loss in pair for seed in scores.replaced.get(loss, ()) if unpaired or seed in shared]
    once = [
        _said_once(loss, of_loss)
        for loss, of_loss in zip(pair, values, strict=True)
        if len(of_loss) > 1 and constant(of_loss)
    ]
    if not once and not unpaired and len(shared) > 1 and constant(sample.differences) and sample.difference:
        once.append(
            f"{arm} − {other} is {sample.difference:g} on all {len(shared)} seeds: as evidence that is one "
            "difference, whatever the number of seeds; is one column computed from the other?"
        )
    return Comparison(
        arm=arm,
        baseline=other,
        sample=sample,
        diverged=len(counted),
        arm_condition=condition(values[0], floors, rules.margin, rules.higher_is_better),
        baseline_condition=condition(values[1], floors, rules.margin, rules.higher_is_better),
        once=bool(once),
    ), [*said, *once]


def _apart(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """Show the seeds: written in two ways they are one to their owner, and two here."""
    return " against ".join(
        ", ".join([*seeds[:2], *["…"] * (len(seeds) > 2)]) for seeds in (list(first), list(second))
    )


def _said_once(loss: str, values: Array) -> str:
    return (
        f"{loss} has one value, {values[0]:g}, on all {len(values)} seeds: as evidence that is one "
        "score, so it stays "
        "undecided; does the seed reach the training, or can this test set not tell models apart?"
    )


def _left_out(arm: str, other: str, first: Any, second: Any, shared: int) -> list[str]:
    said = []
    for lacking, there, whose in ((first, second, arm), (second, first, other)):
        seeds = [seed for seed in there if seed not in lacking]
        if seeds:
            named = ", ".join(seeds[:20]) + (", …" if len(seeds) > 20 else "")
            said.append(
                f"{whose} has no score on seed{'s' * (len(seeds) > 1)} {named}: {arm} and {other} are "
                f"compared on the {shared} seed{'s' * (shared > 1)} that both have"
                + (
                    ", which decides nothing: say --unpaired if equal seeds mean nothing"
                    if shared < 2
                    else ""
                )
            )
    return said


def _notes(
    name: str, scores: Scores, compared: Sequence[Comparison], said: Sequence[Sequence[str]], rules: Rules
) -> list[str]:
    prefix = f"{name}: " if name else ""
    notes = [f"{prefix}{one}" for of_pair in said for one in of_pair]
    notes += [f"{prefix}{one}" for one in _said_twice(scores)]
    for loss, seeds in scores.replaced.items():
        named = list(dict.fromkeys(seeds))
        notes.append(
            f"{prefix}{loss} has no finite score on seed{'s' * (len(named) > 1)} {', '.join(named)}: counted "
            "with the floor's, where the other has a score to pair it with"
        )
    if scores.groups:
        count = len(next(iter(next(iter(scores.groups.values())).values())))
        notes.append(f"{prefix}each seed's score is the mean over {count} groups, which its training shares")
    few = [one.sample for one in compared if one.sample.smallest_p() * len(compared) > rules.level]
    if few:
        fewest = max(few, key=lambda sample: sample.smallest_p())
        n, paired = fewest.n, isinstance(fewest, Paired)
        least = (floor_seeds if paired else floor_unpaired)(len(compared), rules.level)
        side, many = " a side" * (not paired), "contrast" + "s" * (len(compared) > 1)
        notes.append(
            f"{prefix}{n} seed{'s' * (n > 1)}{side} cannot show a difference, whatever the scores: with "
            f"{len(compared)} {many} the smallest p is {min(1.0, fewest.smallest_p() * len(compared)):.3g} "
            f"after Holm; it takes at least {least} seeds"
        )
    return notes


def _said_twice(scores: Scores) -> list[str]:
    """Say where seeds repeat others' scores in every loss: copies of a run are no further runs."""
    seeds = dict.fromkeys(seed for of_loss in scores.scores.values() for seed in of_loss)
    alike: dict[tuple[float | None, ...], list[str]] = {}
    for seed in seeds:
        alike.setdefault(tuple(of_loss.get(seed) for of_loss in scores.scores.values()), []).append(seed)
    if len(seeds) < FEWEST_TO_REPEAT or len(alike) > len(seeds) / 2 or len(alike) < 2:
        return []
    copies = next(each for each in alike.values() if len(each) > 1)
    return [
        f"{len(seeds)} seeds have only {len(alike)} different rows of scores (seeds {', '.join(copies[:5])}"
        f"{', …' if len(copies) > 5 else ''} are equal in every loss): if rows were copied, or seeds do not "
        "reach the training, there is less evidence than these verdicts count"
    ]


def _over_groups(contrast: Contrast, scores: Scores, rules: Rules) -> tuple[float, float]:
    """Interval for new seeds *and* new groups; NaN where there are no groups, or too few."""
    nan = math.nan
    if not scores.groups or not contrast.differences or contrast.verdict == Verdict.NOT_TRAINED:
        return nan, nan
    first, second = scores.groups[contrast.arm], scores.groups[contrast.baseline]
    seeds = [seed for seed in second if seed in first]
    groups = list(next(iter(second.values())))
    if len(seeds) < 2 or len(groups) < 2:
        return nan, nan
    arrays = [
        np.stack([[[of_loss[seed][group], 1.0] for group in groups] for seed in seeds])
        for of_loss in (first, second)
    ]
    found: Interval = seeds_by_examples(
        arrays[0], arrays[1], lambda total: total[..., 0] / total[..., 1], rules.level
    )
    return found.low, found.high
