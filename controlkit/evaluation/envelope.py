"""The envelope: in which ranges, and at which rates of the commands, the evidence of an evaluation holds.

Nothing in it is assumed: ranges are those of the policy's own simulated steps that the log supports, rates those of the
recorded commands, and both end where the plant file's limits end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from controlkit.evaluation.findings import CandidateFindings, Findings
from controlkit.evaluation.regimes import RegimeFindings
from controlkit.objective import CommandLimits
from controlkit.replay import thinned
from controlkit.spec import PlantSpec

# The middle share of values that a range states: single values are no evidence.
MIDDLE = 0.98
GO = "GO TO SHADOW"
MAX_VALUES = 100_000


@dataclass(frozen=True)
class TagRange:
    """Where the evidence holds along one tag, engineering units.

    Attributes:
        tag, unit: a measured tag or a command.
        low, high: the middle 98 % of the policy's supported steps, inside the plant file's limits; `None` where not one
            step is supported.
        log_low, log_high: the same of the recorded steps.
        limit_low, limit_high: hard limits of the plant file (its engineering range where it has none).
    """

    tag: str
    unit: str
    low: float | None
    high: float | None
    log_low: float
    log_high: float
    limit_low: float
    limit_high: float


@dataclass(frozen=True)
class RateRange:
    """How fast a command was seen to change, in its unit per second.

    Attributes:
        tag, unit: the command, and its unit.
        allowed: 99 % of the recorded changes are not faster, nor is the plant file's rate limit.
        recorded, policy: the rate that 99 % of the changes do not exceed, in the record and by the policy.
        limit: of the plant file; `None` where it states none.
        beyond: share of the policy's periods in which its command changes faster than `allowed`.
    """

    tag: str
    unit: str
    allowed: float
    recorded: float
    policy: float
    limit: float | None
    beyond: float


@dataclass(frozen=True)
class Envelope:
    """Where the evidence about one policy holds.

    Attributes:
        ranges: of the measured tags, then of the commands.
        rates: of the commands.
        regimes: those in which every rule holds; excluded: the others, with their word.
    """

    ranges: tuple[TagRange, ...]
    rates: tuple[RateRange, ...]
    regimes: tuple[str, ...]
    excluded: tuple[tuple[str, str], ...]


def find_envelope(
    c: CandidateFindings, found: Findings, regimes: Sequence[RegimeFindings], spec: PlantSpec
) -> Envelope:
    """The envelope of a policy's evidence."""
    names, support = found.recorded.names, c.support
    known = support.points[support.supported & (support.weight > 0)]  # (Q', n + m)
    ranges = []
    for column, tag in enumerate(names):
        limit_low, limit_high = spec.limits(tag)
        log_low, log_high = _middle(found.recorded.recorded[:, column])
        low: float | None = None
        high: float | None = None
        if len(known):
            low, high = (min(max(x, limit_low), limit_high) for x in _middle(known[:, column]))
        ranges.append(TagRange(tag, found.units[tag], low, high, log_low, log_high, limit_low, limit_high))
    return Envelope(
        tuple(ranges),
        tuple(_rate(column, c, found, spec) for column in range(len(spec.action_tags))),
        tuple(regime.name for regime in regimes if regime.word == GO),
        tuple((regime.name, regime.word) for regime in regimes if regime.word != GO),
    )


def changes_of(actions: Tensor, alive: Tensor) -> Tensor:
    """Changes from period to period of one command along time, (H, B) with (H, B) whether each counts: (C,)."""
    return (actions[1:] - actions[:-1])[alive[1:] & alive[:-1]].double()


def recorded_actions(found: Findings) -> Tensor:
    """The recorded commands from the start states, over the horizon: (H, N, m)."""
    return found.log.actions[found.starts.rows + torch.arange(found.estimand.horizon).unsqueeze(1)]


def _rate(column: int, c: CandidateFindings, found: Findings, spec: PlantSpec) -> RateRange:
    tag = spec.action_tags[column]
    limits, limit = CommandLimits(spec), spec.tags[tag].max_rate_per_s
    still = 1e-6 * float(limits.high[column] - limits.low[column])
    recorded = recorded_actions(found)[..., column]
    record = changes_of(recorded, torch.ones_like(recorded, dtype=torch.bool)).abs()
    alive = torch.cat([r.alive for r in c.rolled], dim=1)
    policy = changes_of(torch.cat([r.actions[..., column] for r in c.rolled], dim=1), alive).abs()
    seen = _fast(record, still)
    allowed = seen if limit is None else min(seen, limit * spec.period_s)
    beyond = float((policy > allowed * (1.0 + 1e-6) + still).double().mean()) if len(policy) else 0.0
    per_s = 1.0 / spec.period_s
    return RateRange(
        tag, spec.tags[tag].unit, allowed * per_s, seen * per_s, _fast(policy, still) * per_s, limit, beyond
    )


def _fast(changes: Tensor, still: float) -> float:
    """What 99 % of the changes that are changes do not exceed; 0 where there is none."""
    moved = thinned(changes[changes > still], MAX_VALUES)
    return float(torch.quantile(moved, 0.5 + MIDDLE / 2)) if len(moved) else 0.0


def _middle(values: Tensor) -> tuple[float, float]:
    tail = (1.0 - MIDDLE) / 2
    ends = torch.quantile(thinned(values, MAX_VALUES).double(), torch.tensor([tail, 1 - tail], dtype=torch.float64))
    return float(ends[0]), float(ends[1])
