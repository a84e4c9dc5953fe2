"""Measurements: each prints a table and writes its JSON; run as `python -m benchmarks.NAME`."""
