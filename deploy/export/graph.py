"""The controller graph: policy and safety in one module, from raw tags to a command that is always safe.

A step goes through the stages in the order of `_run`. Batches are allowed here (the gates compare many steps at once);
the exported graph has a batch of one. Every quantity is in engineering units, every flag 0 or 1.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from controlkit.artifacts import Models
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from deploy.bundle.manifest import SHIFT, STRETCH
from deploy.bundle.safety import SafetyConfig, Thresholds
from deploy.export.checks import ObservedCheck, PredictedCheck, note_cuts
from deploy.export.entry import EntryChecks
from deploy.export.fallback import FallbackStage, Situation
from deploy.export.judge import Judge
from deploy.export.networks import LeanActor
from deploy.export.sensing import SensingStage
from deploy.export.slots import FLAGS, MAX_AGE_S, MAX_MAGNITUDE, history_needed, output_slots, state_layout
from deploy.export.stages import CommandStage, Conjunctions, Notes, at_most, every, limited, number, take, within

# Neighbouring groups of the state that are computed together.
JOINED = {"samples": "counts", "commands": "counts", "ewma": "sums", "cusum": "sums"}
# What the elites' spread is rounded by goes with the changes, but observers come to these from whole states: measured,
# 2e-7 of the larger of both with this share of the states (and 1) for windows, 2e-6 for observers.
STATE_ROUNDING = 0.01


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
    dt_instead: Tensor
    shift: Tensor
    next_index: Tensor

    def __init__(self, spec: PlantSpec, models: Models, thresholds: Thresholds, safety: SafetyConfig) -> None:
        super().__init__()
        layout = Layout.from_spec(spec)
        self.thresholds, self.safety, self.period = thresholds, safety, float(spec.period_s)
        self.needed_samples, self.needed_commands = history_needed(layout)
        self.state_layout = state_layout(spec, layout, safety)
        # What is computed together: name -> slots.
        self.parts: dict[str, int] = {}
        for name, (begin, end) in self.state_layout.groups.items():
            name = JOINED.get(name, name)
            self.parts[name] = self.parts.get(name, 0) + end - begin
        self.output_slots = output_slots(spec, layout, safety)
        self.flag_names = (*(name for name, _ in FLAGS), *(f"input_bad.{tag}" for tag in layout.frame_tags))
        self.actor = LeanActor(models.actor)
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
        self.register_buffer("dt_instead", torch.tensor([self.period, self.period, MAX_AGE_S]))
        self.entry = EntryChecks(spec, layout, self.state_layout, safety)
        frame, states, actions = len(layout.frame_tags), len(layout.state_tags), len(layout.action_tags)
        sensed = {"usable": frame, "moving": states, "fresh": states, "counts": 2, "echo": 1, "scorable": 1, "may": 1}
        whole = ["usable", "echo", "counts"]
        self.sensed_sets = Conjunctions(
            sensed,
            {
                "unusable": ["usable"],
                "moving": ["moving"],
                "full": whole,
                "scorable": ["moving", "fresh", "scorable"],
                "may": [*whole, "may"],
            },
        )
        self.judged_sets = Conjunctions(
            {
                "likely": 3,
                "inside": states,
                **dict.fromkeys(("spread", "score", "model", "may", "filling"), 1),
                "sighted": actions,
            },
            {
                "predicted_limit": ["inside"],
                "spread_high": ["spread"],
                "score_predicted_low": ["score"],
                "fallback_blind": ["sighted"],
                "may": ["likely", "inside", "model", "may"],
            },
            # Nothing is foreseen while history fills, and no flag says anything of it.
            unless=dict.fromkeys(("predicted_limit", "spread_high", "score_predicted_low"), "filling"),
        )
        self.register_buffer("shift", torch.from_numpy(layout.shift_index))
        self.register_buffer("next_index", torch.tensor(following))
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

        # Whatever can be said of the inputs as they are.
        entry = self.entry(*x)
        sets = entry.sets
        ok |= {f"input_bad_{name}": sets[name] for name in ("quality", "range", "age")}
        ok["timing_bad"], ok["disabled"] = sets["timing"], sets["enabled"]

        # State: ours, or a cold start.
        state = torch.where(sets["state"], x.state_in, torch.zeros_like(x.state_in))
        part = dict(zip(self.parts, state.split(list(self.parts.values()), dim=-1), strict=True))
        last = part["observation"]  # (B, O)
        ok["state_invalid"] = sets["state"]

        # What is safe to assume where dt is no time: for the rate limit, for the fallback, and by which ages grow.
        times = torch.where(entry.times, x.dt, self.dt_instead)
        dt_rate, dt_control, dt_age = times.split(1, dim=-1)

        # Samples.
        sensed = self.sensing(x.obs, x.obs_age, entry.fresh, entry.known, part, dt_age)

        # History: unbroken samples and commands.
        unbroken = torch.where(sets["timing"], part["counts"], 0.0) + 1.0
        reached = at_most(unbroken, self.needed)  # (B, 2)
        checks = [sensed.usable, sensed.moving, sensed.state_fresh, reached >= self.needed]
        known = self.sensed_sets(torch.cat([*checks, sets["echo"], sets["scorable"], sets["may"]], dim=-1))
        full = known["full"]
        # The sets come from whole numbers, so that this one negation lets no NaN pass.
        filling = number(full) < 0.5
        usable = torch.cat([known["unusable"], sets["echo"]], dim=-1)
        counts = torch.where(usable, reached, 0.0)
        ok["input_unusable"], ok["input_frozen"], ok["history_filling"] = known["unusable"], known["moving"], full

        # Reference: the command in force, else the last one issued, else the safe value.
        echo_ok, safe = sets["echo"], self.fallback.safe.expand_as(x.act_prev)
        reference = torch.where(echo_ok, x.act_prev, torch.where(sets["issued"], part["command"], safe))
        low, high = c.window(reference, dt_rate)  # (B, m) rate limit and absolute limits in one
        ok["reference_invalid"], ok["reference_safe"] = echo_ok, echo_ok | sets["issued"]

        # Observation: this frame, then the last observation moved on by one sample.
        observation = take(torch.cat([sensed.frame, reference, last], dim=-1), self.shift)  # (B, O)

        # Policy and fallback, each inside rate and limits.
        raw = self.actor(observation)
        wish = torch.where(within(raw, -MAX_MAGNITUDE, MAX_MAGNITUDE), raw, reference)
        fb = self.fallback(
            Situation(sensed.frame, sensed.usable, observation, full, reference, dt_control),
            part["error"],
            entry.error_known,
        )
        policy, fallback = limited(wish, low, high), limited(fb.wish, low, high)

        # Observed transition (first rows) and predicted one (last rows) in one pass through each network.
        batch, seen = x.obs.shape[0], take(sensed.frame, self.sensing.state_columns)  # (B, S)
        observations, actions = torch.cat([last, observation]), torch.cat([reference, policy])
        hopes = self.judge.expect(observations, actions)  # (2B, S), (2B, 1), (2B, S)
        found_deviation = self.judge.deviation_of(last, reference, self.judge.change(last, seen))  # (B, S)
        scores, evidence = self.judge.score(
            torch.cat([observations, last]),
            torch.cat([actions, reference]),
            torch.cat([hopes.deviation, found_deviation]),
        )  # (3B, 1), (3B, 1)
        expected = self.judge.after(observations, hopes.change)  # (2B, S)
        hoped_for, predicted = expected.split(batch)
        doubt, spread = hopes.spread.split(batch)
        _, score_predicted, score_observed = scores.split(batch)
        hoped, _, found = evidence.split(batch)  # for what was expected, and for what was observed
        judged = [raw, hoped_for, predicted, spread, hoped, found, score_predicted, score_observed]
        if fb.cloned is not None:
            judged.append(fb.cloned)
        model_ok = every(within(torch.cat(judged, dim=-1), -MAX_MAGNITUDE, MAX_MAGNITUDE))
        scorable = known["scorable"] & model_ok
        states = STATE_ROUNDING * expected.abs() / self.judge.dynamics.change_scaler.spread
        sizes = torch.cat([hopes.change.abs(), states], dim=-1).amax(dim=-1, keepdim=True).clamp(min=1.0)  # (2B, 1)
        happened = self.observed(hoped, found, doubt, scorable, part, sizes[:batch], notes)
        coming = self.predicted(predicted, spread, score_predicted, sizes[batch:], notes)
        checks = [happened.likely, coming.checks, model_ok, known["may"], filling, fb.sighted]
        sound = self.judged_sets(torch.cat(checks, dim=-1))
        ok["model_invalid"], may = model_ok, sound.pop("may")
        ok |= sound

        # Trust: nothing at once, back slowly.
        climbing = part["trust"] + 1.0 / s.recovery_periods
        trust = torch.where(may, torch.where(climbing <= coming.ceiling, climbing, coming.ceiling), 0.0)
        ok["blending"], ok["fallback_active"] = (trust <= 0.0) | (trust >= 1.0), trust > 0.0

        # Blend, rate limit about the reference, absolute clamp last.
        shared = fallback + trust * (policy - fallback)
        blend = torch.where(trust >= 1.0, policy, shared)
        action = c.clamp(limited(blend, low, high))
        note_cuts(c, (wish, fb.wish), action, trust, (low, high), notes)

        foreseen = full & model_ok
        return GraphOutputs(
            action=action,
            action_policy=torch.where(full, policy, fallback),
            action_fallback=fallback,
            score_observed=torch.where(scorable, score_observed, 0.0),
            score_predicted=torch.where(foreseen, score_predicted, 0.0),
            spread=torch.where(foreseen, spread, 0.0),
            obs_next=take(torch.cat([sensed.frame, torch.where(foreseen, predicted, seen)], dim=-1), self.next_index),
            flags=torch.where(torch.cat([*(ok[name] for name, _ in FLAGS), sensed.fresh], dim=-1), 0.0, 1.0),
            state_out=self._state(
                observation=observation,
                counts=counts,
                full=number(full),
                known=number(sensed.known),
                age=sensed.age,
                repeats=sensed.repeats,
                command=action,
                command_known=torch.ones_like(x.dt),
                error=fb.error,
                error_known=number(fb.error_known),
                trust=trust,
                sums=happened.sums,
                shortfall=happened.shortfall,
                shortfall_shift=part[SHIFT],
                shortfall_stretch=part[STRETCH],
            ),
        )

    def _state(self, **groups: Tensor) -> Tensor:
        """The parts of the state in their order: (B, S)."""
        return torch.cat([groups[name] for name in self.parts], dim=-1)
