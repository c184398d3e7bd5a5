"""A runtime in a process of its own, to be killed; its one argument is JSON, see `main`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from deploy.bundle import load_bundle
from deploy.runtime.clock import ScaledClock
from deploy.runtime.opcua import OpcUaPlant
from deploy.runtime.opcua_security import Security
from deploy.runtime.operators import token_hash
from deploy.runtime.recalibration import Calibration
from deploy.runtime.service import Runtime
from deploy.runtime.site import Site
from tests.deploy.faults.plant import OPERATOR, RECORD, SPEED, TOKEN, Hurried, HurriedWorker


def main() -> None:
    """Runs until it is told to end; wants to be armed. [bundle, key, state, address, [wall ns, monotonic ns]]."""
    bundle_path, key, state, address, began = json.loads(sys.argv[1])
    bundle = load_bundle(Path(bundle_path), Path(key))
    plant = OpcUaPlant(bundle.spec, address, security=Security.insecure_for_tests(), backoff_s=(0.05, 0.2))
    clock = ScaledClock(SPEED, (began[0], began[1]))
    site = Site(operators={OPERATOR: token_hash(TOKEN)}, status_port=0)
    worker = HurriedWorker(SPEED)
    with Runtime(
        bundle, Hurried(plant, SPEED), Path(state), site, clock=clock, address=address, computer=worker
    ) as runtime:
        recalibrator = runtime.supervisor.slots.active.recalibrator
        assert recalibrator is not None
        recalibrator.accept(Calibration())
        runtime.ask("ARMED", TOKEN, RECORD)
        runtime.run()


if __name__ == "__main__":
    main()
