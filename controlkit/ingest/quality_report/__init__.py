"""The data-quality report of an ingest: what came in, what was used, what was left out and why, and what that means."""

from controlkit.ingest.quality_report.record import QualityReport
from controlkit.ingest.quality_report.summary import summarise

__all__ = ["QualityReport", "summarise"]
