"""Scoring every replicate of an experiment on the test split, in float64 on the CPU."""
