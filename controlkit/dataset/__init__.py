"""The one form, on disk and in memory, that everything downstream of ingest reads."""

from controlkit.dataset.split import Split
from controlkit.dataset.store import DatasetWriter
from controlkit.dataset.transitions import LAYOUT, RECORD, SCHEMA, SPEC, TABLE, TransitionDataset

__all__ = ["LAYOUT", "RECORD", "SCHEMA", "SPEC", "TABLE", "DatasetWriter", "Split", "TransitionDataset"]
