"""The controller graph once more, slowly and obviously: one step at a time, tag by tag, in double precision.

History is kept as lists of everything that ever happened, nothing is shifted; the networks are asked one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch

from controlkit.artifacts import Models
from controlkit.layout import Layout
from controlkit.spec import OperatorFallback, PIFallback, PlantSpec, RampFallback
from deploy.bundle.safety import SafetyConfig, Thresholds


@dataclass
class SlowStep:
    action: list[float]
    policy: list[float]
    fallback: list[float]
    trust: float
    ewma: float
    cusum: float
    shortfall: float
    score_observed: float
    score_predicted: float
    spread: float
    raised: set[str]


@dataclass
class _Moment:
    frame: list[float]
    usable: bool
    steady: bool
    reference: list[float]
    echoed: bool


@dataclass
class SlowController:
    spec: PlantSpec
    models: Models
    thresholds: Thresholds
    safety: SafetyConfig
    past: list[_Moment] = field(default_factory=list)
    good: dict[str, tuple[float, float]] = field(default_factory=dict)  # tag -> last good value, its age now
    repeats: dict[str, int] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    issued: list[float] | None = None
    trust: float = 0.0
    ewma: float = 0.0
    cusum: float = 0.0
    shift: float = 0.0
    stretch: float = 0.0

    def step(
        self,
        obs: list[float],
        ok: list[float],
        age: list[float],
        act_prev: list[float],
        enable: float,
        dt: float,
    ) -> SlowStep:
        spec, t, s = self.spec, self.thresholds, self.safety
        layout, period = Layout.from_spec(spec), spec.period_s
        raised: set[str] = set()
        steady = (1 - s.dt_tolerance) * period <= dt <= (1 + s.dt_tolerance) * period
        if not steady:
            raised.add("timing_bad")
        dt_rate = dt if 0 <= dt <= period else period
        dt_control = dt if 0 <= dt <= (1 + s.dt_tolerance) * period else period
        dt_age = dt if 0 <= dt <= 1e9 else 1e9

        # Samples
        frame, usable, fresh = [], {}, {}
        for i, tag in enumerate(spec.frame_tags):
            low, high = spec.tags[tag].range
            quality, inside = ok[i] == 1.0, low <= obs[i] <= high
            young = 0 <= age[i] <= spec.max_age_s(tag)
            raised |= {f"input_bad_{n}" for n, g in (("quality", quality), ("range", inside), ("age", young)) if not g}
            fresh[tag] = quality and inside and young
            before = self.good.get(tag)
            if fresh[tag]:
                if tag in spec.state_tags:
                    same = before is not None and before[0] == obs[i]
                    self.repeats[tag] = self.repeats.get(tag, 0) + 1 if same else 0
                self.good[tag] = (obs[i], age[i])
            else:
                raised.add(f"input_bad.{tag}")
                if before is not None:
                    self.good[tag] = (before[0], before[1] + dt_age)
            value, seconds = self.good.get(tag, (0.0, math.inf))
            limit = t.frozen_repeats.get(tag)
            frozen = limit is not None and self.repeats.get(tag, 0) >= limit
            if frozen:
                raised.add("input_frozen")
            usable[tag] = seconds <= spec.max_age_s(tag) * 1.0001 and not frozen
            frame.append(value)
        all_usable = all(usable.values())
        if not all_usable:
            raised.add("input_unusable")

        # Reference
        limits = [spec.limits(tag) for tag in spec.action_tags]
        echoed = all(low <= a <= high for a, (low, high) in zip(act_prev, limits, strict=True))
        if echoed:
            reference = list(act_prev)
        elif self.issued is not None:
            reference = list(self.issued)
            raised.add("reference_invalid")
        else:
            reference = [float(spec.tags[tag].safe or 0.0) for tag in spec.action_tags]
            raised |= {"reference_invalid", "reference_safe"}

        # Observation, straight from what happened
        previous = self._observation(layout)
        was_full = self._full(layout)
        self.past.append(_Moment(frame, all_usable, steady, reference, echoed))
        observation, full = self._observation(layout), self._full(layout)
        if not full:
            raised.add("history_filling")

        # Policy and fallback
        wish = self.models.actor(_row(observation))[0].tolist()
        wants, blind = [], False
        for i, tag in enumerate(spec.action_tags):
            fallback = spec.tags[tag].fallback
            if isinstance(fallback, PIFallback):
                tags = [fallback.measured] + ([fallback.setpoint] if isinstance(fallback.setpoint, str) else [])
                values = dict(zip(spec.frame_tags, frame, strict=True))
                setpoint = values[fallback.setpoint] if isinstance(fallback.setpoint, str) else fallback.setpoint
                error = values[fallback.measured] - setpoint
                if all(usable[name] for name in tags):
                    change = error - self.errors[tag] if tag in self.errors else 0.0
                    wants.append(reference[i] + fallback.gain * (change + error * dt_control / fallback.reset_time_s))
                    self.errors[tag] = error
                else:
                    blind = True
                    span = limits[i][1] - limits[i][0]
                    rate = span / (s.blind_ramp_periods * period)
                    wants.append(_towards(reference[i], float(spec.tags[tag].safe or 0), rate * dt_control))
                    self.errors.pop(tag, None)
            elif isinstance(fallback, RampFallback):
                rate = fallback.rate_per_s or spec.tags[tag].max_rate_per_s or 0.0
                wants.append(_towards(reference[i], float(spec.tags[tag].safe or 0), rate * dt_control))
            elif isinstance(fallback, OperatorFallback):
                blind |= not full
                wants.append(self.models.behaviour(_row(observation))[0, i].item() if full else reference[i])
            else:
                wants.append(reference[i])
        if blind:
            raised.add("fallback_blind")
        policy, fallback_command = (self._limited(x, reference, dt_rate) for x in (wish, wants))

        # Transitions
        elites = self.models.dynamics
        seen = [frame[i] for i in layout.state_columns]
        expected, doubt = self._expect(previous, reference)
        predicted, spread = self._expect(observation, policy)
        score_observed = float(self.models.reward(_row(previous), _row(reference), _row(seen))[0])
        score_predicted = float(self.models.reward(_row(observation), _row(policy), _row(predicted))[0])
        missing = self._evidence(previous, reference, expected) - self._evidence(previous, reference, seen)
        assert elites.members >= len(elites.elites)
        state_tags = layout.state_tags
        moving = all((limit := t.frozen_repeats[tag]) is None or self.repeats.get(tag, 0) < limit for tag in state_tags)
        scorable = was_full and all(fresh[tag] for tag in state_tags) and moving and echoed and steady
        shortfall = reported = 0.0
        if scorable:
            reported = (missing - t.shortfall_mean) / t.shortfall_std
            mean = t.shortfall_mean + self.shift * t.shortfall_std
            shortfall = (missing - mean) / (t.shortfall_std * (1 + self.stretch))
            capped = min(max(shortfall, -s.shortfall_cap), s.shortfall_cap)
            if doubt <= t.spread_drift:
                self.ewma += s.ewma_weight * (capped - self.ewma)
                self.cusum = min(max(self.cusum + capped - s.cusum_slack, 0.0), 2 * t.cusum_limit)
            else:
                raised.add("observed_unfamiliar")
        else:
            raised.add("observed_unscored")
        if shortfall > t.shortfall_limit:
            raised.add("score_observed_low")
        if self.ewma > t.ewma_limit:
            raised.add("ewma_high")
        if self.cusum > t.cusum_limit:
            raised.add("cusum_high")
        if full:
            if spread > t.spread_soft:
                raised.add("spread_high")
            if score_predicted < t.score_soft:
                raised.add("score_predicted_low")
            bounds = [spec.limits(tag) for tag in state_tags]
            if not all(low <= x <= high for x, (low, high) in zip(predicted, bounds, strict=True)):
                raised.add("predicted_limit")
        if enable != 1.0:
            raised.add("disabled")

        # Trust and blend
        cuts = {
            "disabled",
            "timing_bad",
            "input_unusable",
            "reference_invalid",
            "history_filling",
            "score_observed_low",
        }
        cuts |= {"ewma_high", "cusum_high", "predicted_limit"}
        near = (t.spread_stop - spread) / (t.spread_stop - t.spread_soft)
        familiar = (score_predicted - t.score_stop) / (t.score_soft - t.score_stop)
        ceiling = min(max(min(near, familiar), 0.0), 1.0)
        self.trust = 0.0 if raised & cuts else min(round(self.trust + 1.0 / s.recovery_periods, 9), ceiling)
        mixed = [f + self.trust * (p - f) for p, f in zip(policy, fallback_command, strict=True)]
        action = self._limited(mixed, reference, dt_rate)
        parts = ([wish] if self.trust > 0 else []) + ([wants] if self.trust < 1 else [])
        for wanted in parts:
            inside = [min(max(w, low), high) for w, (low, high) in zip(wanted, limits, strict=True)]
            spans = [1e-4 * (high - low) for low, high in limits]
            if any(abs(a - b) > least for a, b, least in zip(wanted, inside, spans, strict=True)):
                raised.add("clamped")
            reached = self._limited(inside, reference, dt_rate)
            if any(abs(a - b) > least for a, b, least in zip(inside, reached, spans, strict=True)):
                raised.add("rate_limited")
        if 0 < self.trust < 1:
            raised.add("blending")
        if self.trust == 0:
            raised.add("fallback_active")
        self.issued = action
        return SlowStep(
            action=action,
            policy=policy if full else fallback_command,
            fallback=fallback_command,
            trust=self.trust,
            ewma=self.ewma,
            cusum=self.cusum,
            shortfall=reported,
            score_observed=score_observed if scorable else 0.0,
            score_predicted=score_predicted if full else 0.0,
            spread=spread if full else 0.0,
            raised=raised,
        )

    def _observation(self, layout: Layout) -> list[float]:
        values = []
        for slot in layout.slots:
            back = slot.lag + 1 if slot.source == "frame" else slot.lag
            if back > len(self.past):
                values.append(0.0)
                continue
            moment = self.past[-back]
            values.append((moment.frame if slot.source == "frame" else moment.reference)[slot.column])
        return values

    def _full(self, layout: Layout) -> bool:
        frames = max(1, *(slot.lag for slot in layout.slots if slot.source == "frame")) + 1
        commands = max([1, *(slot.lag for slot in layout.slots if slot.source == "action")])
        return self._unbroken("usable") >= frames and self._unbroken("echoed") >= commands

    def _unbroken(self, what: str) -> int:
        count = 0
        for moment in reversed(self.past):
            if not getattr(moment, what):
                break
            count += 1
            if not moment.steady:
                break
        return count

    def _limited(self, wish: list[float], reference: list[float], dt: float) -> list[float]:
        result = []
        for value, before, tag in zip(wish, reference, self.spec.action_tags, strict=True):
            rate = self.spec.tags[tag].max_rate_per_s
            if rate is not None:
                value = min(max(value, before - rate * dt), before + rate * dt)
            low, high = self.spec.limits(tag)
            result.append(min(max(value, low), high))
        return result

    def _evidence(self, observation: list[float], action: list[float], state: list[float]) -> float:
        reward = self.models.reward
        slots = reward.state_slots.tolist()
        change = reward.change_scaler(_row(state) - _row([observation[i] for i in slots]))
        logits = reward.logits(_row(observation), _row(action), change)[:, 0].tolist()
        # Odds beyond exp(20) are not told apart.
        bounded = [min(max(x, -20.0), 20.0) for x in logits]
        real = sum(1 / (1 + math.exp(-x)) for x in bounded)
        false = sum(1 / (1 + math.exp(x)) for x in bounded)
        return math.log(real) - math.log(false)

    def _expect(self, observation: list[float], action: list[float]) -> tuple[list[float], float]:
        means, _ = self.models.dynamics(_row(observation), _row(action))
        return means.mean(dim=0)[0].tolist(), float(self.models.dynamics.spread(means)[0])


def _towards(value: float, target: float, step: float) -> float:
    return min(max(target, value - step), value + step)


def _row(values: list[float]) -> torch.Tensor:
    return torch.from_numpy(np.array([values], dtype=np.float32))
