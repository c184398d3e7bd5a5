"""PlantSpec: what a process engineer writes about a plant, once, in YAML.

Everything downstream (ingest, training, evaluation, the exported graph, the edge) is derived from this description:
which tags there are, what part each plays, its units, ranges and limits, how fast it may move, how it is sampled, what
is wanted of the controller, and what acts when the controller may not. Every quantity is in engineering units; field
names carry the unit of time (`_s`, `_per_s`).
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from controlkit.errors import SpecError, nearest
from controlkit.log_rules import Compression, Frozen, LogRules
from controlkit.strict_yaml import Strict, read_yaml, validate

Role = Literal["state", "exogenous", "static", "action", "feedback", "mode", "ignore"]
FRAME_ROLES: tuple[Role, ...] = ("state", "exogenous", "static")

# Engineering units that a plant file may use. One spelling each, so that two files can be compared.
UNITS: frozenset[str] = frozenset(
    """1 % ppm degC degF K delta_degC bar mbar Pa kPa MPa psi m mm cm km um s min h d Hz rpm 1/s 1/min rad deg
    m/s m/min m/h m/s^2 rad/s kg g t lb mol kmol kg/s kg/min kg/h t/h g/s g/min mol/s kmol/h m^2 m^3 L mL gal
    m^3/s m^3/min m^3/h L/s L/min L/h mL/min gal/min W kW MW J kJ MJ GJ kWh MWh V mV kV A mA kA ohm S/m uS/cm mS/cm
    N kN N*m Pa*s mPa*s cP kg/m^3 g/L g/mL mg/L mg/dL mol/L mmol/L g/mol pH NTU lux dB J/kg kJ/kg kJ/mol W/m^2 W/m^2/K
    EUR USD EUR/h USD/h EUR/MWh USD/MWh""".split()
)

Interval = tuple[float, float]
# Columns of a data set beside the tags.
RESERVED = ("time_ns", "episode", "reward", "terminated", "truncated")
# Share of its size below which an interval's two ends may be the same number in float32.
_NARROWEST = 1e-6
_TAG_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")


class PIFallback(Strict):
    """Velocity-form PI: du = gain * ((e - e_prev) + e * dt / reset_time_s), e = measured - setpoint.

    A positive gain opens the actuator when the measured tag is above its setpoint (cooling); a negative one closes it.
    """

    kind: Literal["pi"]
    measured: str
    setpoint: float | str
    gain: float
    reset_time_s: Annotated[float, Field(gt=0)]


class HoldFallback(Strict):
    """Keeps the command that is in force."""

    kind: Literal["hold"]


class RampFallback(Strict):
    """Moves to the actuator's safe value at `rate_per_s` (its `max_rate_per_s` where none is given)."""

    kind: Literal["ramp"]
    rate_per_s: Annotated[float, Field(gt=0)] | None = None


class OperatorFallback(Strict):
    """Commands what the logged operator would (the behaviour clone of the run), within limits and rate.

    Only while the whole observation is known: until its history is full, and while a tag has no usable value, the
    command in force is kept.
    """

    kind: Literal["operator"]


Fallback = Annotated[PIFallback | HoldFallback | RampFallback | OperatorFallback, Field(discriminator="kind")]


