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
from deploy.bundle.manifest import SHIFT, STRETCH
from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.export.checks import ObservedCheck, PredictedCheck
from deploy.export.fallback import FallbackStage, Situation
from deploy.export.judge import Judge
from deploy.export.lean import lean
from deploy.export.sensing import SensingStage
from deploy.export.slots import FLAGS, MAX_AGE_S, MAX_MAGNITUDE, history_needed, output_slots, state_layout
from deploy.export.stages import CommandStage, Notes, every, limited, number, take, within

# Share of a span by which a wish must be cut before a flag says so: a policy that is content with full power is not
# cut.
CUT = 1e-4


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

    needed: Tensor
    dt_longest: Tensor
    dt_instead: Tensor
    shift: Tensor
    next_index: Tensor
    slot_low: Tensor
    slot_high: Tensor

    def __init__(self, spec: PlantSpec, models: Models, thresholds: Thresholds, safety: SafetyConfig) -> None:
        super().__init__()
        layout = Layout.from_spec(spec)
        self.thresholds, self.safety, self.period = thresholds, safety, float(spec.period_s)
        self.needed_samples, self.needed_commands = history_needed(layout)
        self.state_layout = state_layout(spec, layout, safety)
        self.output_slots = output_slots(spec, layout, safety)
        self.flag_names = (*(name for name, _ in FLAGS), *(f"input_bad.{tag}" for tag in layout.frame_tags))
        self.actor = lean(copy.deepcopy(models.actor))
        self.judge = Judge(models)
        self.sensing = SensingStage(spec, layout, thresholds)
        self.commands = CommandStage(spec)
        self.fallback = FallbackStage(spec, models.behaviour, safety.blind_ramp_periods * spec.period_s)
        self.observed = ObservedCheck(thresholds, safety)
        self.predicted = PredictedCheck(spec, thresholds)
        # obs_next is [frame, predicted states] gathered: a state tag's column comes from the prediction.
        following = list(range(len(layout.frame_tags)))
        for position, column in enumerate(layout.state_columns.tolist()):
            following[column] = len(following) + position
        self.register_buffer("needed", torch.tensor([float(self.needed_samples), float(self.needed_commands)]))
        longest = (1.0 + safety.dt_tolerance) * self.period
        self.register_buffer("dt_longest", torch.tensor([self.period, longest, MAX_AGE_S]))
        self.register_buffer("dt_instead", torch.tensor([self.period, self.period, MAX_AGE_S]))
        self.register_buffer("shift", torch.from_numpy(layout.shift_index))
        self.register_buffer("next_index", torch.tensor(following))
        self.register_buffer("slot_low", torch.from_numpy(self.state_layout.low))
        self.register_buffer("slot_high", torch.from_numpy(self.state_layout.high))
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
        return self._run(GraphInputs(obs, obs_ok, obs_age, act_prev, enable, dt, state_in), Notes())

    def with_margins(self, inputs: GraphInputs) -> tuple[GraphOutputs, Tensor]:
        """The outputs, and the smallest relative distance (B,) of anything computed to the threshold it is checked by.

        Comparisons of inputs as they are (ranges, ages, counts) are exact and the same in every runtime; only those of
        computed values can fall differently.
        """
        notes = Notes()
        outputs = self._run(inputs, notes)
        smallest: Tensor = torch.cat([m.expand(len(inputs.obs), -1) for m in notes.margins], dim=-1).amin(dim=-1)
        return outputs, smallest

    def _run(self, x: GraphInputs, notes: Notes) -> GraphOutputs:
        ok, s, c = notes.ok, self.safety, self.commands

        # State: ours, or a cold start.
        state_ok = every(within(x.state_in, self.slot_low, self.slot_high))  # (B, 1)
        state = torch.where(state_ok, x.state_in, torch.zeros_like(x.state_in))
        groups = self.state_layout.groups
        part = dict(zip(groups, state.split([b - a for a, b in groups.values()], dim=-1), strict=True))
        last = part["observation"]  # (B, O)
        ok["state_invalid"] = state_ok

        # Time: what is safe to assume where dt is no time.
        shortest, longest = (1.0 - s.dt_tolerance) * self.period, (1.0 + s.dt_tolerance) * self.period
        dt_ok = within(x.dt, shortest, longest)
        # For the rate limit, for the fallback, and by which ages grow.
        times = torch.where(within(x.dt, 0.0, self.dt_longest), x.dt, self.dt_instead)
        dt_rate, dt_control, dt_age = times.split(1, dim=-1)
        ok["timing_bad"] = dt_ok

        # Samples.
        sensed = self.sensing(x.obs, x.obs_ok, x.obs_age, last[..., : x.obs.shape[-1]], part, dt_age, notes)
        all_usable = ok["input_unusable"]

        # Reference: the command in force, else the last one issued, else the safe value.
        echo_ok = every(within(x.act_prev, c.low, c.high))
        issued_ok = every(within(part["command"], c.low, c.high)) & (part["command_known"] >= 0.5)
        safe = self.fallback.safe.expand_as(x.act_prev)
        reference = torch.where(echo_ok, x.act_prev, torch.where(issued_ok, part["command"], safe))
        low, high = c.window(reference, dt_rate)  # (B, m) rate limit and absolute limits in one
        ok["reference_invalid"], ok["reference_safe"] = echo_ok, echo_ok | issued_ok

        # Observation: this frame, then the last observation moved on by one sample.
        observation = take(torch.cat([sensed.frame, reference, last], dim=-1), self.shift)  # (B, O)
        unbroken = torch.where(dt_ok, torch.cat([part["samples"], part["commands"]], dim=-1), 0.0) + 1.0  # (B, 2)
        usable = torch.cat([all_usable, echo_ok], dim=-1)
        counts = torch.where(usable, limited(unbroken, 0.0, self.needed), 0.0)
        full = every(counts >= self.needed)
        # The counts are bounded, so that this one negation lets no NaN pass.
        filling = number(full) < 0.5
        samples, commands = counts.split(1, dim=-1)
        ok["history_filling"] = full

        # Policy and fallback, each inside rate and limits.
        raw = self.actor(observation)
        wish_ok = every(within(raw, -MAX_MAGNITUDE, MAX_MAGNITUDE))
        wish = torch.where(wish_ok, raw, reference)
        fb = self.fallback(
            Situation(sensed.frame, sensed.usable, observation, full, reference, dt_control),
            part["error"],
            part["error_known"] >= 0.5,
        )
        policy, fallback = limited(wish, low, high), limited(fb.wish, low, high)
        ok["fallback_blind"] = every(fb.sighted)

        # Observed transition (first rows) and predicted one (last rows) in one pass through each network.
        batch, seen = x.obs.shape[0], take(sensed.frame, self.sensing.state_columns)  # (B, S)
        observations, actions = torch.cat([last, observation]), torch.cat([reference, policy])
        expected, spreads = self.judge.expect(observations, actions)  # (2B, S), (2B, 1)
        scores, evidence = self.judge.score(
            torch.cat([observations, last]), torch.cat([actions, reference]), torch.cat([expected, seen])
        )  # (3B, 1), (3B, 1)
        hoped_for, predicted = expected.split(batch)
        doubt, spread = spreads.split(batch)
        _, score_predicted, score_observed = scores.split(batch)
        hoped, _, found = evidence.split(batch)  # for what was expected, and for what was observed
        judged = [hoped_for, predicted, spread, hoped, found, score_predicted, score_observed]
        if fb.cloned is not None:
            judged.append(fb.cloned)
        model_ok = wish_ok & every(within(torch.cat(judged, dim=-1), -MAX_MAGNITUDE, MAX_MAGNITUDE))
        scorable = (part["full"] >= 0.5) & sensed.current & echo_ok & dt_ok & model_ok
        sizes = (expected.abs() / self.judge.dynamics.change_scaler.spread).amax(dim=-1, keepdim=True)  # (2B, 1)
        happened = self.observed(hoped, found, doubt, scorable, part, sizes[:batch], notes)
        coming = self.predicted(predicted, spread, score_predicted, filling, sizes[batch:], notes)
        ok["model_invalid"] = model_ok

        # Trust: nothing at once, back slowly.
        enabled = within(x.enable, 0.5, 1.5)
        may = enabled & state_ok & dt_ok & all_usable & echo_ok & full & model_ok & happened.likely & coming.inside
        climbing = part["trust"] + 1.0 / s.recovery_periods
        trust = torch.where(
            may, limited(torch.where(climbing <= coming.ceiling, climbing, coming.ceiling), 0.0, 1.0), 0.0
        )
        ok["disabled"] = enabled
        ok["blending"], ok["fallback_active"] = (trust <= 0.0) | (trust >= 1.0), trust > 0.0

        # Blend, rate limit about the reference, absolute clamp last.
        shared = fallback + trust * (policy - fallback)
        blend = torch.where(trust >= 1.0, policy, torch.where(trust <= 0.0, fallback, shared))
        blend = torch.where(within(blend, c.low, c.high), blend, reference)
        action = c.clamp(limited(blend, low, high))
        self._note_cuts(wish, fb.wish, action, trust, low, high, notes)

        foreseen = full & model_ok
        return GraphOutputs(
            action=action,
            action_policy=torch.where(full, policy, fallback),
            action_fallback=fallback,
            score_observed=torch.where(scorable, score_observed, 0.0),
            score_predicted=torch.where(foreseen, score_predicted, 0.0),
            spread=torch.where(foreseen, spread, 0.0),
            obs_next=take(torch.cat([sensed.frame, torch.where(foreseen, predicted, seen)], dim=-1), self.next_index),
            flags=1.0 - number(torch.cat([*(ok[name] for name, _ in FLAGS), sensed.fresh], dim=-1)),
            state_out=self._state(
                observation=observation,
                samples=samples,
                commands=commands,
                full=number(full),
                known=number(sensed.known),
                age=sensed.age,
                repeats=sensed.repeats,
                command=action,
                command_known=torch.ones_like(x.dt),
                error=fb.error,
                error_known=number(fb.error_known),
                trust=trust,
                ewma=happened.ewma,
                cusum=happened.cusum,
                shortfall=happened.shortfall,
                shortfall_shift=part[SHIFT],
                shortfall_stretch=part[STRETCH],
            ),
        )

    def _state(self, **groups: Tensor) -> Tensor:
        """The groups of the state in their order: (B, S)."""
        return torch.cat([groups[name] for name in self.state_layout.groups], dim=-1)

    def _note_cuts(
        self,
        wish: Tensor,
        fallback_wish: Tensor,
        action: Tensor,
        trust: Tensor,
        low: Tensor,
        high: Tensor,
        notes: Notes,
    ) -> None:
        """Flags wishes that had a part in the action: beyond the absolute limits, or inside these but out of reach."""
        c, slack = self.commands, CUT * self.commands.span
        counting = (torch.where(trust > 0.0, wish, action), torch.where(trust < 1.0, fallback_wish, action))
        # Both wishes side by side: half the operators.
        part = torch.cat(counting, dim=-1)  # (B, 2m)
        lowest, highest = _twice(c.low), _twice(c.high)
        reached = limited(part, lowest, highest)
        notes.ok["clamped"] = every(within(part, _twice(c.low - slack), _twice(c.high + slack)))
        notes.ok["rate_limited"] = every(within(reached, _twice(low - slack), _twice(high + slack)))
        for value in (wish, fallback_wish):
            for wanted, ends in ((value, (c.low, c.high)), (c.clamp(value), (low, high))):
                bounds = (ends[0] - slack, ends[1] + slack)
                notes.margins += [(wanted - bound).abs() / c.span for bound in bounds]


def _twice(x: Tensor) -> Tensor:
    """(..., m) -> (..., 2m)."""
    return torch.cat([x, x], dim=-1)
