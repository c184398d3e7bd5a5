"""Runs in MLflow, for those who have one: parameters, metrics, artifacts, and the bundle in its model registry.

Nothing here imports mlflow until a store is opened, and a run folder is complete without it.
"""

from controlkit.tracking.store import LOCAL, VARIABLE, address_of, open_tracker
from controlkit.tracking.tracker import Tracker
from controlkit.tracking.verbs import record_runs, tracked

__all__ = ["LOCAL", "VARIABLE", "Tracker", "address_of", "open_tracker", "record_runs", "tracked"]