class Tag(Strict):
    """One signal of the plant, in engineering units.

    Attributes:
        role: `state` (measured, and our action moves it), `exogenous` (changes on its own), `static` (constant in an
            episode), `action` (what we command), `feedback` (measured position of an action), `mode`, `ignore`.
        unit: one of `UNITS`.
        range: engineering range; a value outside it is a bad measurement. Also scales the networks' inputs.
        limits: hard operating limits, inside `range`; for an action the absolute limits of the command.
        max_rate_per_s: largest change of an action's command, in units per second.
        interpolation: `step` holds the last value; `linear` extrapolates from the last two, never beyond `max_age_s`.
        max_age_s: a value older than this is unknown; where it is not given, the historian's longest silence
            (`compression`), or three sample periods (for commands, modes and static tags: never).
        history: how many past samples (of an action: past commands) the observation holds beside the current one.
        column: the tag's name in the log, where it differs.
        of: for a feedback, the action it measures.
        accept: for a mode, the values in which the log may be used.
        safe: an action's safe value.
        fallback: what commands an action while the controller may not: a `pi`, `hold`, a `ramp` to the safe value, or
            the cloned `operator`.
        node: OPC UA node id.
        log_unit: the unit in the log, where it differs; values are converted to `unit` when they are read.
        compression: how the historian thinned the tag out.
        frozen: when a value that stays the same is taken for a dead sensor.
        spike_z: a sample is flagged (not repaired) where its difference from the one before is more than this many
            robust standard deviations of the tag's differences away from their median, and the next one comes back.
        tolerance, settle_s: of a feedback: it is flagged where it lies further than `tolerance` from its action's
            command for longer than `settle_s` (three sample periods where not given).
    """

    role: Role
    unit: str
    range: Interval
    limits: Interval | None = None
    max_rate_per_s: Annotated[float, Field(gt=0)] | None = None
    interpolation: Literal["step", "linear"] = "step"
    max_age_s: Annotated[float, Field(gt=0)] | None = None
    history: Annotated[int, Field(ge=0, le=1000)] = 0
    column: str | None = None
    of: str | None = None
    accept: tuple[float, ...] = ()
    safe: float | None = None
    fallback: Fallback | None = None
    node: str | None = None
    log_unit: str | None = None
    compression: Compression | None = None
    frozen: Frozen | None = None
    spike_z: Annotated[float, Field(gt=0)] | None = None
    tolerance: Annotated[float, Field(gt=0)] | None = None
    settle_s: Annotated[float, Field(ge=0)] | None = None
    description: str = ""

    @field_validator("unit", "log_unit", mode="before")
    @classmethod
    def _known_unit(cls, unit: Any) -> str | None:
        if unit is None:
            return None
        # YAML reads a bare 1 as a number; it is the unit of a ratio.
        name = str(unit)
        if name not in UNITS:
            raise ValueError(f"'{name}' is not a known unit; {nearest(name, UNITS)}")
        return name

    @model_validator(mode="after")
    def _consistent(self) -> Tag:
        for name, interval in (("range", self.range), ("limits", self.limits)):
            if interval is not None and not interval[0] < interval[1]:
                raise ValueError(f"{name} {list(interval)} must rise from low to high")
            if interval is not None and interval[1] - interval[0] <= _NARROWEST * max(map(abs, interval)):
                raise ValueError(f"{name} {list(interval)} is too narrow for numbers of seven digits (float32)")
        if self.limits is not None and not (self.range[0] <= self.limits[0] and self.limits[1] <= self.range[1]):
            raise ValueError(f"limits {list(self.limits)} must lie inside range {list(self.range)}")
        actions_only = {"max_rate_per_s": self.max_rate_per_s, "safe": self.safe, "fallback": self.fallback}
        if self.role == "action":
            low, high = self.limits or self.range
            if self.safe is None or self.fallback is None:
                missing = "safe" if self.safe is None else "fallback"
                raise ValueError(f"an action needs '{missing}': what the actuator does when the controller may not act")
            if not low <= self.safe <= high:
                raise ValueError(f"safe {self.safe} must lie inside the limits [{low}, {high}]")
        else:
            wrong = [name for name, value in actions_only.items() if value is not None]
            if wrong:
                raise ValueError(f"'{wrong[0]}' belongs to an action, not to a tag with role '{self.role}'")
        if (self.of is not None) != (self.role == "feedback"):
            raise ValueError("'of' names the action that a feedback measures: give it there and only there")
        if bool(self.accept) != (self.role == "mode"):
            raise ValueError("'accept' lists the usable values of a mode tag: give it there and only there")
        if self.history and self.role not in ("state", "exogenous", "action"):
            raise ValueError(f"a tag with role '{self.role}' has no history in the observation")
        if self.role != "feedback" and (self.tolerance is not None or self.settle_s is not None):
            raise ValueError("'tolerance' and 'settle_s' belong to a feedback, which is compared with its command")
        silent_s = self.compression.max_interval_s if self.compression is not None else 0.0
        if self.frozen is not None and self.frozen.after_s < silent_s:
            raise ValueError(
                f"frozen.after_s {self.frozen.after_s:g} is shorter than the historian's longest silence "
                f"{silent_s:g} s (compression.max_interval_s): a value repeated after it would count as a dead sensor"
            )
        if self.role == "action" and self.frozen is not None:
            raise ValueError("a command may stay the same for as long as it likes: 'frozen' is for measurements")
        return self


class TrackTerm(Strict):
    """Costs weight * |tag' - setpoint| (or its square); the tag and a setpoint tag are read after the step."""

    kind: Literal["track"]
    tag: str
    setpoint: float | str
    error: Literal["abs", "squared"] = "abs"
    weight: Annotated[float, Field(gt=0)] = 1.0


class CostTerm(Strict):
    """Costs weight * tag, weight * |tag|, or weight * |change of the tag over the step|."""

    kind: Literal["cost"]
    tag: str
    of: Literal["value", "abs", "change"] = "value"
    weight: float = 1.0


class RangeTerm(Strict):
    """Costs weight * (distance of the tag after the step to [low, high]), or its square."""

    kind: Literal["range"]
    tag: str
    low: float | None = None
    high: float | None = None
    error: Literal["abs", "squared"] = "abs"
    weight: Annotated[float, Field(gt=0)] = 1.0

    @model_validator(mode="after")
    def _one_side(self) -> RangeTerm:
        if self.low is None and self.high is None:
            raise ValueError("a range term needs 'low', 'high' or both")
        return self


