"""When we may say that one loss beats another: paired tests, corrections, equivalence, power, verdicts."""

from lossbench.statistics.calibration import Calibration, calibrate
from lossbench.statistics.equivalence import seeds_for_tie, tie_power, tost_p
from lossbench.statistics.examples import seeds_by_examples
from lossbench.statistics.family import floor_seeds, holm, power, seeds_for, smallest_p
from lossbench.statistics.hypotheses import Answer, Claim, Outcome, answer
from lossbench.statistics.paired import Interval, mean_interval, pair_correlation, sign_flip_p
from lossbench.statistics.sentences import digits, metric_name, sentence
from lossbench.statistics.verdict import Contrast, Rules, Verdict, compare

__all__ = [
    "Answer",
    "Calibration",
    "Claim",
    "Contrast",
    "Interval",
    "Outcome",
    "Rules",
    "Verdict",
    "answer",
    "calibrate",
    "compare",
    "digits",
    "floor_seeds",
    "holm",
    "mean_interval",
    "metric_name",
    "pair_correlation",
    "power",
    "seeds_by_examples",
    "seeds_for",
    "seeds_for_tie",
    "sentence",
    "sign_flip_p",
    "smallest_p",
    "tie_power",
    "tost_p",
]
