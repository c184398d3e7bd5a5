"""The runtime as it is started on an edge box: everything that the loop needs, put together and taken down in order."""

from __future__ import annotations

import contextlib
import secrets
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controlkit.errors import ArtifactError, ControlkitError
from controlkit.files import write_text
from deploy.bundle.store import Bundle
from deploy.bundle.verify import examine_bundle
from deploy.runtime.audit import AuditLog
from deploy.runtime.clock import NS, Clock, SystemClock
from deploy.runtime.control import Control, ControlSocket
from deploy.runtime.lease import LeaseKeeper
from deploy.runtime.operators import Operators, require_change_record
from deploy.runtime.plant import Plant
from deploy.runtime.recalibration import Calibration
from deploy.runtime.requests import Request, Requests
from deploy.runtime.settings import Settings
from deploy.runtime.site import Site
from deploy.runtime.slots import Slot, Slots
from deploy.runtime.snapshot import Mode
from deploy.runtime.status import StatusBoard
from deploy.runtime.status_server import StatusServer
from deploy.runtime.supervisor import Computer, Supervisor
from deploy.runtime.worker import Worker

CALIBRATION = "calibration.json"
MEGABYTE = 1024 * 1024
# What was learned of a plant longer ago than this is learned again.
KEEP_CALIBRATION_S = 7 * 24 * 3600.0


class StoredCalibration(BaseModel):
    """What was learned of the plant, kept for a restart; untrusted until the controller and the bounds agree."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    controller: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    shift: float
    stretch: Annotated[float, Field(ge=0)]
    time_ns: int


def verified_bundle(path: Path, public_key: Path | None) -> Bundle:
    """A bundle of which everything was checked, its graph and golden vectors included.

    Raises:
        ArtifactError: a check failed.
    """
    checks, bundle = examine_bundle(path, public_key)
    for check in checks:
        if not check.ok:
            raise ArtifactError(f"{check.name}: {check.detail}", where=str(path), cure="See 'controlkit verify'.")
    assert bundle is not None  # or the first check failed
    return bundle


class Runtime:
    """One controller on one plant, with its audit log, status page and control socket.

    Args:
        bundle: checked.
        plant: what it runs on; closed with the runtime.
        state: folder of this plant's audit log, calibration and control socket.
        site: what the site file says.
        public_key: of those whose bundles may be armed.
        settings, clock, computer: the loop's; the machine's clock and a thread of its own where not given.
        address: of the plant, for the record.
        status_port: of the status page; the site file's where not given.

    Raises:
        ControlkitError: the folder is another runtime's, a port is taken, or the disk refuses.
    """

    def __init__(
        self,
        bundle: Bundle,
        plant: Plant,
        state: Path,
        site: Site | None = None,
        *,
        public_key: Path | None = None,
        settings: Settings | None = None,
        clock: Clock | None = None,
        computer: Computer | None = None,
        address: str = "",
        status_port: int | None = None,
    ) -> None:
        self.state, self._site, self._clock = state, site or Site(), clock or SystemClock()
        self._stack = contextlib.ExitStack()
        try:
            self._stack.callback(plant.close)
            try:
                state.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as problem:
                raise ControlkitError(
                    f"cannot be made ({problem.strerror})", where=str(state), cure="Choose another folder: --state DIR."
                ) from None
            sizes = self._site.audit
            self.audit = AuditLog(
                state / "audit",
                max_bytes=round(sizes.max_mb * MEGABYTE),
                segment_bytes=round(sizes.file_mb * MEGABYTE),
            )
            self._stack.callback(self.audit.close)
            self.board = StatusBoard()
            port = self._site.status_port if status_port is None else status_port
            self.status = StatusServer(self.board, port)
            self.status.start()
            self._stack.callback(self.status.close)
            self.requests = Requests()
            self.operators = Operators(self._site.operators, self._clock)
            patience = max(5.0, 3 * bundle.manifest.period_s)
            control = Control(self.requests, self.operators, lambda path: verified_bundle(path, public_key), patience)
            self._stack.callback(ControlSocket(state, control).close)
            if computer is None:
                computer = Worker()
                self._stack.callback(computer.close)
            owner = f"{bundle.manifest.plant[:40]}-{secrets.token_hex(4)}"
            self.supervisor = Supervisor(
                Slots(Slot("A", bundle, self._stored(bundle))),
                plant,
                self._clock,
                self.audit,
                self.board,
                computer,
                self.requests,
                LeaseKeeper(owner, self._site.lease_periods),
                settings=settings,
                on_calibration=self._store,
                address=address,
            )
        except BaseException:
            self._stack.close()
            raise

    def ask(self, mode: Mode, token: str = "", change_record: str = "") -> None:
        """Wants a mode from the start; the loop climbs to it rung by rung.

        Raises:
            ControlkitError: it needs a token or a change record.
        """
        operator = self.operators.identify(token) if mode in ("ADVISORY", "ARMED") else ""
        record = require_change_record(change_record) if mode == "ARMED" else ""
        self.requests.put(Request("mode", mode=mode, operator=operator, change_record=record))

    def run(self, cycles: int | None = None) -> None:
        """Runs until it is told to stop (SIGTERM, SIGINT, `stop`), or for a number of cycles."""
        with self._signals():
            self.supervisor.run(cycles)

    def stop(self) -> None:
        """Ends `run` after its present cycle; from any thread."""
        self.supervisor.stop()

    def close(self) -> None:
        """Takes everything down."""
        self._stack.close()

    def __enter__(self) -> Runtime:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {name: signal.getsignal(name) for name in (signal.SIGTERM, signal.SIGINT)}
        for name in before:
            signal.signal(name, lambda *_: self.stop())
        try:
            yield
        finally:
            for name, handler in before.items():
                signal.signal(name, handler)

    def _stored(self, bundle: Bundle) -> Calibration | None:
        path = self.state / CALIBRATION
        try:
            found = StoredCalibration.model_validate_json(path.read_bytes()[:4096])
        except (OSError, ValidationError, ValueError):
            return None  # nothing was learned yet, or it is learned again
        young = 0 <= self._clock.wall_ns() - found.time_ns <= KEEP_CALIBRATION_S * NS
        if found.controller != bundle.manifest.model.sha256 or not young:
            return None
        return Calibration(found.shift, found.stretch)

    def _store(self, slot: Slot) -> None:
        found = None if slot.recalibrator is None else slot.recalibrator.result
        if found is None:
            with contextlib.suppress(OSError):
                (self.state / CALIBRATION).unlink()
            return
        stored = StoredCalibration(
            controller=slot.controller, shift=found.shift, stretch=found.stretch, time_ns=self._clock.wall_ns()
        )
        # A full disk is told by the audit log; what was learned then lasts until the restart.
        with contextlib.suppress(ControlkitError):
            write_text(self.state / CALIBRATION, stored.model_dump_json() + "\n")