class FunctionTerm(Strict):
    """Adds weight * f(now, after): `function` is `module:function`, see `controlkit.objective`."""

    kind: Literal["function"]
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
    weight: float = 1.0


class RecordedTerm(Strict):
    """The reward comes with the data, without a formula, and a network of its own learns it. Stands alone."""

    kind: Literal["recorded"]


ObjectiveTerm = Annotated[TrackTerm | CostTerm | RangeTerm | FunctionTerm | RecordedTerm, Field(discriminator="kind")]


class Constraint(Strict):
    """A tag is to stay inside [low, high], but for a tolerated share of the samples (0 .. 1)."""

    tag: str
    low: float | None = None
    high: float | None = None
    share: Annotated[float, Field(ge=0, lt=1)] = 0.0

    @model_validator(mode="after")
    def _one_side(self) -> Constraint:
        if self.low is None and self.high is None:
            raise ValueError("a constraint needs 'low', 'high' or both")
        return self


class TerminationRule(Strict):
    """The plant has tripped (a true end, not a cut) once the tag is below or above a value, or a function says so.

    A `function` is `module:function` and gets (now, after) of a step, as one of the objective does; it serves for trips
    that a single value does not show, such as a rate of change.
    """

    tag: str | None = None
    below: float | None = None
    above: float | None = None
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> TerminationRule:
        if (self.tag is None) == (self.function is None):
            raise ValueError("a termination rule needs either 'tag' or 'function'")
        bounded = self.below is not None or self.above is not None
        if self.tag is not None and not bounded:
            raise ValueError("a termination rule needs 'below', 'above' or both")
        if self.function is not None and bounded:
            raise ValueError("'below' and 'above' belong to a tag, not to a function")
        return self


class EpisodeRules(Strict):
    """How a log is cut into episodes.

    Attributes:
        max_gap_s: a log without any sample for longer than this is cut there; three sample periods where not given.
        min_steps: shorter pieces are left out, beside those shorter than one window of history.
        terminated: rules for a true end of an episode.
        recorded_ends: flat data says by itself where the plant tripped, since no tag shows exactly what decides; the
            rules then only tell a model's rollouts where to end. There must be some: estimates will do.
    """

    max_gap_s: Annotated[float, Field(gt=0)] | None = None
    min_steps: Annotated[int, Field(ge=1)] = 2
    terminated: tuple[TerminationRule, ...] = ()
    recorded_ends: bool = False

    @model_validator(mode="after")
    def _rollouts_end(self) -> EpisodeRules:
        # Without a rule a policy would be trained as if the plant never tripped, on data that says it does.
        if self.recorded_ends and not self.terminated:
            raise ValueError("recorded_ends needs rules under 'terminated' (estimates will do): rollouts end by them")
        return self


