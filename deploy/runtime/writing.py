"""Handing a cycle's command to the plant, and reading back whether it arrived."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from controlkit.spec import PlantSpec
from deploy.runtime.clock import NS, Clock, Tick
from deploy.runtime.lease import LeaseKeeper
from deploy.runtime.plant import Plant, WriteRequest
from deploy.runtime.session import StepResult
from deploy.runtime.settings import Settings
from deploy.runtime.snapshot import Mode

Commands = np.ndarray[Any, np.dtype[np.float32]]


class Writer:
    """Writes, with heartbeat and lease in the same request.

    Args:
        spec: the plant's description.
        plant: it.
        clock: the loop's.
        lease: as this controller sees it.
        settings: choices.
        span: (m,) between the absolute limits of the commands.
        counters: of the loop.
    """

    def __init__(
        self,
        spec: PlantSpec,
        plant: Plant,
        clock: Clock,
        lease: LeaseKeeper,
        settings: Settings,
        span: Commands,
        counters: Counter[str],
    ) -> None:
        self._tags, self._plant, self._clock, self._lease = spec.action_tags, plant, clock, lease
        self._low, self._high = np.array([spec.limits(tag) for tag in spec.action_tags], dtype=np.float64).T
        rates = [spec.tags[tag].max_rate_per_s for tag in spec.action_tags]
        # Reference and command are float32: the last digit may be a rounding.
        self._step = np.array([np.inf if rate is None else rate * spec.period_s for rate in rates])
        self._slack = 1e-5 * (self._high - self._low)
        self._settings, self._span, self._counters = settings, span, counters
        self._period_ns, self._heartbeat = round(spec.period_s * NS), 0
        self.confirmed: Commands | None = None
        """(m,) what the plant showed after the last write, if that was the command."""
        self.echo: Commands = np.full(len(self._tags), np.nan, dtype=np.float32)
        """(m,) what the plant showed after the last write; NaN where it did not say."""
        self.acknowledged: str | None = None
        """The lease that the plant said in the last cycle it took; `None` where none was written, or it did not."""

    def send(
        self, mode: Mode, result: StepResult | None, tick: Tick, faults: dict[str, str], *, claim: bool, quiet: bool
    ) -> bool:
        """One cycle's request, if there is anything to write in this mode.

        Args:
            mode: in force.
            result: of this cycle; `None` where there is none in time.
            tick: the cycle.
            faults: what goes wrong is added.
            claim: whether the lease is wanted although the mode does not command yet.
            quiet: the plant did not answer in this cycle, or the cycle is not whole: nothing is written.

        Returns:
            Whether a command was written and the plant confirmed it.
        """
        has = self._plant.handshake
        if mode == "ARMED" and result is not None and not quiet and self._left(tick) <= 0:
            # Held up since the plant was read: by now another may command.
            faults["write_late"] = "no time was left to write the command"
            quiet = True
        armed = mode == "ARMED" and result is not None and not quiet
        advising = mode == "ADVISORY" and result is not None and not quiet
        actions = {} if result is None else dict(zip(self._tags, result.action.tolist(), strict=True))
        if (armed or advising) and "heartbeat_controller" in has:
            self._heartbeat += 1
        request = WriteRequest(
            commands=actions if armed else {},
            advice=actions if advising and "advice" in has else {},
            heartbeat=self._heartbeat if (armed or advising) and "heartbeat_controller" in has else None,
            lease=self._lease_text(mode, armed or (claim and not quiet)) if "lease" in has else None,
        )
        self.confirmed = self.acknowledged = None
        if request == WriteRequest():
            return False
        answer = self._plant.write(request, self._left(tick) * (0.5 if armed else 1.0))
        if answer.problem:
            faults["write_failed"] = answer.problem
        for name, why in answer.refused.items():
            self._counters["refused"] += 1
            faults[f"refused.{name}"] = f"the plant refused '{name}': {why}"
        if not answer.problem and "lease" not in answer.refused:
            self.acknowledged = request.lease
        if not armed or result is None:
            return False
        self._counters["writes"] += 1
        return self._confirm(result, tick, faults)

    def unsafe(self, action: Commands, reference: Commands) -> str:
        """What is wrong with a command, in double precision and apart from the graph; empty if nothing is.

        Args:
            action: (m,) what the controller gave.
            reference: (m,) the command in force; NaN where it is not known, and no rate can be checked.
        """
        wanted, before = action.astype(np.float64), reference.astype(np.float64)
        for tag, inside in zip(self._tags, (wanted >= self._low) & (wanted <= self._high), strict=True):
            if not inside:
                return f"a command outside the limits of '{tag}'"
        valid = ((before >= self._low) & (before <= self._high)).all()
        if valid:
            for tag, fast in zip(self._tags, np.abs(wanted - before) > self._step + self._slack, strict=True):
                if fast:
                    return f"a command beyond the rate of '{tag}'"
        return ""

    def release(self) -> None:
        """Gives the lease back."""
        if "lease" in self._plant.handshake and (text := self._lease.text(False)) is not None:
            self._plant.write(WriteRequest(lease=text), self._period_ns / NS)

    def _lease_text(self, mode: Mode, wanted: bool) -> str | None:
        if not wanted and mode == "ARMED":
            return None  # a cycle that writes nothing does not give the lease away
        return self._lease.text(wanted)

    def _confirm(self, result: StepResult, tick: Tick, faults: dict[str, str]) -> bool:
        found = self._plant.read_back(self._left(tick))
        with np.errstate(over="ignore"):
            self.echo = np.array([found.get(tag, np.nan) for tag in self._tags], dtype=np.float64).astype(np.float32)
        with np.errstate(invalid="ignore"):
            same = np.abs(self.echo - result.action) <= self._settings.confirm * self._span
        if bool(same.all()):
            self.confirmed = result.action
            return True
        self._counters["unconfirmed"] += 1
        others = ", ".join(f"'{tag}'" for tag, good in zip(self._tags, same, strict=True) if not good)
        faults["write_not_confirmed"] = f"the plant does not show the command that was written to {others}"
        return False

    def _left(self, tick: Tick) -> float:
        """Seconds until writing must be done."""
        end = tick.start_ns + round(self._settings.write_share * self._period_ns)
        return max((end - self._clock.monotonic_ns()) / NS, 0.0)
