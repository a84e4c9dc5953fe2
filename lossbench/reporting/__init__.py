"""From evaluations to verdicts, tables and a page that answers the question by itself."""

from lossbench.reporting.write import write_report

__all__ = ["write_report"]
