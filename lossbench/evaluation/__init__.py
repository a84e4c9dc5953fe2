"""Scoring every replicate of an experiment on the test split, in float64 on the CPU."""

from lossbench.evaluation.experiment import evaluate

__all__ = ["evaluate"]
