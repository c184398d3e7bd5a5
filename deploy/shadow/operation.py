"""How the runtime itself went: time covered, modes, trust and flags, latency, faults, sensors, events; bounded."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from deploy.bundle.store import Bundle
from deploy.runtime.snapshot import MODES
from deploy.shadow.comparison import SHADOW
from deploy.shadow.reading import MAX_NAMES, MAX_TEXT, CycleBlock
from deploy.shadow.timeline import Timeline

Floats = npt.NDArray[np.float64]

# Periods without a cycle from which it is a gap; gaps and events that are listed.
GAP_PERIODS = 3
LISTED = 200
# The share of the action that is the policy's from which a cycle counts as trusted.
TRUSTED = 0.5
# What is followed over time, in SHADOW.
SERIES = ("trust", "score_observed", "shortfall", "ewma", "cusum")
# Bins of the latency's histogram, milliseconds: 2 % apart.
EDGES_MS = np.geomspace(1e-3, 1e6, 1047)


class Operation:
    """Sums up cycles, whatever their mode; what is about the policy, in SHADOW only.

    Attributes:
        presence: cycles by mode over time; scores: trust, score_observed, shortfall, ewma, cusum in SHADOW, and
            compute_ms in every mode; sensors: usable share by tag.
        watched, ewma_high, cusum_high: cycles in SHADOW since the last recalibration, and those with EWMA or CUSUM
            beyond its limit.
    """

    def __init__(self, bundle: Bundle, start_ns: int, period_ns: int) -> None:
        manifest = bundle.manifest
        self.period_ns, self.flag_names = period_ns, manifest.flags()
        self.presence = Timeline(start_ns, period_ns, len(MODES))
        self.scores = Timeline(start_ns, period_ns, 6)
        self.sensors = Timeline(start_ns, period_ns, len(bundle.layout.frame_tags))
        self.modes, self.flags = np.zeros(len(MODES), dtype=np.int64), np.zeros(len(self.flag_names), dtype=np.int64)
        self.doubted = np.zeros(len(self.flag_names), dtype=np.int64)
        self.trusted = self.scored = self.watched = self.ewma_high = self.cusum_high = 0
        self._ewma_limit, self._cusum_limit = manifest.thresholds.ewma_limit, manifest.thresholds.cusum_limit
        self.latency = np.zeros(len(EDGES_MS) + 1, dtype=np.int64)
        self.slowest_ms, self.late = 0.0, 0
        self.deadline_ms = 500.0 * manifest.period_s
        self.faulty = 0
        self.faults: dict[str, dict[str, Any]] = {}
        self.first_ns, self.last_ns, self.stepped_back = 0, 0, 0
        self.gap_count, self.gap_ns = 0, 0
        self._gaps: list[tuple[int, int]] = []
        self.outside = 0
        self._low, self._high = (np.array([getattr(c, end) for c in manifest.commands]) for end in ("low", "high"))
        self._max_step = np.array([np.inf if c.max_step is None else c.max_step for c in manifest.commands])

    def add(self, block: CycleBlock) -> None:
        """Takes a block."""
        new = slice(block.carried, None)
        time_ns, mode, flags = block.time_ns[new], block.mode[new], block.flags[new]
        self._time(block.time_ns, time_ns)
        shadow = mode == SHADOW
        at = np.zeros((len(mode), len(MODES)))
        at[np.arange(len(mode)), mode] = 1.0
        self.presence.add(time_ns, np.where(at > 0, 1.0, np.nan))
        self.modes += at.sum(axis=0).astype(np.int64)
        trust, compute = block.scalar("trust")[new], block.scalar("compute_ms")[new]
        with np.errstate(invalid="ignore"):
            trusted = shadow & (trust >= TRUSTED)
        self.trusted += int(trusted.sum())
        self.flags += flags[shadow].sum(axis=0)
        self.doubted += flags[shadow & ~trusted].sum(axis=0)
        series = np.stack([block.scalar(name)[new] for name in SERIES], axis=1)
        unscored = flags[:, self.flag_names.index("observed_unscored")]
        series[unscored, 1:3] = np.nan
        series[~shadow] = np.nan
        self.scored += int(np.isfinite(series[:, 1]).sum())
        self.watched += int(shadow.sum())
        with np.errstate(invalid="ignore"):
            self.ewma_high += int((series[:, 3] > self._ewma_limit).sum())
            self.cusum_high += int((series[:, 4] > self._cusum_limit).sum())
        self.scores.add(time_ns, np.concatenate([series, compute[:, None]], axis=1))
        self.sensors.add(time_ns, block.ok[new].astype(np.float64))
        known = compute[np.isfinite(compute)]
        self.latency += np.bincount(np.searchsorted(EDGES_MS, known), minlength=len(self.latency))
        self.slowest_ms = max(self.slowest_ms, float(known.max(initial=0.0)))
        self.late += int((known > self.deadline_ms).sum())
        self._unsafe(block.action[new], block.act_prev[new])
        for when, faults in zip(time_ns.tolist(), block.faults[new], strict=True):
            if faults:
                self._fault(when, faults)

    def recalibrated(self) -> None:
        """Average and sum begin anew: what they said before, by limits that were not this plant's, counts no longer."""
        self.watched = self.ewma_high = self.cusum_high = 0

    def _time(self, chained: npt.NDArray[np.int64], time_ns: npt.NDArray[np.int64]) -> None:
        if not self.first_ns:
            self.first_ns = int(time_ns[0])
        self.last_ns = max(self.last_ns, int(time_ns.max()))
        passed = np.diff(chained)
        self.stepped_back += int((passed < 0).sum())
        for place in np.flatnonzero(passed > GAP_PERIODS * self.period_ns).tolist():
            length = int(passed[place])
            self.gap_count, self.gap_ns = self.gap_count + 1, self.gap_ns + length - self.period_ns
            heapq.heappush(self._gaps, (length, int(chained[place])))
            if len(self._gaps) > 10:
                heapq.heappop(self._gaps)

    def _unsafe(self, action: npt.NDArray[np.float32], before: npt.NDArray[np.float32]) -> None:
        """Counts commands of the controller outside the limits, or beyond a rate about a valid reference."""
        low, high = self._low.astype(np.float32), self._high.astype(np.float32)
        valid = ((before >= low) & (before <= high)).all(axis=1, keepdims=True)
        # One float32 rounding of the sum of reference and step is no violation.
        slack = np.spacing(np.maximum(np.abs(low), np.abs(high)).astype(np.float32))
        with np.errstate(invalid="ignore"):
            beyond = (action < low) | (action > high)
            fast = valid & (np.abs(action - before) > self._max_step + slack)
        self.outside += int((beyond | fast).any(axis=1).sum())

    def _fault(self, when: int, faults: Mapping[str, str]) -> None:
        self.faulty += 1
        for name, text in faults.items():
            if name not in self.faults:
                if len(self.faults) >= MAX_NAMES:
                    continue
                self.faults[name] = {"name": name, "text": text, "cycles": 0, "first_ns": when}
            entry = self.faults[name]
            entry["cycles"], entry["last_ns"] = entry["cycles"] + 1, when

    @property
    def cycles(self) -> int:
        """All of them."""
        return int(self.modes.sum())

    def gaps(self) -> list[dict[str, int]]:
        """The longest, longest first."""
        return [{"after_ns": start, "length_ns": length} for length, start in sorted(self._gaps, reverse=True)]

    def latency_ms(self, share: float) -> float:
        """Time below which this share of the computations took, to 2 %; NaN without any."""
        total = int(self.latency.sum())
        if not total:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.latency), share * total))
        return float(min(EDGES_MS[min(place, len(EDGES_MS) - 1)], self.slowest_ms))


