"""The plan of a sweep: settings x seeds, and what tells one sweep from another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from controlkit.config import RunConfig
from controlkit.errors import ConfigError
from controlkit.sweeps.settings import SweepFile, Values, changed, combinations, label, require_valid

SCHEMA = 1
GAMMA = "policy.gamma"
Sampler = Literal["tpe", "random"]


@dataclass(frozen=True)
class Run:
    """One training run: a setting with a seed.

    Attributes:
        name: of its folder.
        setting: number of the setting.
        values: what the setting changes, by dotted field.
        config: complete configuration.
    """

    name: str
    setting: int
    values: Mapping[str, Any]
    config: RunConfig

    @property
    def label(self) -> str:
        """The setting in words."""
        return label(self.values)


@dataclass(frozen=True)
class Plan:
    """A sweep.

    Attributes:
        config: of every run, but for what the sweep changes.
        varied: the grid, or the ranges.
        seeds: of each setting, from the configuration's own seed upwards.
        trials: settings drawn from the ranges; 0 with a grid.
        sampler: draws them: `tpe` (Bergstra et al. 2011, by Optuna) learns from the results so far, `random` does not.
        data: hashes of the data set, as its record holds them.
    """

    config: RunConfig
    varied: SweepFile
    seeds: int
    data: Mapping[str, str]
    trials: int = 0
    sampler: Sampler = "tpe"

    @property
    def gamma(self) -> float:
        """The discount by which all runs are judged, or they could not be compared: the largest that any may have."""
        grid, ranges = self.varied.grid.get(GAMMA, ()), self.varied.ranges.get(GAMMA)
        drawn = ranges.extremes if ranges is not None else ()
        return max(float(value) for value in (*grid, *drawn) or (self.config.policy.gamma,))

    @property
    def total(self) -> int:
        """How many runs there are in all."""
        return (self.trials if self.varied.ranges else len(combinations(self.varied))) * self.seeds

    def grid_runs(self) -> list[Run]:
        """The runs of a grid, a setting's seeds side by side."""
        settings = enumerate(combinations(self.varied))
        return [run for number, values in settings for run in self.runs_of(number, values)]

    def runs_of(self, setting: int, values: Values) -> list[Run]:
        """One run a seed.

        Raises:
            ConfigError: the run configuration refuses the setting.
        """
        first = self.config.seed
        seeds = range(first, first + self.seeds)
        return [
            Run(self.name_of(setting, seed), setting, values, changed(self.config, {**values, "seed": seed}))
            for seed in seeds
        ]

    @staticmethod
    def name_of(setting: int, seed: int) -> str:
        """Name of a run."""
        return f"{setting:03d}-seed{seed}"

    def to_dict(self) -> dict[str, Any]:
        """What a folder's sweep must agree in to be gone on with."""
        return {
            "schema": SCHEMA,
            "config": self.config.to_dict(),
            "varied": self.varied.to_dict(),
            "seeds": self.seeds,
            "trials": self.trials,
            "sampler": self.sampler if self.varied.ranges else "grid",
            "data": dict(self.data),
        }


def make_plan(
    config: RunConfig,
    varied: SweepFile,
    record: Mapping[str, Any],
    *,
    seeds: int,
    trials: int | None = None,
    sampler: Sampler | None = None,
    threads: int = 1,
) -> Plan:
    """A plan all of whose settings have been tried on the run configuration.

    Args:
        config: of the run file.
        varied: what is changed.
        record: `dataset.json` of the data set.
        seeds: training runs a setting.
        trials, sampler: with ranges only.
        threads: of a run.

    Raises:
        ConfigError: options that do not go together, or a setting that the run configuration refuses.
    """
    if varied.ranges and trials is None:
        raise ConfigError("ranges need a number of trials", where="sweep", cure="Say how many settings: --trials 20.")
    if not varied.ranges and (trials is not None or sampler is not None):
        raise ConfigError(
            "--trials and --sampler draw from ranges, and there are none",
            where="sweep",
            cure="Write ranges in a file for --sweep, or leave them out.",
        )
    require_valid(varied, config)
    base = changed(config, {"threads": threads})
    data = {name: str(record[name]) for name in ("data_sha256", "spec_sha256")}
    return Plan(base, varied, seeds, data, trials or 0, sampler or "tpe")
