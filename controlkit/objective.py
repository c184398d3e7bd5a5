"""Reward, limits, constraints and termination of a plant: one formula for numpy and torch.

Everything here follows from the plant description and is never learned. Arrays may be numpy arrays or torch tensors,
with any leading dimensions; the result is of the same kind. Rewards are negative costs in the objective's units per
period.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import SpecError
from controlkit.layout import Layout
from controlkit.spec import CostTerm, FunctionTerm, PlantSpec, RangeTerm, RecordedTerm, TrackTerm

Values = Mapping[str, Any]
# Of a step: (tags and commands before it, tags after it) -> rewards, or whether the plant tripped.
StepFunction = Callable[[Values, Values], Any]
# (..., O), (..., m), (..., n) -> (...): stands in where rewards come with the data, without a formula.
LearnedReward = Callable[[Any, Any, Any], Any]


class Objective:
    """What is wanted of a plant.

    Args:
        spec: the plant. Its functions are imported here, so that a wrong name fails before any work is done.
        learned: what a `recorded` term is computed with.

    Raises:
        SpecError: a `function` term or rule names a module or function that does not exist; from `reward` and `terms`,
            a `recorded` term has nothing to be computed with.
    """

    def __init__(self, spec: PlantSpec, learned: LearnedReward | None = None) -> None:
        self.spec, self.learned = spec, learned
        self.layout = Layout.from_spec(spec)
        self._functions = [
            _imported(t.function, "the objective's") if isinstance(t, FunctionTerm) else None for t in spec.objective
        ]
        rules = spec.episodes.terminated
        self._trips = [_imported(rule.function, "the trip's") for rule in rules if rule.function is not None]

    def reward(self, observation: Any, action: Any, next_frame: Any) -> Any:
        """The reward of one step: (..., O), (..., m), (..., n) -> (...)."""
        return sum(self.terms(observation, action, next_frame).values())

    def terms(self, observation: Any, action: Any, next_frame: Any) -> dict[str, Any]:
        """The same, one entry per term of the objective (already negative for a cost): name -> (...)."""
        now, after = self._named(observation, action, next_frame)
        result: dict[str, Any] = {}
        for index, term in enumerate(self.spec.objective):
            function = self._functions[index]
            if isinstance(term, TrackTerm):
                setpoint = after[term.setpoint] if isinstance(term.setpoint, str) else term.setpoint
                value = -term.weight * _power(after[term.tag] - setpoint, term.error)
            elif isinstance(term, RangeTerm):
                value = -term.weight * _power(_outside(after[term.tag], term.low, term.high), term.error)
            elif isinstance(term, CostTerm):
                value = -term.weight * self._cost(term, now, after, observation)
            elif isinstance(term, RecordedTerm):
                value = self._recorded(observation, action, next_frame)
            else:
                assert function is not None
                value = term.weight * function(now, after)
            result[self.term_names[index]] = value
        return result

    @cached_property
    def term_names(self) -> tuple[str, ...]:
        """Unique names of the terms, such as `track temperature`, in the order of the plant file."""
        names: list[str] = []
        for index, term in enumerate(self.spec.objective):
            if isinstance(term, RecordedTerm):
                subject = "reward"
            else:
                subject = term.function if isinstance(term, FunctionTerm) else term.tag
            name = f"{term.kind} {subject}"
            names.append(name if name not in names else f"{name} ({index})")
        return tuple(names)

    def terminated(self, observation: Any, action: Any, next_frame: Any) -> Any:
        """Whether the step tripped the plant: (..., O) or the frame alone, (..., m), (..., n) -> (...) bool."""
        tripped = self._out_of_bounds(next_frame)
        if self._trips:
            now, after = self._named(observation, action, next_frame)
            for function in self._trips:
                tripped = tripped | function(now, after)
        return tripped

    def tripped_rows(self, frames: Any, actions: Any, follows: Any) -> Any:
        """Which rows of a log show a tripped plant: frames (N, n), actions (N, m) -> (N,) bool.

        Args:
            frames, actions: the log.
            follows: (N - 1,) whether the next row is one step later. Only such a step can trip a function's rule.
        """
        tripped = self._out_of_bounds(frames)
        if self._trips and len(frames) > 1:
            stepped = self.terminated(frames[:-1], actions[:-1], frames[1:])
            tripped[1:] |= stepped & follows
        return tripped

    def _out_of_bounds(self, frame: Any) -> Any:
        first = frame[..., 0]
        outside = (first < 0) & (first > 0)  # all False, of the right kind and shape; a NaN is no trip
        for rule in self.spec.episodes.terminated:
            if rule.tag is None:
                continue
            value = frame[..., self.layout.frame_tags.index(rule.tag)]
            if rule.below is not None:
                outside = outside | (value < rule.below)
            if rule.above is not None:
                outside = outside | (value > rule.above)
        return outside

    def violations(self, next_frame: Any) -> dict[str, Any]:
        """How far each constrained tag lies outside its bounds, in its unit; 0 inside: tag -> (...)."""
        outside: dict[str, Any] = {}
        for constraint, distance in zip(self.spec.constraints, self.constraint_distances(next_frame), strict=True):
            outside[constraint.tag] = outside.get(constraint.tag, 0.0) + distance
        return outside

    def constraint_distances(self, next_frame: Any) -> list[Any]:
        """How far each constraint is violated, in its tag's unit; 0 inside: one (...) per constraint, in order."""
        tags = self.layout.frame_tags
        return [_outside(next_frame[..., tags.index(c.tag)], c.low, c.high) for c in self.spec.constraints]

    def _named(self, observation: Any, action: Any, next_frame: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        frame_tags = self.layout.frame_tags
        now = {tag: observation[..., column] for column, tag in enumerate(frame_tags)}
        now |= {tag: action[..., column] for column, tag in enumerate(self.layout.action_tags)}
        return now, {tag: next_frame[..., column] for column, tag in enumerate(frame_tags)}

    def _recorded(self, observation: Any, action: Any, next_frame: Any) -> Any:
        if self.learned is None:
            raise SpecError(
                "the reward is recorded with the data and has no formula here",
                where=f"plant {self.spec.name}, objective",
                cure="Learn it from the data set, or write the objective as a formula.",
            )
        return self.learned(observation, action, next_frame)

    def _cost(self, term: CostTerm, now: Values, after: Values, observation: Any) -> Any:
        is_action = term.tag in self.layout.action_tags
        value = now[term.tag] if is_action else after[term.tag]
        if term.of == "change":
            # The spec keeps the last command in the observation wherever its change costs something.
            before = observation[..., self.layout.index(f"{term.tag}@-1")] if is_action else now[term.tag]
            return abs(value - before)
        return abs(value) if term.of == "abs" else value


class CommandLimits:
    """The clamp and rate limit that the exported controller applies: training and evaluation apply the same.

    Absolute limits win over rate limits. Bounds are rounded inward to float32, so that no rounding leaves them.

    Attributes:
        low, high: (m,) absolute limits, float32.
        max_step: (m,) largest change in one period, float32; inf where a rate is not limited.
    """

    def __init__(self, spec: PlantSpec) -> None:
        layout = Layout.from_spec(spec)
        bounds = [spec.limits(tag) for tag in layout.action_tags]
        rates = [spec.tags[tag].max_rate_per_s for tag in layout.action_tags]
        self.low = _inward([low for low, _ in bounds], up=True)
        self.high = _inward([high for _, high in bounds], up=False)
        self.max_step = _inward([np.inf if rate is None else rate * spec.period_s for rate in rates], up=False)
        self._previous = layout.previous_command()
        self._constants: dict[Any, tuple[Any, Any, Any]] = {}

    def apply(self, action: Any, observation: Any) -> Any:
        """The command that the plant gets: (..., m) wish and (..., O) observation -> (..., m)."""
        low, high, max_step = self._like(action)
        if np.isfinite(self.max_step).any():
            # A rate-limited action's last command is always in the observation (PlantSpec.past_commands); the others
            # have an infinite step, so that the wish itself serves as their reference.
            columns = [
                action[..., i] if slot is None else observation[..., slot] for i, slot in enumerate(self._previous)
            ]
            previous = _stack(columns, action)
            action = action.clip(previous - max_step, previous + max_step)
        return action.clip(low, high)

    def _like(self, action: Any) -> tuple[Any, Any, Any]:
        if isinstance(action, np.ndarray):
            return self.low, self.high, self.max_step
        key = (action.device, action.dtype)
        if key not in self._constants:
            low, high, step = (action.new_tensor(x.tolist()) for x in (self.low, self.high, self.max_step))
            self._constants[key] = (low, high, step)
        return self._constants[key]


def _stack(columns: list[Any], like: Any) -> Any:
    if isinstance(like, np.ndarray):
        return np.stack(columns, axis=-1)
    import torch

    return torch.stack(columns, dim=-1)


def _inward(values: list[float], *, up: bool) -> npt.NDArray[np.float32]:
    exact = np.array(values, dtype=np.float64)
    with np.errstate(over="ignore"):
        rounded = exact.astype(np.float32)
    wrong = rounded < exact if up else rounded > exact
    return np.where(wrong, np.nextafter(rounded, np.float32(np.inf if up else -np.inf)), rounded).astype(np.float32)


def _power(value: Any, error: str) -> Any:
    return abs(value) if error == "abs" else value * value


def _outside(value: Any, low: float | None, high: float | None) -> Any:
    below = (low - value).clip(0, None) if low is not None else 0.0
    above = (value - high).clip(0, None) if high is not None else 0.0
    return below + above


def _imported(name: str, whose: str) -> StepFunction:
    module_name, _, function_name = name.partition(":")
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError) as problem:
        raise SpecError(
            f"{whose} function '{name}' cannot be imported ({problem})",
            cure="Write it as module:function, with the module on the Python path.",
        ) from None
    if not callable(function):
        raise SpecError(f"{whose} '{name}' is not a function", cure="Write it as module:function.")
    imported: StepFunction = function
    return imported
