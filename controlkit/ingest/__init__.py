"""From plant logs (CSV, Parquet) to a data set and its quality report."""

from controlkit.ingest.pipeline import IngestResult, ingest

__all__ = ["IngestResult", "ingest"]
