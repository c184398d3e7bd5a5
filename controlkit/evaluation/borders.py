"""Checks at the borders: do runs, data and plant file belong together, and do the rewards follow from the file?"""

from __future__ import annotations

import numpy as np

from controlkit.artifacts import RunFolder
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError, ConfigError, DataError, nearest
from controlkit.layout import Layout
from controlkit.objective import Objective
from controlkit.spec import PlantSpec

# How far recorded rewards may lie from the formula, as a share of their spread (they are stored in single precision).
REWARD_TOLERANCE = 1e-3


def require_same_plant(run: RunFolder, first: RunFolder, data: TransitionDataset) -> None:
    """Checks that a run was trained on this data, with this plant file, and split like the first of the runs.

    Raises:
        ArtifactError, DataError: it was not; says what differs.
    """
    data.layout.require_same(Layout.from_spec(run.spec), str(run.path))
    if run.spec.sha256() != data.spec.sha256():
        raise ArtifactError(
            "was trained with another plant file (objective, limits or rules differ)",
            where=str(run.path),
            cure="Give the data set that the run was trained on to --data.",
        )
    if run.split.to_dict() != first.split.to_dict():
        raise ArtifactError(
            f"was trained on another split of the data than {first.path}",
            where=str(run.path),
            cure="Train both with the same split, so that neither has seen the evaluation part.",
        )
    last = max(stop for _, stop in run.split.bounds.values())
    if last > len(data):
        raise DataError(
            f"the data set has {len(data)} rows, the run's split goes up to {last}",
            where=str(run.path),
            cure="Give the data set that the run was trained on to --data.",
        )


def require_regime_tag(spec: PlantSpec, tag: str | None) -> None:
    """Checks that a tag can tell operating regimes: it is measured, and known at every start state.

    Raises:
        ConfigError: there is none of this name among the measured tags.
    """
    if tag is not None and tag not in spec.frame_tags:
        raise ConfigError(
            f"'{tag}' cannot tell operating regimes: it is no measured tag of this plant",
            where="controlkit evaluate --regime",
            cure=nearest(tag, spec.frame_tags),
        )


def require_formula(data: TransitionDataset, objective: Objective) -> None:
    """Checks that recorded rewards are what the plant description says.

    Raises:
        DataError: they contradict the formula; names the first time stamp and both numbers.
    """
    if data.spec.reward_is_recorded:
        return  # no formula that they could contradict
    rows = data.transitions
    computed = np.empty(len(rows))
    for start in range(0, len(rows), 16384):
        part = rows[start : start + 16384]
        computed[start : start + 16384] = objective.reward(
            data.observations(part), data.actions[part], data.frames[part + 1]
        )
    recorded = data.rewards[rows].astype(np.float64)
    tolerance = REWARD_TOLERANCE * max(float(np.std(computed)), 1e-6) + 1e-5 * np.abs(computed)
    wrong = np.flatnonzero(~(np.abs(recorded - computed) <= tolerance))
    if wrong.size:
        first = int(wrong[0])
        stamp = np.datetime64(int(data.time_ns[rows[first]]), "ns").astype("datetime64[ms]")
        raise DataError(
            f"{wrong.size} of {len(rows)} recorded rewards contradict the objective: {recorded[first]:.6g} is "
            f"recorded, {computed[first]:.6g} follows from the plant file",
            where=f"data set, {stamp} UTC",
            cure="Ingest again with this plant file.",
        )
