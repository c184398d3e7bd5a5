"""What a sweep varies: a grid of values, or ranges that a sampler draws from; from a YAML file or the command line.

grid:                                      # every combination
  policy.behaviour_anchor: [0, 0.5]
  policy.hidden: [[64, 64], [256, 256]]

ranges:                                    # or: --trials settings are drawn
  policy.actor_learning_rate: {low: 1e-5, high: 1e-3, log: true}
  rollout.length: {low: 10, high: 40, step: 10}
  filter.choose: {choices: [best, regressor]}
at_once: 4                                 # trials that are drawn before any of their results is known
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, model_validator

from controlkit.config import RunConfig
from controlkit.errors import ConfigError
from controlkit.strict_yaml import Strict, read_yaml, validate

# More would be a mistake of the pen: every run takes minutes.
MAX_SETTINGS = 10_000
# Fields that the sweep itself sets, or by which runs could not be compared any more.
RESERVED = {
    "seed": "say how many with --seeds",
    "threads": "say how many with --threads",
    "device": "set it in the run file",
}
SPLIT = "split"

Values = dict[str, Any]


class Range(Strict):
    """A range of whole numbers (both ends are) or of numbers, or a list of choices.

    Attributes:
        low, high: ends, both included.
        log: drawn evenly in the logarithm.
        step: only every so much from `low` on.
        choices: any values.
    """

    low: int | float | None = None
    high: int | float | None = None
    log: bool = False
    step: Annotated[int | float, Field(gt=0)] | None = None
    choices: Annotated[tuple[Any, ...], Field(min_length=1, max_length=MAX_SETTINGS)] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> Range:
        if self.choices is not None:
            if (self.low, self.high, self.log, self.step) != (None, None, False, None):
                raise ValueError("choices go with nothing else")
            return self
        if self.low is None or self.high is None:
            raise ValueError("needs low and high, or choices")
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} is not below high {self.high:g}")
        if self.log and (self.step is not None or self.low <= 0):
            raise ValueError("log needs a low end above 0 and no step")
        if self.whole and isinstance(self.step, float):
            raise ValueError("a range of whole numbers has a whole step")
        return self

    @property
    def whole(self) -> bool:
        """Whether whole numbers are drawn."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def extremes(self) -> tuple[Any, ...]:
        """Values that are tried on the run configuration before anything starts."""
        return self.choices if self.choices is not None else (self.low, self.high)


class SweepFile(Strict):
    """What varies: `grid` or `ranges`, of dotted fields of the run configuration."""

    grid: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = Field(default_factory=dict)
    ranges: dict[str, Range] = Field(default_factory=dict)
    at_once: Annotated[int, Field(ge=1, le=1000)] = 4

    @model_validator(mode="after")
    def _one(self) -> SweepFile:
        if self.grid and self.ranges:
            raise ValueError("ranges: a sweep is a grid or draws from ranges, not both")
        return self

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return self.model_dump(mode="json")


def read_sweep(path: Path) -> SweepFile:
    """What a YAML file varies.

    Raises:
        ConfigError: a mistake in it, with its line and the nearest valid name.
    """
    return validate(SweepFile, read_yaml(path, ConfigError), path, ConfigError)


def parse_grid(words: Sequence[str]) -> SweepFile:
    """A grid from the command line: section.field=value,value ...

    Raises:
        ConfigError: a word that is none, or a field named twice.
    """
    grid: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        try:
            values = yaml.safe_load(f"[{text}]")
        except yaml.YAMLError:
            values = None
        if not equals or not name or not isinstance(values, list) or not values:
            raise ConfigError(
                "is no part of a grid", where=f"--grid {word}", cure="Write --grid section.field=value,value."
            )
        if name in grid:
            raise ConfigError("is named twice", where=f"--grid {name}", cure="Give all its values at once.")
        grid[name] = values
    return validate(SweepFile, {"grid": grid}, None, ConfigError)


def combinations(file: SweepFile) -> list[Values]:
    """Every combination of a grid, the last field varying fastest; one without changes where there is no field.

    Raises:
        ConfigError: there are more than `MAX_SETTINGS`.
    """
    count = math.prod(len(values) for values in file.grid.values())
    if count > MAX_SETTINGS:
        raise ConfigError(f"has {count} settings", where="grid", cure=f"Leave some out: at most {MAX_SETTINGS}.")
    return [dict(zip(file.grid, chosen, strict=True)) for chosen in itertools.product(*file.grid.values())]


def changed(config: RunConfig, values: Mapping[str, Any]) -> RunConfig:
    """A run configuration with some dotted fields changed.

    Raises:
        ConfigError: the run configuration refuses it; names the setting, the field and the nearest valid name.
    """
    content = config.to_dict()
    for name, value in values.items():
        *sections, field = name.split(".")
        target: Any = content
        for section in sections:
            target = target.setdefault(section, {}) if isinstance(target, dict) else None
        if not isinstance(target, dict):
            raise ConfigError(f"'{'.'.join(sections)}' has no fields", where=f"sweep over {name}")
        target[field] = value
    try:
        return RunConfig.from_dict(content)
    except ConfigError as problem:
        raise ConfigError(problem.what, where=f"setting {label(values)}", cure=problem.cure) from None


def require_valid(file: SweepFile, config: RunConfig) -> None:
    """Tries everything on the run configuration that can be tried before anything starts.

    Raises:
        ConfigError: a field that a sweep must not change, or a setting that the run configuration refuses.
    """
    for name in (*file.grid, *file.ranges):
        if name in RESERVED:
            raise ConfigError("cannot be swept over", where=name, cure=f"Instead, {RESERVED[name]}.")
        if name.split(".")[0] == SPLIT:
            raise ConfigError(
                "cannot be swept over", where=name, cure="Runs of different splits cannot be compared: keep one."
            )
    for values in combinations(file) if file.grid else ():
        changed(config, values)
    for name, span in file.ranges.items():
        for value in span.extremes:
            changed(config, {name: value})


def label(values: Mapping[str, Any]) -> str:
    """A setting in words."""
    return ", ".join(f"{name}={_short(value)}" for name, value in values.items()) or "as in the run file"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
