"""The controller graph: policy and safety in one module, from raw tags to a command that is always safe.

A step goes through the stages in the order of `_run`. Batches are allowed here (the gates compare many steps at once);
the exported graph has a batch of one. Every quantity is in engineering units, every flag 0 or 1.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from controlkit.artifacts import Models
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.export.judge import Judge
from deploy.export.slots import FLAGS, MAX_AGE_S, MAX_COUNT, MAX_MAGNITUDE, MAX_SHORTFALL, history_needed, state_layout
from deploy.export.stages import CommandStage, FallbackStage, every, limited, number, take, within

# A held sample's age is a float32 sum of periods: a relative slack keeps it equal to the age that ingest computes.
AGE_SLACK = 1e-4


class GraphInputs(NamedTuple):
    """The ports that go in, (B, size) each; `deploy.bundle.manifest.INPUTS` in order."""

    obs: Tensor
    obs_ok: Tensor
    obs_age: Tensor
    act_prev: Tensor
    enable: Tensor
    dt: Tensor
    state_in: Tensor


class GraphOutputs(NamedTuple):
    """The ports that come out, (B, size) each; `deploy.bundle.manifest.OUTPUTS` in order."""

    action: Tensor
    action_policy: Tensor
    action_fallback: Tensor
    score_observed: Tensor
    score_predicted: Tensor
    spread: Tensor
    obs_next: Tensor
    flags: Tensor
    state_out: Tensor


class ControllerGraph(nn.Module):
    """See the module.

    Args:
        spec: the plant.
        models: the run's networks.
        thresholds: calibrated.
        safety: chosen.
    """

    frame_low: Tensor
    frame_high: Tensor
    max_age: Tensor
    frozen_limit: Tensor
    frozen_column: Tensor
    shift: Tensor
    next_index: Tensor
    state_columns: Tensor
    state_limit_low: Tensor
    state_limit_high: Tensor
    slot_low: Tensor
    slot_high: Tensor

    def __init__(self, spec: PlantSpec, models: Models, thresholds: Thresholds, safety: SafetyConfig) -> None:
        super().__init__()
        layout = Layout.from_spec(spec)
        self.thresholds, self.safety = thresholds, safety
        self.period = float(spec.period_s)
        self.actor = copy.deepcopy(models.actor)
        self.judge = Judge(models)
        self.commands = CommandStage(spec)
        self.fallback = FallbackStage(spec, safety.blind_ramp_periods * spec.period_s)
        self.needed_samples, self.needed_commands = history_needed(layout)
        self.state_layout = state_layout(spec, layout)
        n, tags = len(layout.frame_tags), layout.frame_tags
        ranges = torch.tensor([spec.tags[tag].range for tag in tags], dtype=torch.float32)
        ages = [min(spec.max_age_s(tag) * (1.0 + AGE_SLACK), MAX_AGE_S / 2) for tag in tags]
        frozen = [thresholds.frozen_repeats[tag] for tag in layout.state_tags]
        bounds = torch.tensor([spec.limits(tag) for tag in layout.state_tags], dtype=torch.float32)
        # obs_next is [frame, predicted states] gathered: a state tag's column comes from the prediction.
        following = list(range(n))
        for position, column in enumerate(layout.state_columns.tolist()):
            following[column] = n + position
        self.register_buffer("frame_low", ranges[:, 0].contiguous())
        self.register_buffer("frame_high", ranges[:, 1].contiguous())
        self.register_buffer("max_age", torch.tensor(ages))
        # Never reached where the rule is off, as the count stops before.
        self.register_buffer("frozen_limit", torch.tensor([2 * MAX_COUNT if f is None else float(f) for f in frozen]))
        self.register_buffer("frozen_column", torch.tensor(_positions(layout)))
        self.register_buffer("shift", torch.from_numpy(layout.shift_index))
        self.register_buffer("next_index", torch.tensor(following))
        self.register_buffer("state_columns", torch.from_numpy(layout.state_columns))
        self.register_buffer("state_limit_low", bounds[:, 0].contiguous())
        self.register_buffer("state_limit_high", bounds[:, 1].contiguous())
        self.register_buffer("slot_low", torch.from_numpy(self.state_layout.low))
        self.register_buffer("slot_high", torch.from_numpy(self.state_layout.high))
        self.flag_names = (*(name for name, _ in FLAGS), *(f"input_bad.{tag}" for tag in tags))
        self.eval().requires_grad_(False)

    def forward(
        self,
        obs: Tensor,
        obs_ok: Tensor,
        obs_age: Tensor,
        act_prev: Tensor,
        enable: Tensor,
        dt: Tensor,
        state_in: Tensor,
    ) -> GraphOutputs:
        """One step of the controller; shapes are (B, size of the port)."""
        return self._run(GraphInputs(obs, obs_ok, obs_age, act_prev, enable, dt, state_in))[0]

    def with_margins(self, inputs: GraphInputs) -> tuple[GraphOutputs, Tensor]:
        """The outputs, and the smallest relative distance (B,) of anything computed to the threshold it is checked by.

        Comparisons of inputs as they are (ranges, ages, counts) are exact and the same in every runtime; only those of
        computed values can fall differently.
        """
        outputs, margins = self._run(inputs)
        smallest: Tensor = torch.cat([m.expand(len(inputs.obs), -1) for m in margins], dim=-1).amin(dim=-1)
        return outputs, smallest

    def _run(self, x: GraphInputs) -> tuple[GraphOutputs, list[Tensor]]:
        t, s = self.thresholds, self.safety
        ok: dict[str, Tensor] = {}  # a flag is raised where its condition is not ok
        margins: list[Tensor] = []

        # State: ours, or a cold start.
        state_ok = every(within(x.state_in, self.slot_low, self.slot_high))  # (B, 1)
        state = torch.where(state_ok, x.state_in, torch.zeros_like(x.state_in))
        part = {name: state[..., a:b] for name, (a, b) in self.state_layout.groups.items()}
        last = part["observation"]  # (B, O)
        ok["state_invalid"] = state_ok

        # Time: what is safe to assume where dt is no time.
        dt_ok = within(x.dt, (1.0 - s.dt_tolerance) * self.period, (1.0 + s.dt_tolerance) * self.period)
        period = torch.full_like(x.dt, self.period)
        dt_rate = torch.where(within(x.dt, 0.0, self.period), x.dt, period)
        dt_control = torch.where(within(x.dt, 0.0, (1.0 + s.dt_tolerance) * self.period), x.dt, period)
        dt_age = torch.where(within(x.dt, 0.0, MAX_AGE_S), x.dt, torch.full_like(x.dt, MAX_AGE_S))
        ok["timing_bad"] = dt_ok

        # Samples: range, quality, age; a missing one is held while it is young enough; then the frozen rule.
        quality_ok = within(x.obs_ok, 0.5, 1.5)  # (B, n)
        range_ok = within(x.obs, self.frame_low, self.frame_high)
        age_ok = within(x.obs_age, 0.0, self.max_age)
        fresh = quality_ok & range_ok & age_ok
        known_before = part["known"] >= 0.5
        held = last[..., : x.obs.shape[-1]]
        frame = torch.where(fresh, x.obs, held)  # (B, n)
        age = torch.where(fresh, x.obs_age, limited(part["age"] + dt_age, 0.0, MAX_AGE_S))
        known = fresh | known_before
        repeated = known_before & (x.obs == held)
        columns = self.state_columns
        again = torch.where(take(repeated, columns), limited(part["repeats"] + 1.0, 0.0, MAX_COUNT), 0.0)
        repeats = torch.where(take(fresh, columns), again, part["repeats"])  # (B, S)
        moving = repeats < self.frozen_limit
        # One column more, always True, for the tags that the frozen rule does not concern.
        moving_all = take(torch.cat([moving, torch.ones_like(moving[..., :1])], dim=-1), self.frozen_column)
        usable = known & (age <= self.max_age) & moving_all  # (B, n)
        all_usable = every(usable)
        for name, good in (("quality", quality_ok), ("range", range_ok), ("age", age_ok)):
            ok[f"input_bad_{name}"] = every(good)
        ok["input_frozen"] = every(moving)
        ok["input_unusable"] = all_usable

        # Reference: the command in force, else the last one issued, else the safe value.
        c = self.commands
        echo_ok = every(within(x.act_prev, c.low, c.high))
        issued_ok = every(within(part["command"], c.low, c.high)) & (part["command_known"] >= 0.5)
        safe = self.fallback.safe.expand_as(x.act_prev)
        reference = torch.where(echo_ok, x.act_prev, torch.where(issued_ok, part["command"], safe))
        ok["reference_invalid"] = echo_ok
        ok["reference_safe"] = echo_ok | issued_ok
        low, high = c.window(reference, dt_rate)  # (B, m) rate limit and absolute limits in one

        # Observation: this frame, then the last observation moved on by one sample.
        observation = take(torch.cat([frame, reference, last], dim=-1), self.shift)  # (B, O)
        unbroken = torch.where(dt_ok, torch.cat([part["samples"], part["commands"]], dim=-1), 0.0) + 1.0  # (B, 2)
        samples = torch.where(all_usable, limited(unbroken[..., :1], 0.0, self.needed_samples), 0.0)
        commands = torch.where(echo_ok, limited(unbroken[..., 1:], 0.0, self.needed_commands), 0.0)
        full = (samples >= self.needed_samples) & (commands >= self.needed_commands)
        # The counts are bounded, so that this one negation lets no NaN pass.
        filling = (samples < self.needed_samples) | (commands < self.needed_commands)
        ok["history_filling"] = full

        # Policy and fallback, each inside rate and limits.
        raw = self.actor(observation)
        wish_ok = every(within(raw, -MAX_MAGNITUDE, MAX_MAGNITUDE))
        wish = torch.where(wish_ok, raw, reference)
        policy = limited(wish, low, high)
        fb = self.fallback(frame, usable, reference, part["error"], part["error_known"] >= 0.5, dt_control)
        fallback = limited(fb.wish, low, high)
        ok["fallback_blind"] = every(fb.sighted)

        # Observed transition (first rows) and predicted one (last rows) in one pass through each network.
        batch = x.obs.shape[0]
        seen = take(frame, columns)  # (B, S)
        observations, actions = torch.cat([last, observation]), torch.cat([reference, policy])
        expected, spreads = self.judge.expect(observations, actions)  # (2B, S), (2B, 1)
        scores, evidence = self.judge.score(
            torch.cat([observations, last]), torch.cat([actions, reference]), torch.cat([expected, seen])
        )  # (3B, 1), (3B, 1)
        predicted, spread = expected[batch:], spreads[batch:]
        score_predicted, score_observed = scores[batch : 2 * batch], scores[2 * batch :]
        missing = evidence[:batch] - evidence[2 * batch :]  # of the observed transition, against what was expected
        finite = torch.cat(
            [expected[:batch], predicted, spread, scores[:batch], score_predicted, score_observed], dim=-1
        )
        model_ok = wish_ok & every(within(finite, -MAX_MAGNITUDE, MAX_MAGNITUDE))
        ok["model_invalid"] = model_ok

        scorable = (part["full"] >= 0.5) & every(take(fresh, columns) & moving) & echo_ok & dt_ok & model_ok
        shortfall = (missing - t.shortfall_mean) / t.shortfall_std
        shortfall = torch.where(scorable, shortfall, 0.0)
        capped = limited(shortfall, -s.shortfall_cap, s.shortfall_cap)
        ewma_next = (1.0 - s.ewma_weight) * part["ewma"] + s.ewma_weight * capped
        # A sum far beyond its limit would take long to come down once the plant is healthy again: it stops at twice
        # that.
        cusum_next = limited(part["cusum"] + capped - s.cusum_slack, 0.0, 2.0 * t.cusum_limit)
        ewma = torch.where(scorable, limited(ewma_next, -MAX_SHORTFALL, MAX_SHORTFALL), part["ewma"])
        cusum = torch.where(scorable, cusum_next, part["cusum"])
        likely, mean_ok, sum_ok = shortfall <= t.shortfall_limit, ewma <= t.ewma_limit, cusum <= t.cusum_limit
        ok["observed_unscored"] = scorable
        ok["score_observed_low"] = likely
        ok["ewma_high"], ok["cusum_high"] = mean_ok, sum_ok
        margins += [
            _margin(shortfall, t.shortfall_limit),
            _margin(ewma, t.ewma_limit),
            _margin(cusum, t.cusum_limit),
        ]

        # Predicted transition: limits cut, unfamiliar ground scales.
        limit_ok = filling | every(within(predicted, self.state_limit_low, self.state_limit_high))
        near = _ramp_down(spread, t.spread_soft, t.spread_stop)
        familiar = _ramp_down(-score_predicted, -t.score_soft, -t.score_stop)
        ok["predicted_limit"] = limit_ok
        ok["spread_high"] = filling | (spread <= t.spread_soft)
        ok["score_predicted_low"] = filling | (score_predicted >= t.score_soft)
        limit_span = self.state_limit_high - self.state_limit_low
        margins += [_margin(spread, t.spread_soft), _margin(spread, t.spread_stop)]
        margins += [_margin(score_predicted, t.score_soft), _margin(score_predicted, t.score_stop)]
        margins += [(predicted - e).abs() / limit_span for e in (self.state_limit_low, self.state_limit_high)]

        # Trust: nothing at once, back slowly.
        enabled = within(x.enable, 0.5, 1.5)
        ok["disabled"] = enabled
        may = enabled & state_ok & dt_ok & all_usable & echo_ok & full & model_ok
        may = may & likely & mean_ok & sum_ok & limit_ok
        climbing = part["trust"] + 1.0 / s.recovery_periods
        ceiling = torch.where(near <= familiar, near, familiar)
        trust = torch.where(may, limited(torch.where(climbing <= ceiling, climbing, ceiling), 0.0, 1.0), 0.0)

        # Blend, rate limit about the reference, absolute clamp last.
        shared = fallback + trust * (policy - fallback)
        blend = torch.where(trust >= 1.0, policy, torch.where(trust <= 0.0, fallback, shared))
        blend = torch.where(within(blend, c.low, c.high), blend, reference)
        action = c.clamp(limited(blend, low, high))

        # Wishes that have a part in the action: beyond the absolute limits, or inside these but out of reach.
        wishes = torch.cat([torch.where(trust > 0.0, wish, action), torch.where(trust < 1.0, fb.wish, action)], dim=-1)
        absolute = limited(wishes, c.low.repeat(2), c.high.repeat(2))
        ok["clamped"] = every(wishes == absolute)
        ok["rate_limited"] = every(within(absolute, torch.cat([low, low], dim=-1), torch.cat([high, high], dim=-1)))
        for wanted in (wish, fb.wish):
            reached = c.clamp(wanted)
            margins += [(wanted - end).abs() / c.span for end in (c.low, c.high)]
            # Where the window ends at an absolute limit, the clamp above decides and this comparison is exact.
            margins += [
                torch.where(end == limit, 1.0, (reached - end).abs() / c.span)
                for end, limit in ((low, c.low), (high, c.high))
            ]
        ok["blending"] = (trust <= 0.0) | (trust >= 1.0)
        ok["fallback_active"] = trust > 0.0

        shown = torch.where(full, policy, fallback)
        predicted_next = torch.where(full & model_ok, predicted, seen)
        outputs = GraphOutputs(
            action=action,
            action_policy=shown,
            action_fallback=fallback,
            score_observed=torch.where(scorable, score_observed, 0.0),
            score_predicted=torch.where(full & model_ok, score_predicted, 0.0),
            spread=torch.where(full & model_ok, spread, 0.0),
            obs_next=take(torch.cat([frame, predicted_next], dim=-1), self.next_index),
            flags=torch.where(torch.cat([*(ok[name] for name, _ in FLAGS), fresh], dim=-1), 0.0, 1.0),
            state_out=torch.cat(
                [
                    observation,
                    samples,
                    commands,
                    number(full),
                    number(known),
                    age,
                    repeats,
                    action,
                    torch.ones_like(x.dt),
                    fb.error,
                    number(fb.error_known),
                    trust,
                    ewma,
                    cusum,
                ],
                dim=-1,
            ),
        )
        return outputs, margins


def _positions(layout: Layout) -> list[int]:
    """For each frame tag its position among the state tags, or one past the last."""
    return [
        layout.state_tags.index(tag) if tag in layout.state_tags else len(layout.state_tags)
        for tag in layout.frame_tags
    ]


def _ramp_down(x: Tensor, soft: float, stop: float) -> Tensor:
    """1 up to `soft`, 0 from `stop` on, a line between; NaN gives 0."""
    width = max(stop - soft, 1e-9)
    return limited((stop - x) / width, 0.0, 1.0)


def _margin(x: Tensor, threshold: float) -> Tensor:
    return (x - threshold).abs() / max(abs(threshold), 1e-6)