class PlantSpec(Strict):
    """A plant: tags by name, sample period, objective, constraints, episode rules.

    Raises:
        SpecError: from `load`, for any mistake, with file, line, field and the nearest valid name.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
    description: str = ""
    period_s: Annotated[float, Field(ge=1e-3)]
    time_zone: str = "UTC"
    tags: dict[str, Tag]
    objective: Annotated[tuple[ObjectiveTerm, ...], Field(min_length=1)]
    constraints: tuple[Constraint, ...] = ()
    episodes: EpisodeRules = EpisodeRules()
    log: LogRules = LogRules()

    @classmethod
    def load(cls, path: str | Path) -> PlantSpec:
        """The plant described by a YAML file."""
        path = Path(path)
        return validate(cls, read_yaml(path, SpecError), path, SpecError)

    @classmethod
    def from_dict(cls, content: dict[str, Any], source: str = "plant description") -> PlantSpec:
        """The plant described by a mapping, as `to_dict` writes it."""
        try:
            return validate(cls, content, None, SpecError)
        except SpecError as problem:
            raise SpecError(problem.what, where=source, cure=problem.cure) from None

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        if zone == "UTC":
            return zone  # known without any time zone data, which a small edge box may lack
        try:
            ZoneInfo(zone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"'{zone}' is not an IANA time zone such as UTC or Europe/Berlin") from None
        return zone

    @field_validator("tags")
    @classmethod
    def _named(cls, tags: dict[str, Tag]) -> dict[str, Tag]:
        for name in tags:
            if not _TAG_NAME.fullmatch(name):
                raise ValueError(f"'{name}' is not a tag name (ASCII letters, digits, '_' and '.', a letter first)")
            if name in RESERVED:
                raise ValueError(f"'{name}' is a column of every data set; name the tag otherwise, with column: {name}")
        columns = [tag.column or name for name, tag in tags.items()]
        twice = sorted({column for column in columns if columns.count(column) > 1})
        if twice:
            raise ValueError(f"two tags read the same column '{twice[0]}' of the log")
        return tags

    @model_validator(mode="after")
    def _references(self) -> PlantSpec:
        for role in ("state", "action"):
            if not self.names(role):
                raise ValueError(f"no tag has role '{role}'; a plant needs at least one")
        observed = self.frame_tags
        known = (*observed, *self.action_tags)
        for index, term in enumerate(self.objective):
            if isinstance(term, RecordedTerm) and len(self.objective) > 1:
                raise ValueError("objective: a recorded reward is the whole reward; remove the other terms or this one")
            if isinstance(term, FunctionTerm | RecordedTerm):
                continue
            place = f"objective.{index}"
            allowed = known if isinstance(term, CostTerm) else observed
            self._check(term.tag, allowed, f"{place}.tag")
            if isinstance(term, TrackTerm) and isinstance(term.setpoint, str):
                self._check(term.setpoint, observed, f"{place}.setpoint")
        for index, constraint in enumerate(self.constraints):
            self._check(constraint.tag, self.state_tags, f"constraints.{index}.tag")
        for index, rule in enumerate(self.episodes.terminated):
            if rule.tag is not None:
                self._check(rule.tag, observed, f"episodes.terminated.{index}.tag")
        for name, tag in self.tags.items():
            if tag.of is not None:
                self._check(tag.of, self.action_tags, f"tags.{name}.of")
            if isinstance(tag.fallback, PIFallback):
                self._check(tag.fallback.measured, observed, f"tags.{name}.fallback.measured")
                if isinstance(tag.fallback.setpoint, str):
                    self._check(tag.fallback.setpoint, observed, f"tags.{name}.fallback.setpoint")
            rate = tag.max_rate_per_s
            if isinstance(tag.fallback, RampFallback) and tag.fallback.rate_per_s is None and rate is None:
                raise ValueError(f"tags.{name}.fallback: a ramp needs 'rate_per_s', or the action 'max_rate_per_s'")
        return self

    def _check(self, name: str, allowed: tuple[str, ...], place: str) -> None:
        if name not in allowed:
            reason = f"tag '{name}' has role '{self.tags[name].role}'" if name in self.tags else f"unknown tag '{name}'"
            raise ValueError(f"{place}: {reason}; {nearest(name, allowed)}")

    def names(self, *roles: str) -> tuple[str, ...]:
        """Names of the tags that have one of `roles`, in the order of the file."""
        return tuple(name for name, tag in self.tags.items() if tag.role in roles)

    @property
    def frame_tags(self) -> tuple[str, ...]:
        """The measured tags of one sample: state, exogenous and static, in the order of the file."""
        return self.names(*FRAME_ROLES)

    @property
    def state_tags(self) -> tuple[str, ...]:
        """The tags that the world model predicts."""
        return self.names("state")

    @property
    def action_tags(self) -> tuple[str, ...]:
        """The commands, in the order of the file."""
        return self.names("action")

    def max_age_s(self, name: str) -> float:
        """Seconds after which a value of the tag is unknown. Commands hold until they change, static tags never age."""
        tag = self.tags[name]
        if tag.max_age_s is not None:
            return tag.max_age_s
        if tag.compression is not None:
            return tag.compression.max_interval_s
        return float("inf") if tag.role in ("static", "mode", "action") else 3.0 * self.period_s

    @property
    def max_gap_s(self) -> float:
        """Seconds without a sample after which an episode is cut."""
        return self.episodes.max_gap_s or 3.0 * self.period_s

    def limits(self, name: str) -> Interval:
        """Hard limits of a tag, or its range where none are given."""
        tag = self.tags[name]
        return tag.limits or tag.range

    def past_commands(self, name: str) -> int:
        """How many past commands of an action the observation holds: one at least where it is rate-limited or costs."""
        tag = self.tags[name]
        costs = any(isinstance(t, CostTerm) and t.of == "change" and t.tag == name for t in self.objective)
        return max(tag.history, int(tag.max_rate_per_s is not None or costs))

    @property
    def reward_is_recorded(self) -> bool:
        """Whether the reward comes with the data instead of following from a formula."""
        return any(isinstance(term, RecordedTerm) for term in self.objective)

    def to_dict(self) -> dict[str, Any]:
        """A mapping of plain values that `from_dict` reads back; unset fields are left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def sha256(self) -> str:
        """Hash of the description, independent of comments and of the order of keys; the order of the tags counts."""
        content = self.to_dict()
        content["tags"] = list(content["tags"].items())  # their order is the order of the observation's slots
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
