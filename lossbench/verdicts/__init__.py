"""Verdicts from scores that one already has. Needs numpy and scipy; no torch, DVC or MLflow."""
