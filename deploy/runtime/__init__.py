"""The edge runtime: a bundle's controller stepped with onnxruntime; never imports torch, pandas or gymnasium."""

from __future__ import annotations

from deploy.runtime.loop import SimulationRecord, run_simulation
from deploy.runtime.plant import (
    Environment,
    Plant,
    PlantAddress,
    PlantReading,
    Sample,
    WriteRequest,
    WriteResult,
    plant_address,
)
from deploy.runtime.session import ControllerSession, StepResult

__all__ = [
    "ControllerSession",
    "Environment",
    "Plant",
    "PlantAddress",
    "PlantReading",
    "Sample",
    "SimulationRecord",
    "StepResult",
    "WriteRequest",
    "WriteResult",
    "plant_address",
    "run_simulation",
]