class Sensors:
    """Quality, age, repeats and range of every measured tag, in every mode."""

    def __init__(self, bundle: Bundle) -> None:
        spec, layout = bundle.spec, bundle.layout
        self.tags = layout.frame_tags
        ranges = np.array([spec.tags[tag].range for tag in self.tags])
        self._low, self._high = ranges[:, 0].astype(np.float32), ranges[:, 1].astype(np.float32)
        repeats = bundle.manifest.thresholds.frozen_repeats
        self._frozen_from = [repeats.get(tag) for tag in self.tags]
        n = len(self.tags)
        self._cycles = 0
        self._usable, self._missing, self._beyond, self._stale = (np.zeros(n, dtype=np.int64) for _ in range(4))
        self._age_sum, self._age_count, self._age_max = np.zeros(n), np.zeros(n), np.zeros(n)
        self._last, self._run = np.full(n, np.nan, dtype=np.float32), np.zeros(n, dtype=np.int64)
        self._longest, self._frozen = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)

    def add(self, block: CycleBlock) -> None:
        """Takes a block."""
        new = slice(block.carried, None)
        obs, ok, age = block.obs[new], block.ok[new], block.age_s[new].astype(np.float64)
        self._cycles += len(obs)
        self._usable += ok.sum(axis=0)
        self._missing += np.isnan(obs).sum(axis=0)
        self._beyond += ((obs < self._low) | (obs > self._high)).sum(axis=0)
        known = np.isfinite(age)
        self._age_sum += np.where(known, age, 0.0).sum(axis=0)
        self._age_count += known.sum(axis=0)
        self._age_max = np.maximum(self._age_max, np.where(known, age, 0.0).max(axis=0, initial=0.0))
        same = np.concatenate([self._last[None], obs[:-1]]) == obs
        for i, limit in enumerate(self._frozen_from):
            runs = _runs(same[:, i], int(self._run[i]))
            self._run[i] = runs[-1]
            self._longest[i] = max(self._longest[i], runs.max())
            if limit is not None:
                self._frozen[i] += int((runs >= limit).sum())
        self._last = obs[-1]

    def summary(self) -> list[dict[str, Any]]:
        """One table per tag; shares 0 .. 1 of all cycles. `frozen` is null where the bundle has no rule for the tag."""
        total = max(self._cycles, 1)
        return [
            {
                "tag": tag,
                "usable": float(self._usable[i] / total),
                "missing": float(self._missing[i] / total),
                "out_of_range": float(self._beyond[i] / total),
                "frozen": None if self._frozen_from[i] is None else float(self._frozen[i] / total),
                "longest_repeat": int(self._longest[i]),
                "mean_age_s": float(self._age_sum[i] / self._age_count[i]) if self._age_count[i] else np.nan,
                "largest_age_s": float(self._age_max[i]) if self._age_count[i] else np.nan,
            }
            for i, tag in enumerate(self.tags)
        ]


