"""Many plants in one command: each through ingest, train, evaluate and export, and one page that shows them all."""

from controlkit.fleet.file import FleetFile, load_fleet
from controlkit.fleet.record import PlantRecord, Record
from controlkit.fleet.running import run_fleet
from controlkit.fleet.work import run_plant

__all__ = ["FleetFile", "PlantRecord", "Record", "load_fleet", "run_fleet", "run_plant"]
