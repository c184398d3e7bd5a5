"""Settings drawn from ranges by Optuna, in rounds: one plan draws the same settings whichever run ends first.

The objective is the low end of the interval of the gain in the run's own offline evaluation, averaged over the seeds:
a search maximises what it is given, and a point estimate would lead it to where the estimate is too good to be true.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from controlkit.errors import ConfigError, ControlkitError
from controlkit.sweeps.ledger import RunRecord
from controlkit.sweeps.plan import Plan, Run
from controlkit.sweeps.settings import Range

RunAll = Callable[[Sequence[Run]], Sequence[RunRecord]]


def search(plan: Plan, run_all: RunAll, refused: Callable[[str], None]) -> list[RunRecord]:
    """Draws and runs all trials of a plan.

    Args:
        plan: with ranges.
        run_all: runs what is not done yet, and returns a record a run.
        refused: is told of settings that the run configuration refuses (fields may be right alone and wrong together);
            they count as failed.

    Raises:
        ControlkitError: Optuna is not installed.
    """
    optuna = _optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    seed = plan.config.seed
    if plan.sampler == "random":
        sampler = optuna.samplers.RandomSampler(seed=seed)
    else:
        sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    spans = {name: _distribution(optuna, span) for name, span in plan.varied.ranges.items()}
    records: list[RunRecord] = []
    for first in range(0, plan.trials, plan.varied.at_once):
        numbers = range(first, min(first + plan.varied.at_once, plan.trials))
        trials, runs, wrong = {}, [], []
        for number in numbers:
            trials[number] = study.ask(spans)
            values = _values(plan, trials[number].params)
            try:
                runs += plan.runs_of(number, values)
            except ConfigError as problem:
                wrong += _refused(plan, number, values, str(problem))
                refused(f"trial {number} is left out: {problem}")
        found = [*run_all(runs), *wrong]
        records += found
        for number, trial in trials.items():
            lows = [record.low for record in found if record.setting == number]
            known = [low for low in lows if low is not None]
            if known and len(known) == len(lows):
                study.tell(trial, sum(known) / len(known))
            else:
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
    return records


def _refused(plan: Plan, number: int, values: dict[str, Any], message: str) -> list[RunRecord]:
    seeds = range(plan.config.seed, plan.config.seed + plan.seeds)
    return [
        RunRecord(plan.name_of(number, seed), number, values, seed, "failed", message, 0, 0.0, {}) for seed in seeds
    ]


def _optuna() -> Any:
    try:
        return importlib.import_module("optuna")
    except ImportError:
        raise ControlkitError(
            "ranges are drawn from by Optuna, which is not installed",
            where="sweep",
            cure="Install it: pip install 'controlkit[ray]', or sweep over a grid.",
        ) from None


def _distribution(optuna: Any, span: Range) -> Any:
    kinds = optuna.distributions
    if span.choices is not None:  # by their numbers: a choice may be a list
        return kinds.CategoricalDistribution(tuple(range(len(span.choices))))
    if span.whole:
        return kinds.IntDistribution(span.low, span.high, log=span.log, step=1 if span.step is None else span.step)
    return kinds.FloatDistribution(float(span.low or 0.0), float(span.high or 0.0), log=span.log, step=span.step)


def _values(plan: Plan, drawn: dict[str, Any]) -> dict[str, Any]:
    found = {}
    for name, span in plan.varied.ranges.items():
        found[name] = drawn[name] if span.choices is None else span.choices[drawn[name]]
    return found
