"""Run folders as rows: found below a folder, summed up without torch, compared field by field."""

from controlkit.runs.compare import differences
from controlkit.runs.find import find_runs
from controlkit.runs.summary import RunSummary, summarise

__all__ = ["RunSummary", "differences", "find_runs", "summarise"]
