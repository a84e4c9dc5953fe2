"""When we may say that one loss beats another: tests, corrections, equivalence, power, looks."""

from lossbench.statistics.calibration import Calibration, calibrate
from lossbench.statistics.equivalence import seeds_for_tie, tie_interval, tie_power, tost_p
from lossbench.statistics.examples import sample_weight, seeds_by_examples
from lossbench.statistics.family import floor_seeds, holm, power, seeds_for, seeds_needed, smallest_p
from lossbench.statistics.hypotheses import Answer, Claim, Outcome, answer
from lossbench.statistics.looks import Plan, Progress, Record, nominal_levels, progress, seeds_of_arms
from lossbench.statistics.metrics import known, within_bounds
from lossbench.statistics.paired import (
    Interval,
    difference_p,
    hall_p,
    mean_interval,
    pair_correlation,
    sign_flip_p,
)
from lossbench.statistics.samples import Paired, Unpaired
from lossbench.statistics.sentences import digits, level_over_report, metric_name, sentence
from lossbench.statistics.trained import (
    AtBudget,
    Condition,
    Edge,
    Training,
    budget_sensitive,
    condition,
    seeds_to_exclude,
    share_interval,
)
from lossbench.statistics.verdict import Comparison, Contrast, Rules, Stage, Verdict, compare, judge

__all__ = [
    "Answer",
    "AtBudget",
    "Calibration",
    "Claim",
    "Comparison",
    "Condition",
    "Contrast",
    "Edge",
    "Interval",
    "Outcome",
    "Paired",
    "Plan",
    "Progress",
    "Record",
    "Rules",
    "Stage",
    "Training",
    "Unpaired",
    "Verdict",
    "answer",
    "budget_sensitive",
    "calibrate",
    "compare",
    "condition",
    "difference_p",
    "digits",
    "floor_seeds",
    "hall_p",
    "holm",
    "judge",
    "known",
    "level_over_report",
    "mean_interval",
    "metric_name",
    "nominal_levels",
    "pair_correlation",
    "power",
    "progress",
    "sample_weight",
    "seeds_by_examples",
    "seeds_for",
    "seeds_for_tie",
    "seeds_needed",
    "seeds_of_arms",
    "seeds_to_exclude",
    "sentence",
    "share_interval",
    "sign_flip_p",
    "smallest_p",
    "tie_interval",
    "tie_power",
    "tost_p",
    "within_bounds",
]
