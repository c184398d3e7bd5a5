"""Policy against operator, command by command, in SHADOW: from one state on the record to the next command only.

In the cycle at t the policy says what it would command over the next period, from the plant as the operator has brought
it there and inside clamp and rate limit about the operator's command; what was done is the command that was then in
force over that period. The two are compared step by step. Where the plant would have gone under the policy no such
comparison can show.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from deploy.bundle.store import Bundle
from deploy.runtime.snapshot import MODES
from deploy.shadow.reading import CycleBlock
from deploy.shadow.timeline import Peaks, Timeline

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SHADOW = MODES.index("SHADOW")
# Shares of a command's span: agreement, and what counts as a move or as standing at a limit.
NEAR, DEAD_BAND = 0.02, 1e-3
LARGEST = 10


@dataclass(frozen=True)
class Steps:
    """Pairs of cycles one period apart, both in SHADOW: what was done in each of the first ones.

    Attributes:
        first, second: (P,) rows of the block.
        time_ns: (P,) sample time of the first.
        done: (P, m) command in force over the period between them, engineering units; NaN where unknown.
        policy: (P, m) what the policy would have commanded; NaN where it had not the history to say.
        before: (P, m) command in force until the first.
    """

    first: npt.NDArray[np.intp]
    second: npt.NDArray[np.intp]
    time_ns: npt.NDArray[np.int64]
    done: Floats
    policy: Floats
    before: Floats


class Stepping:
    """Finds the pairs of a block."""

    def __init__(self, bundle: Bundle) -> None:
        period = round(bundle.manifest.period_s * 1e9)
        tolerance = bundle.manifest.safety.dt_tolerance
        self._shortest, self._longest = round((1 - tolerance) * period), round((1 + tolerance) * period)
        flags = bundle.manifest.flags()
        self._filling = flags.index("history_filling")

    def steps(self, block: CycleBlock) -> Steps:
        """The pairs of a block; the row carried over from the block before makes one with the first new row."""
        passed = np.diff(block.time_ns)
        shadow = block.mode == SHADOW
        pairs = (passed >= self._shortest) & (passed <= self._longest) & shadow[:-1] & shadow[1:]
        first = np.flatnonzero(pairs)
        policy = block.policy[first].astype(np.float64)
        policy[block.flags[first, self._filling]] = np.nan
        done, before = (block.act_prev[rows].astype(np.float64) for rows in (first + 1, first))
        return Steps(first, first + 1, block.time_ns[first], done, policy, before)


class Comparison:
    """Sums up the pairs.

    Args:
        bundle: for limits.
        start_ns, period_ns: of the time lines.
    """

    def __init__(self, bundle: Bundle, start_ns: int, period_ns: int) -> None:
        commands = bundle.manifest.commands
        self.tags = tuple(command.tag for command in commands)
        self._low, self._high = (np.array([getattr(c, end) for c in commands]) for end in ("low", "high"))
        self.span = self._high - self._low
        m = len(self.tags)
        # Of each command: done, policy, difference as a share of the span, agreement; and whether all agree.
        self.over_time = Timeline(start_ns, period_ns, 4 * m + 1)
        self._peaks = [Peaks(start_ns, period_ns) for _ in range(m)]
        self._sums = {name: np.zeros(m) for name in _SUMS}
        # Last value and direction of the last move.
        self._last = {who: (np.full(m, np.nan), np.zeros(m)) for who in ("done", "policy")}
        self.pairs = 0

    def add(self, steps: Steps) -> Bools:
        """Takes pairs; (P,) where policy and operator were near each other in every command."""
        known = np.isfinite(steps.done) & np.isfinite(steps.policy)
        done, policy = (np.where(known, x, np.nan) for x in (steps.done, steps.policy))
        difference = (policy - done) / self.span
        agreed = np.where(known, np.abs(difference) <= NEAR, np.nan)
        near: Bools = known.all(axis=1) & (agreed == 1.0).all(axis=1)
        self.pairs += int(known.all(axis=1).sum())
        together = np.where(known.all(axis=1), near, np.nan)[:, None]
        self.over_time.add(steps.time_ns, np.concatenate([done, policy, difference, agreed, together], axis=1))
        s = self._sums
        s["count"] += known.sum(axis=0)
        s["difference"] += np.nansum(difference, axis=0)
        s["squared"] += np.nansum(difference**2, axis=0)
        s["absolute"] += np.nansum(np.abs(difference), axis=0)
        s["near"] += np.nansum(agreed, axis=0)
        with np.errstate(invalid="ignore"):
            s["above"] += (difference > NEAR).sum(axis=0)
            s["below"] += (difference < -NEAR).sum(axis=0)
            band = DEAD_BAND * self.span
            moved, wished = (np.where(known, x - steps.before, np.nan) for x in (done, policy))
            both = (np.abs(moved) > band) & (np.abs(wished) > band)
            s["both_move"] += both.sum(axis=0)
            s["same_way"] += (both & (np.sign(moved) == np.sign(wished))).sum(axis=0)
            for who, values in (("done", done), ("policy", policy)):
                s[f"{who}_low"] += (values <= self._low + band).sum(axis=0)
                s[f"{who}_high"] += (values >= self._high - band).sum(axis=0)
                self._follow(who, values, band)
        for i, peaks in enumerate(self._peaks):
            values = np.stack([policy[:, i], done[:, i]], axis=1)
            peaks.add(steps.time_ns, np.abs(difference[:, i]), values)
        return near

    def _follow(self, who: str, values: Floats, band: Floats) -> None:
        """Travel and reversals of a series; a jump over missing values counts as no travel."""
        s, (last, direction) = self._sums, self._last[who]
        if not len(values):
            return
        change = np.diff(np.concatenate([last[None], values]), axis=0)
        s[f"{who}_steps"] += np.isfinite(change).sum(axis=0)
        s[f"{who}_travel"] += np.nansum(np.abs(change), axis=0) / self.span
        signs = np.where(np.abs(change) > band, np.sign(change), 0.0)
        for i in range(values.shape[1]):
            moves = np.concatenate([direction[i : i + 1], signs[:, i]])
            moves = moves[moves != 0.0]
            s[f"{who}_moves"][i] += int(np.count_nonzero(signs[:, i]))
            s[f"{who}_reversals"][i] += int(np.count_nonzero(np.diff(moves)))
            if moves.size:
                direction[i] = moves[-1]
        self._last[who] = (values[-1], direction)

    def summary(self, apart_ns: int) -> list[dict[str, Any]]:
        """One table per command; shares 0 .. 1 of the compared steps, differences as shares of the span."""
        result = []
        s = self._sums
        for i, tag in enumerate(self.tags):
            one = {name: float(values[i]) for name, values in s.items()}
            count = one["count"]
            mean = _ratio(one["difference"], count)
            variance = _ratio(one["squared"], count) - mean**2
            result.append(
                {
                    "tag": tag,
                    "low": float(self._low[i]),
                    "high": float(self._high[i]),
                    "steps": int(count),
                    "mean": mean,
                    "spread": float(np.sqrt(max(variance, 0.0))) if count else np.nan,
                    "absolute": _ratio(one["absolute"], count),
                    "near": _ratio(one["near"], count),
                    "above": _ratio(one["above"], count),
                    "below": _ratio(one["below"], count),
                    "same_direction": _ratio(one["same_way"], one["both_move"]),
                    "both_move": _ratio(one["both_move"], count),
                    **{
                        who: {
                            "at_low": _ratio(one[f"{who}_low"], count),
                            "at_high": _ratio(one[f"{who}_high"], count),
                            "travel": _ratio(one[f"{who}_travel"], one[f"{who}_steps"]),
                            "reversals": _ratio(one[f"{who}_reversals"], one[f"{who}_moves"]),
                        }
                        for who in ("done", "policy")
                    },
                    "largest": [
                        {
                            "time_ns": peak.time_ns,
                            "policy": peak.values[0],
                            "done": peak.values[1],
                            "difference": (peak.values[0] - peak.values[1]) / float(self.span[i]),
                        }
                        for peak in self._peaks[i].largest(LARGEST, apart_ns)
                    ],
                }
            )
        return result


_SUMS = (
    "count", "difference", "squared", "absolute", "near", "above", "below", "both_move", "same_way",
    *(f"{who}_{what}" for who in ("done", "policy")
      for what in ("low", "high", "steps", "travel", "moves", "reversals")),
)  # fmt: skip


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")
