"""When we may say that one loss beats another: tests, corrections, equivalence, power, looks."""

from typing import TYPE_CHECKING

from lossbench.lookup import lazily

if TYPE_CHECKING:
    from lossbench.statistics.calibration import Calibration as Calibration
    from lossbench.statistics.calibration import calibrate as calibrate
    from lossbench.statistics.equivalence import seeds_for_tie as seeds_for_tie
    from lossbench.statistics.equivalence import tie_interval as tie_interval
    from lossbench.statistics.equivalence import tie_power as tie_power
    from lossbench.statistics.equivalence import tost_p as tost_p
    from lossbench.statistics.examples import sample_weight as sample_weight
    from lossbench.statistics.examples import seeds_by_examples as seeds_by_examples
    from lossbench.statistics.family import floor_seeds as floor_seeds
    from lossbench.statistics.family import holm as holm
    from lossbench.statistics.family import power as power
    from lossbench.statistics.family import seeds_for as seeds_for
    from lossbench.statistics.family import seeds_needed as seeds_needed
    from lossbench.statistics.family import smallest_p as smallest_p
    from lossbench.statistics.family import verdict_power as verdict_power
    from lossbench.statistics.hypotheses import Answer as Answer
    from lossbench.statistics.hypotheses import Claim as Claim
    from lossbench.statistics.hypotheses import Outcome as Outcome
    from lossbench.statistics.hypotheses import answer as answer
    from lossbench.statistics.looks import Progress as Progress
    from lossbench.statistics.looks import nominal_levels as nominal_levels
    from lossbench.statistics.looks import progress as progress
    from lossbench.statistics.metrics import known as known
    from lossbench.statistics.metrics import within_bounds as within_bounds
    from lossbench.statistics.paired import Interval as Interval
    from lossbench.statistics.paired import difference_p as difference_p
    from lossbench.statistics.paired import hall_p as hall_p
    from lossbench.statistics.paired import mean_interval as mean_interval
    from lossbench.statistics.paired import pair_correlation as pair_correlation
    from lossbench.statistics.paired import sign_flip_p as sign_flip_p
    from lossbench.statistics.record import Plan as Plan
    from lossbench.statistics.record import Record as Record
    from lossbench.statistics.record import Verdict as Verdict
    from lossbench.statistics.record import seeds_of_arms as seeds_of_arms
    from lossbench.statistics.samples import Paired as Paired
    from lossbench.statistics.samples import Unpaired as Unpaired
    from lossbench.statistics.sentences import level_over_report as level_over_report
    from lossbench.statistics.sentences import sentence as sentence
    from lossbench.statistics.trained import AtBudget as AtBudget
    from lossbench.statistics.trained import Condition as Condition
    from lossbench.statistics.trained import Edge as Edge
    from lossbench.statistics.trained import Training as Training
    from lossbench.statistics.trained import budget_sensitive as budget_sensitive
    from lossbench.statistics.trained import condition as condition
    from lossbench.statistics.trained import seeds_to_exclude as seeds_to_exclude
    from lossbench.statistics.trained import share_interval as share_interval
    from lossbench.statistics.verdict import Comparison as Comparison
    from lossbench.statistics.verdict import Contrast as Contrast
    from lossbench.statistics.verdict import Rules as Rules
    from lossbench.statistics.verdict import Stage as Stage
    from lossbench.statistics.verdict import compare as compare
    from lossbench.statistics.verdict import judge as judge
    from lossbench.statistics.writing import digits as digits
    from lossbench.statistics.writing import metric_name as metric_name

__getattr__ = lazily(
    __name__,
    {
        "Calibration": "calibration",
        "calibrate": "calibration",
        "seeds_for_tie": "equivalence",
        "tie_interval": "equivalence",
        "tie_power": "equivalence",
        "tost_p": "equivalence",
        "sample_weight": "examples",
        "seeds_by_examples": "examples",
        "floor_seeds": "family",
        "holm": "family",
        "power": "family",
        "seeds_for": "family",
        "seeds_needed": "family",
        "smallest_p": "family",
        "verdict_power": "family",
        "Answer": "hypotheses",
        "Claim": "hypotheses",
        "Outcome": "hypotheses",
        "answer": "hypotheses",
        "Plan": "record",
        "Progress": "looks",
        "Record": "record",
        "nominal_levels": "looks",
        "progress": "looks",
        "seeds_of_arms": "record",
        "known": "metrics",
        "within_bounds": "metrics",
        "Interval": "paired",
        "difference_p": "paired",
        "hall_p": "paired",
        "mean_interval": "paired",
        "pair_correlation": "paired",
        "sign_flip_p": "paired",
        "Paired": "samples",
        "Unpaired": "samples",
        "digits": "writing",
        "level_over_report": "sentences",
        "metric_name": "writing",
        "sentence": "sentences",
        "AtBudget": "trained",
        "Condition": "trained",
        "Edge": "trained",
        "Training": "trained",
        "budget_sensitive": "trained",
        "condition": "trained",
        "seeds_to_exclude": "trained",
        "share_interval": "trained",
        "Comparison": "verdict",
        "Contrast": "verdict",
        "Rules": "verdict",
        "Stage": "verdict",
        "Verdict": "record",
        "compare": "verdict",
        "judge": "verdict",
    },
)