@dataclass(frozen=True)
class Event:
    """A row that is no cycle, in words."""

    time_ns: int
    kind: str
    text: str


class Events:
    """Modes, alarms and operators' actions; the newest are listed, all are counted.

    Args:
        controller: SHA-256 of the graph.
        recalibrated: called at each recalibration of this controller.

    Attributes:
        shift, stretch: of the last one; calibrated_ns: its wall clock, 0 where there was none.
    """

    def __init__(self, controller: str, recalibrated: Callable[[], None]) -> None:
        self._controller, self._recalibrated = controller, recalibrated
        self.listed: deque[Event] = deque(maxlen=LISTED)
        self.counts: Counter[str] = Counter()
        self.alarms: dict[str, dict[str, Any]] = {}
        self.shift, self.stretch, self.calibrated_ns = 0.0, 0.0, 0

    def add(self, kind: str, wall_ns: int, p: Mapping[str, Any]) -> None:
        """Takes a row's payload, whatever it holds."""
        self.counts[kind if kind in _WORDS else "other"] += 1
        if kind == "alarm":
            self._alarm(wall_ns, p)
            return
        if kind == "calibration" and p.get("controller", self._controller) == self._controller:
            shift, stretch = p.get("shift"), p.get("stretch")
            if _is_number(shift) and _is_number(stretch) and abs(shift) < 1e3 and 0.0 <= stretch < 1e3:
                self.shift, self.stretch, self.calibrated_ns = float(shift), float(stretch), wall_ns
                self._recalibrated()
        if kind in _WORDS:
            words = "; ".join(f"{key} {_cut(p[key])}" for key in _WORDS[kind] if p.get(key) not in (None, ""))
            self.listed.append(Event(wall_ns, kind, words[: 2 * MAX_TEXT]))

    def _alarm(self, wall_ns: int, p: Mapping[str, Any]) -> None:
        name = _cut(p.get("name", ""))
        if name not in self.alarms:
            if len(self.alarms) >= MAX_NAMES:
                return
            self.alarms[name] = {"name": name, "raised": 0, "first_ns": wall_ns}
        entry = self.alarms[name]
        severity, active = p.get("severity"), p.get("active") is True
        entry["raised"] += int(active)
        entry |= {
            "severity": severity if severity in ("info", "warning", "alarm") else "unknown",
            "text": _cut(p.get("text", "")),
            "active": active,
            "last_ns": wall_ns,
        }


_WORDS: Mapping[str, tuple[str, ...]] = {
    "start": ("controller", "controlkit", "address"),
    "stop": ("why", "mode", "cycles"),
    "mode": ("from", "to", "why", "operator", "change_record"),
    "operator": ("action", "mode", "operator", "change_record", "bundle"),
    "bundle": ("event", "slot", "controller"),
    "calibration": ("controller", "shift", "stretch"),
    "alarm": (),
}


def _cut(value: Any) -> str:
    if isinstance(value, str):
        return value[:MAX_TEXT]
    return f"{value:.6g}" if _is_number(value) else "…"


def _is_number(value: Any) -> TypeGuard[float]:
    # An integer of a thousand digits is no number that anything here could mean.
    return type(value) is float or (type(value) is int and abs(value) < 1e18)


def _runs(same: npt.NDArray[np.bool_], before: int) -> npt.NDArray[np.int64]:
    """How many exact repeats in a row end at each place."""
    index = np.arange(1, len(same) + 1)
    broken = np.maximum.accumulate(np.where(same, 0, index))
    return np.asarray(index - broken + np.where(broken == 0, before, 0), dtype=np.int64)
