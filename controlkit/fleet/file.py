"""The fleet file: which plants, from which logs, trained how. Paths in it are relative to the file itself.

defaults: {run: pipeline, set: {policy.updates: 20000}}
plants:
  - {name: column-7, plant: column-7.yaml, sources: ["logs/column-7/*.csv"]}
  - {name: column-8, plant: column-8.yaml, sources: [logs/column-8.parquet], set: {seed: 3}}
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, JsonValue, model_validator

from controlkit.errors import ConfigError
from controlkit.strict_yaml import Strict, read_yaml, validate

# A folder's name on every file system, and nothing that leads out of its folder.
PlantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*$", max_length=64)]
Settings = dict[str, JsonValue]
MAX_BYTES, MAX_PLANTS = 16 << 20, 10_000


class EvaluateConfig(Strict):
    """How a run is evaluated: `quick` takes fewer rollouts and draws; gamma is the run's own where not given."""

    quick: bool = False
    seed: Annotated[int, Field(ge=0)] = 0
    gamma: Annotated[float, Field(ge=0, le=0.99)] | None = None


class Defaults(Strict):
    """What every plant has unless it says otherwise; `set` and `evaluate` are merged field by field."""

    run: str | None = None
    set: Settings = Field(default_factory=dict)
    evaluate: EvaluateConfig = EvaluateConfig()


class PlantEntry(Strict):
    """One plant.

    Attributes:
        name: of its folder and its row.
        plant: plant description (YAML), or the name of a shipped one.
        sources: logs, as `controlkit ingest` takes them.
        run: run configuration (YAML), or the name of a shipped one.
        set: dotted fields of the run configuration -> value, as `controlkit train --set`.
        evaluate: see `EvaluateConfig`.
    """

    name: PlantName
    plant: str
    sources: Annotated[tuple[str, ...], Field(min_length=1)]
    run: str | None = None
    set: Settings = Field(default_factory=dict)
    evaluate: EvaluateConfig = EvaluateConfig()


class _File(Strict):
    defaults: Defaults = Defaults()
    plants: Annotated[tuple[PlantEntry, ...], Field(min_length=1, max_length=MAX_PLANTS)]

    @model_validator(mode="after")
    def _names_and_runs(self) -> _File:
        seen: set[str] = set()
        for number, entry in enumerate(self.plants):
            if entry.name.lower() in seen:  # some file systems take upper and lower case for the same
                raise ValueError(f"plants.{number}.name: there is another '{entry.name}'")
            seen.add(entry.name.lower())
            if entry.run is None and self.defaults.run is None:
                raise ValueError(f"plants.{number}.name: '{entry.name}' has no 'run', and the defaults have none")
        return self


@dataclass(frozen=True)
class FleetFile:
    """A fleet, with all defaults filled in.

    Attributes:
        path: the file.
        plants: in its order.
    """

    path: Path
    plants: tuple[PlantEntry, ...]

    @property
    def folder(self) -> Path:
        """The folder that paths in it are relative to."""
        return self.path.resolve().parent


def load_fleet(path: Path) -> FleetFile:
    """Reads a fleet file. Whether its plants' files are there and right is for each plant to find out.

    Raises:
        ConfigError: a mistake in the file, with its line, field and the nearest valid name.
    """
    if path.is_file() and path.stat().st_size > MAX_BYTES:
        raise ConfigError(f"is larger than {MAX_BYTES >> 20} MiB", where=str(path), cure="Name a fleet file.")
    file = validate(_File, read_yaml(path, ConfigError), path, ConfigError)
    return FleetFile(path, tuple(_filled(entry, file.defaults) for entry in file.plants))


def as_overrides(settings: Settings) -> Sequence[str]:
    """Settings as `RunConfig.load` takes them: `section.field=value`."""
    return [f"{name}={json.dumps(value)}" for name, value in settings.items()]


def _filled(entry: PlantEntry, defaults: Defaults) -> PlantEntry:
    own = {name: getattr(entry.evaluate, name) for name in entry.evaluate.model_fields_set}
    changes = {
        "run": entry.run or defaults.run,
        "set": defaults.set | entry.set,
        "evaluate": defaults.evaluate.model_copy(update=own),
    }
    return entry.model_copy(update=changes)
