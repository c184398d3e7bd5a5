"""Names, units, bounds and meaning of every number that goes in or out of the controller graph. Torch-free."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from controlkit.errors import GateError
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from deploy.bundle.manifest import SHIFT, SHORTFALL, STRETCH, SlotRecord
from deploy.bundle.safety import SafetyConfig

# Largest magnitude of an engineering range: far below float32's end, so that differences and products stay finite.
MAX_MAGNITUDE = 1e30
# Bounds of slots that count seconds or standard deviations.
MAX_AGE_S = 1e9
MAX_SHORTFALL = 1e6
MAX_COUNT = 1e6

# Conditions of a step; a flag is 1 where its condition holds. `input_bad.TAG` of every tag follows these.
FLAGS: tuple[tuple[str, str], ...] = (
    ("input_bad_quality", "a sample came without good quality"),
    ("input_bad_range", "a sample is not a number, or outside its engineering range"),
    ("input_bad_age", "a sample is older than its tag allows, or its age is no age"),
    ("input_frozen", "a state tag has repeated itself exactly for too long"),
    ("input_unusable", "a tag has no usable value, not even a recent one: trust is cut"),
    ("timing_bad", "the step came too early or too late: history starts anew, trust is cut"),
    ("state_invalid", "state_in is not a state of this graph: it starts cold"),
    ("reference_invalid", "act_prev is not usable; the last command is the reference: trust is cut"),
    ("reference_safe", "nor is a last command known; the safe value is the reference"),
    ("disabled", "enable is not 1: the fallback acts"),
    ("history_filling", "history is not full yet: the fallback acts"),
    ("model_invalid", "a network gave something that is no number: trust is cut"),
    ("observed_unfamiliar", "the elites disagreed about the observed transition: average and sum of shortfalls rest"),
    (
        "observed_unscored",
        "the observed transition could not be scored (history, quality or command missing); where this is 0, the state "
        "slot 'shortfall' is a score",
    ),
    ("score_observed_low", "the observed transition is far less likely than what was expected: trust is cut"),
    ("ewma_high", "observed transitions have been less likely than expected, on average: trust is cut"),
    ("cusum_high", "observed transitions have been less likely than expected, in sum: trust is cut"),
    ("spread_high", "the elites disagree about the next state: trust is scaled down"),
    ("score_predicted_low", "the predicted transition is unfamiliar: trust is scaled down"),
    ("predicted_limit", "the policy's command is predicted to break a hard limit: trust is cut"),
    ("rate_limited", "the rate limit changed a command that had a part in the action"),
    ("clamped", "an absolute limit changed a command that had a part in the action"),
    (
        "fallback_blind",
        "a PI fallback lacks its measurement: its actuator moves to the safe value; or the cloned operator lacks a "
        "part of the observation: its actuator stays",
    ),
    ("blending", "policy and fallback share the action"),
    ("fallback_active", "the fallback acts alone"),
)


@dataclass(frozen=True)
class StateLayout:
    """The state carried from step to step: named groups of slots, in order.

    Attributes:
        slots: the S slots.
        groups: name of a group -> first slot and slot after the last.
    """

    slots: tuple[SlotRecord, ...]
    groups: dict[str, tuple[int, int]]

    @property
    def size(self) -> int:
        """S."""
        return len(self.slots)

    @property
    def low(self) -> npt.NDArray[np.float32]:
        """(S,) lower bounds; 0 is inside every pair, so that the all-zero state is one of this graph."""
        return np.array([slot.low for slot in self.slots], dtype=np.float32)

    @property
    def high(self) -> npt.NDArray[np.float32]:
        """(S,) upper bounds."""
        return np.array([slot.high for slot in self.slots], dtype=np.float32)


def history_needed(layout: Layout) -> tuple[int, int]:
    """Unbroken samples (this one included) and commands (the one in force included) before the policy may act.

    One earlier sample is asked for even where the observation needs none, so that the transition to this one is scored
    first and the all-zero state always leaves the plant to the fallback.
    """
    frame = max(slot.lag for slot in layout.slots if slot.source == "frame")
    command = max((slot.lag for slot in layout.slots if slot.source == "action"), default=0)
    return max(frame, 1) + 1, max(command, 1)


def state_layout(spec: PlantSpec, layout: Layout, safety: SafetyConfig) -> StateLayout:
    """The state of a plant's graph.

    Three groups serve an edge that learns its own plant's healthy shortfall. `shortfall` is written by the graph: the
    last step's, standardised by the log's mean and standard deviation, neither capped nor recalibrated, so that what is
    learned does not depend on what was learned before; a score where the flag `observed_unscored` is 0, and 0 else.
    `shortfall_shift` and `shortfall_stretch` are read by the graph and handed on as they came: an edge writes them into
    `state_in`; a cold start (all zero) is as calibrated on the log.
    """
    slots: list[SlotRecord] = []
    groups: dict[str, tuple[int, int]] = {}

    def group(name: str, members: list[SlotRecord]) -> None:
        groups[name] = (len(slots), len(slots) + len(members))
        slots.extend(members)

    def per_tag(name: str, tags: tuple[str, ...], unit: str, what: str, low: float, high: float) -> None:
        group(name, [_slot(f"{name}.{tag}", unit, f"{tag}: {what}", low, high) for tag in tags])

    samples, commands = history_needed(layout)
    frame, state, actions = layout.frame_tags, layout.state_tags, layout.action_tags
    group(
        "observation",
        [
            _slot(f"observation.{s.name}", s.unit, f"{s.name} at the last step", min(s.low, 0.0), max(s.high, 0.0))
            for s in layout.slots
        ],
    )
    group("samples", [_slot("samples", "1", "unbroken usable samples up to the last step", 0, samples)])
    group("commands", [_slot("commands", "1", "unbroken known commands up to the last step", 0, commands)])
    group("full", [_slot("full", "1", "1: the last observation had all its history", 0, 1)])
    per_tag("known", frame, "1", "1: a good value has been seen", 0, 1)
    per_tag("age", frame, "s", "age of that value at the last step", 0, MAX_AGE_S)
    per_tag("repeats", state, "1", "exact repeats in a row", 0, MAX_COUNT)
    group(
        "command",
        [
            _slot(f"command.{tag}", spec.tags[tag].unit, f"{tag}: last command issued", *_with_zero(*spec.limits(tag)))
            for tag in actions
        ],
    )
    group("command_known", [_slot("command_known", "1", "1: a command has been issued", 0, 1)])
    group("error", [_slot(f"error.{tag}", *error_slot(spec, tag)) for tag in actions])
    per_tag("error_known", actions, "1", "1: its fallback's last error is known", 0, 1)
    group("trust", [_slot("trust", "1", "share of the policy in the last action", 0, 1)])
    what = "of the observed shortfall, in healthy standard deviations"
    group("ewma", [_slot("ewma", "1", f"moving average {what}", -MAX_SHORTFALL, MAX_SHORTFALL)])
    group("cusum", [_slot("cusum", "1", f"cumulative sum {what}", 0, MAX_SHORTFALL)])
    what = "the last step's observed shortfall in the log's standard deviations, before shift and stretch"
    group(SHORTFALL, [_slot(SHORTFALL, "1", what, -MAX_SHORTFALL, MAX_SHORTFALL)])
    shift, stretch = safety.recalibration_shift, safety.recalibration_stretch
    what = "mean of this plant's healthy shortfall, in the log's standard deviations; set by the edge"
    group(SHIFT, [_slot(SHIFT, "1", what, -shift, shift)])
    what = "standard deviation of this plant's healthy shortfall over the log's, less 1; set by the edge"
    group(STRETCH, [_slot(STRETCH, "1", what, 0, stretch)])
    return StateLayout(tuple(slots), groups)


def error_slot(spec: PlantSpec, tag: str) -> tuple[str, str, float, float]:
    """Unit, meaning and bounds of the error (measured - setpoint) of an action's fallback."""
    fallback = spec.tags[tag].fallback
    if fallback is None or fallback.kind != "pi":
        return "1", f"{tag}: its fallback measures nothing", 0.0, 0.0
    measured = spec.tags[fallback.measured]
    setpoint = fallback.setpoint
    low, high = (setpoint, setpoint) if isinstance(setpoint, float | int) else spec.tags[setpoint].range
    bound = float(
        np.nextafter(np.float32(max(measured.range[1] - low, high - measured.range[0], 0.0)), np.float32(np.inf))
    )
    return measured.unit, f"{tag}: last error of its PI fallback", -bound, bound


