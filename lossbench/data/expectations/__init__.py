"""Expectations of data, run by Great Expectations over the manifest."""

from lossbench.data.expectations.run import validate

__all__ = ["validate"]
