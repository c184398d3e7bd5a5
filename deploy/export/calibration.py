"""Thresholds from the calibration part of the split, and from the policy in closed loop with the learned model.

The observed check compares what was measured with what the elites expected, at the same observation and command: the
shortfall of evidence (the log odds behind the dynamics reward), expected minus observed. Ground that is unfamiliar to
the networks lowers both alike, so that a policy that acts outside the log does not trip it, while a sensor or a plant
that has changed does; an exogenous step (a door) does not either, as only the state tags' change is judged.

Healthy values come from two sources, and a threshold covers both: the recorded transitions of the calibration part, and
the policy's own closed loop in the model, driven by the recorded exogenous tags and the residuals that the run kept.
The second may raise a threshold only up to a multiple of what the log asks for.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from controlkit.artifacts import Models
from controlkit.dataset import TransitionDataset
from controlkit.errors import GateError
from controlkit.objective import CommandLimits
from deploy.bundle.safety import CalibrationRecord, SafetyConfig, Thresholds
from deploy.export.judge import Judge

Floats = npt.NDArray[np.float64]
CHUNK = 4096
# A score is never below 0: a threshold a little below it never acts.
NEVER = -1e-3
MIN_TRANSITIONS = 50
# Standard deviations that a healthy step may reach, however short the calibration part was.
LEAST_EXTREME = 3.0
# A disagreement of the elites, in spreads of the change, that is no doubt: on a plant without noise all of it is the
# rounding of single precision, which no two processors share.
LEAST_DOUBT = 1e-3


@dataclass(frozen=True)
class Judged:
    """Checks' values on T healthy steps; a path is a run of consecutive steps.

    Attributes:
        shortfall: (T,) evidence expected minus observed.
        spread, score: (T,) of the predicted transition under the policy's command.
        path: (T,) number of the path, rising.
    """

    shortfall: Floats
    spread: Floats
    score: Floats
    path: npt.NDArray[np.int64]


def calibrate(
    models: Models, data: TransitionDataset, safety: SafetyConfig, generator: torch.Generator
) -> tuple[Thresholds, CalibrationRecord]:
    """Fits every threshold.

    Args:
        models: the run's networks.
        data: the calibration part of the split.
        safety: choices behind the checks.
        generator: draws starts and residuals of the closed loop.

    Raises:
        GateError: too few usable steps, or networks that give something that is no number.
    """
    rows = data.transitions
    if len(rows) < MIN_TRANSITIONS:
        raise GateError(
            f"only {len(rows)} usable steps, {MIN_TRANSITIONS} are needed",
            where="calibration part of the split",
            cure="Train on a longer log, or give the calibration part a larger share.",
        )
    judge = Judge(models)
    with torch.no_grad():
        logged, familiar = _judge_log(judge, models, data, rows)
        closed = _judge_closed_loop(judge, models, data, rows, safety, generator)
    for part in (logged, closed):
        if not all(np.isfinite(values).all() for values in (part.shortfall, part.spread, part.score)):
            raise GateError("a network gives something that is no number", where="calibration", cure="Train again.")
    mean = float(logged.shortfall.mean())
    std = max(float(logged.shortfall.std()), 1e-3)
    # The log's own ground: where the elites agree about its recorded commands, but for the share `tail`.
    logged_spread = _quantile(familiar.spread, 1 - safety.tail)
    spread_drift = max(logged_spread, LEAST_DOUBT)
    observed = (
        replace(logged, spread=familiar.spread),
        closed,
    )  # the spread of what was expected of the recorded command
    extremes = [_extremes(part, mean, std, spread_drift, safety) for part in observed]
    allowed = {
        name: min(max(value, extremes[1][name]), safety.closed_loop_allowance * value)
        for name, value in extremes[0].items()
    }
    # The policy's ground may be less familiar than the log's own: its spread counts as far as the allowance goes.
    reached_spread = max(_quantile(logged.spread, 1 - safety.tail), _quantile(closed.spread, 1 - safety.tail))
    spread = min(max(reached_spread, logged_spread), safety.familiarity_allowance * logged_spread)
    reached_score = min(_quantile(logged.score, safety.tail), _quantile(closed.score, safety.tail))
    logged_score = _quantile(familiar.score, safety.tail)
    score = max(min(reached_score, logged_score), logged_score / safety.familiarity_allowance)
    soft_score = score / safety.score_margin
    soft_spread = max(safety.spread_margin * spread, LEAST_DOUBT)
    thresholds = Thresholds(
        frozen_repeats=_frozen(data, safety),
        shortfall_mean=mean,
        shortfall_std=std,
        shortfall_limit=safety.observed_margin * max(allowed["shortfall"], LEAST_EXTREME),
        ewma_limit=max(safety.observed_margin * allowed["ewma"], safety.ewma_weight * safety.shortfall_cap),
        cusum_limit=max(safety.observed_margin * allowed["cusum"], safety.shortfall_cap),
        score_soft=soft_score if soft_score > 0.0 else NEVER,
        score_stop=soft_score / safety.stop_factor if soft_score > 0.0 else safety.stop_factor * NEVER,
        spread_soft=soft_spread,
        spread_stop=safety.stop_factor * soft_spread,
        spread_drift=spread_drift,
    )
    record = CalibrationRecord(
        rows=len(rows),
        closed_loop_steps=len(closed.spread),
        logged=extremes[0] | {"spread": logged_spread, "score": logged_score},
        closed_loop=extremes[1] | {"spread": reached_spread, "score": reached_score},
    )
    return thresholds, record


def _judge_log(
    judge: Judge, models: Models, data: TransitionDataset, rows: npt.NDArray[np.int64]
) -> tuple[Judged, Judged]:
    """The recorded transitions, with the policy's command for the prediction, and with the recorded command."""
    limits, columns = CommandLimits(data.spec), data.layout.state_columns
    shortfall, policy_side, logged_side = [], [], []
    for chunk in np.array_split(rows, max(1, -(-len(rows) // CHUNK))):
        observation = torch.from_numpy(data.observations(chunk))
        action = torch.from_numpy(data.actions[chunk])
        following = torch.from_numpy(data.frames[chunk + 1][:, columns])
        hope = judge.expect(observation, action)
        score, evidence = judge.score(observation, action, hope.deviation)
        shortfall.append(evidence - judge.score_of(observation, action, following)[1])
        logged_side.append((hope.spread, score))
        wish = limits.apply(models.actor(observation), observation)
        hope = judge.expect(observation, wish)
        policy_side.append((hope.spread, judge.score(observation, wish, hope.deviation)[0]))
    path = np.cumsum(np.append(True, np.diff(rows) != 1))
    whole = _column(shortfall)
    return tuple(  # type: ignore[return-value]
        Judged(whole, _column([s for s, _ in side]), _column([r for _, r in side]), path)
        for side in (policy_side, logged_side)
    )


def _judge_closed_loop(
    judge: Judge,
    models: Models,
    data: TransitionDataset,
    rows: npt.NDArray[np.int64],
    safety: SafetyConfig,
    generator: torch.Generator,
) -> Judged:
    """The policy in the learned model: exogenous and static tags as recorded, residuals drawn, limits applied."""
    layout, limits = data.layout, CommandLimits(data.spec)
    copies, columns = safety.closed_loop_copies, layout.state_columns
    shift = torch.from_numpy(layout.shift_index)
    low, high = (torch.from_numpy(end[columns]) for end in (layout.low, layout.high))
    usable = np.zeros(len(data) + 1, dtype=np.bool_)
    usable[rows] = True
    at = rows[torch.randint(len(rows), (copies,), generator=generator).numpy()]
    observation = torch.from_numpy(data.observations(at))
    alive = np.ones(copies, dtype=np.bool_)
    found: list[tuple[Floats, Floats, Floats, npt.NDArray[np.int64]]] = []
    for _ in range(safety.closed_loop_steps):
        alive &= usable[at]
        if not alive.any():
            break
        wish = limits.apply(models.actor(observation), observation)
        hope = judge.expect(observation, wish)
        draw = models.residuals[torch.randint(len(models.residuals), (copies,), generator=generator)]
        reached = torch.minimum(torch.maximum(judge.after(observation, hope.change) + draw, low), high)
        score, evidence = judge.score(observation, wish, hope.deviation)
        shortfall = evidence - judge.score_of(observation, wish, reached)[1]
        values = [column.squeeze(-1).double().numpy()[alive] for column in (shortfall, hope.spread, score)]
        found.append((values[0], values[1], values[2], np.flatnonzero(alive)))
        # A copy whose record has ended stays where it is; its values are no longer taken.
        at = np.where(alive, at + 1, at)
        frame = torch.from_numpy(data.frames[at].copy())
        frame[:, torch.from_numpy(columns)] = reached
        observation = torch.cat([frame, wish, observation], dim=-1)[:, shift]
    path = np.concatenate([copy for *_, copy in found])
    order = np.argsort(path, kind="stable")
    shortfalls, spreads, scores = (np.concatenate([step[i] for step in found])[order] for i in range(3))
    return Judged(shortfalls, spreads, scores, path[order])


def _extremes(part: Judged, mean: float, std: float, spread_drift: float, safety: SafetyConfig) -> dict[str, float]:
    """Largest standardised shortfall, moving average and cumulative sum on healthy paths, computed as in the graph."""
    z = (part.shortfall - mean) / std
    capped = np.clip(z, -safety.shortfall_cap, safety.shortfall_cap)
    ewma = cusum = highest_ewma = highest_cusum = 0.0
    before = part.path[0]
    familiar = part.spread <= spread_drift
    for value, path, summed in zip(capped.tolist(), part.path.tolist(), familiar.tolist(), strict=True):
        if path != before:
            ewma, cusum, before = 0.0, 0.0, path
        if not summed:
            continue
        ewma = (1.0 - safety.ewma_weight) * ewma + safety.ewma_weight * value
        cusum = max(0.0, cusum + value - safety.cusum_slack)
        highest_ewma, highest_cusum = max(highest_ewma, ewma), max(highest_cusum, cusum)
    return {"shortfall": max(float(z.max()), 0.0), "ewma": highest_ewma, "cusum": highest_cusum}


def _frozen(data: TransitionDataset, safety: SafetyConfig) -> dict[str, int | None]:
    """Repeats from which a state tag counts as frozen; `None` where the log itself repeats too often to tell."""
    within = data.episode[1:] == data.episode[:-1]
    limits: dict[str, int | None] = {}
    for tag, column in zip(data.layout.state_tags, data.layout.state_columns, strict=True):
        values = data.frames[:, column]
        same = within & (values[1:] == values[:-1])
        if same.mean() > safety.frozen_max_repeat_share:
            limits[tag] = None
            continue
        # Length of the run of repeats that ends at each row.
        index = np.arange(1, len(same) + 1)
        run = index - np.maximum.accumulate(np.where(same, 0, index))
        limits[tag] = max(safety.frozen_min_repeats, int(np.ceil(safety.frozen_factor * run.max(initial=0))))
    return limits


def _column(parts: list[torch.Tensor]) -> Floats:
    column: Floats = torch.cat(parts).squeeze(-1).double().numpy()
    return column


def _quantile(values: Floats, share: float) -> float:
    return float(np.quantile(values, share))