def input_slots(spec: PlantSpec, layout: Layout, safety: SafetyConfig) -> dict[str, tuple[SlotRecord, ...]]:
    """Every input of the graph, in order."""
    frame, actions = layout.frame_tags, layout.action_tags
    return {
        "obs": tuple(_tag_slot(spec, tag, "measured now") for tag in frame),
        "obs_ok": tuple(_slot(tag, "1", f"{tag}: 1 if its quality is good", 0, 1) for tag in frame),
        "obs_age": tuple(_slot(tag, "s", f"{tag}: age of the sample", 0, spec.max_age_s(tag)) for tag in frame),
        "act_prev": tuple(
            _tag_slot(spec, tag, "command in force until now, as the plant echoes it") for tag in actions
        ),
        "enable": (_slot("enable", "1", "1: the policy may act", 0, 1),),
        "dt": (_slot("dt", "s", "time since the last step", 0, None),),
        "state_in": state_layout(spec, layout, safety).slots,
    }


def output_slots(spec: PlantSpec, layout: Layout, safety: SafetyConfig) -> dict[str, tuple[SlotRecord, ...]]:
    """Every output of the graph, in order."""
    frame, actions = layout.frame_tags, layout.action_tags
    flags = [_slot(name, "1", what, 0, 1) for name, what in FLAGS]
    flags += [_slot(f"input_bad.{tag}", "1", f"{tag}: this sample was not taken", 0, 1) for tag in frame]
    score = "dynamics reward of the {} transition; 0 where it could not be scored"
    return {
        "action": tuple(_tag_slot(spec, tag, "command for the next period") for tag in actions),
        "action_policy": tuple(
            _tag_slot(
                spec,
                tag,
                "what the policy would command, inside limits and rates; the fallback's command while "
                "history is filling",
            )
            for tag in actions
        ),
        "action_fallback": tuple(_tag_slot(spec, tag, "what the fallback would command") for tag in actions),
        "score_observed": (_slot("score_observed", "1", score.format("observed"), 0, None),),
        "score_predicted": (_slot("score_predicted", "1", score.format("predicted"), 0, None),),
        "spread": (_slot("spread", "1", "disagreement of the elites, in typical changes of the log", 0, None),),
        "obs_next": tuple(
            _slot(
                tag,
                spec.tags[tag].unit,
                f"{tag}: predicted next sample under action_policy (tags that are not states stay)",
            )
            for tag in frame
        ),
        "flags": tuple(flags),
        "state_out": state_layout(spec, layout, safety).slots,
    }


def require_moderate(spec: PlantSpec) -> None:
    """Checks that float32 arithmetic on the plant's ranges stays finite.

    Raises:
        GateError: a range beyond 1e30.
    """
    for name in (*spec.frame_tags, *spec.action_tags):
        if max(abs(end) for end in spec.tags[name].range) > MAX_MAGNITUDE:
            raise GateError(
                f"the range of '{name}' is too wide for float32",
                where=f"plant '{spec.name}'",
                cure="Choose another unit.",
            )


def _tag_slot(spec: PlantSpec, tag: str, what: str) -> SlotRecord:
    low, high = spec.limits(tag) if spec.tags[tag].role == "action" else spec.tags[tag].range
    return _slot(tag, spec.tags[tag].unit, f"{tag}: {what}", low, high)


def _with_zero(low: float, high: float) -> tuple[float, float]:
    return min(low, 0.0), max(high, 0.0)


def _slot(name: str, unit: str, what: str, low: float | None = None, high: float | None = None) -> SlotRecord:
    finite = None if high is None or not np.isfinite(high) else float(high)
    return SlotRecord(name=name, unit=unit, description=what, low=None if low is None else float(low), high=finite)
