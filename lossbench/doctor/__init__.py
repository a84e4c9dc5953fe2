"""Finds and repairs what crashes leave behind, and removes nothing that is good.

Call :func:`examine` under :func:`guarded`; each finding says what was found and repairs itself.
"""

from lossbench.doctor.examine import Examination, examine, examine_files
from lossbench.doctor.finding import Finding, repair_all
from lossbench.doctor.repository import find_repository, guarded

__all__ = ["Examination", "Finding", "examine", "examine_files", "find_repository", "guarded", "repair_all"]
