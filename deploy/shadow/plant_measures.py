"""What the plant did under the operator: the objective it achieved, its limits, and how well one step was foreseen."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.objective import Objective
from controlkit.spec import CostTerm, FunctionTerm, PlantSpec, RangeTerm, RecordedTerm, TrackTerm
from deploy.bundle.store import Bundle
from deploy.shadow.comparison import Steps
from deploy.shadow.reading import CycleBlock
from deploy.shadow.timeline import Timeline

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Baseline:
    """The objective by the plant file's formula, per period, over steps in SHADOW; and how often limits were left.

    A term that names a Python function is computed only where the caller allows it: the plant file in a bundle is
    data, and importing what it names would run it.

    Args:
        bundle: the plant.
        start_ns, period_ns: of the time line.
        functions: whether functions that the plant file names may be imported.

    Attributes:
        names: terms that are computed; missing: terms that are not, and why.
        whole: whether the sum of the computed terms is the objective.
        over_time: sum of the computed terms.
    """

    def __init__(self, bundle: Bundle, start_ns: int, period_ns: int, functions: bool) -> None:
        spec = bundle.spec
        self.missing: dict[str, str] = {}
        kept = []
        for term in spec.objective:
            if isinstance(term, RecordedTerm):
                self.missing["recorded reward"] = "it came with the training data; the plant file has no formula"
            elif isinstance(term, FunctionTerm) and not functions:
                self.missing[f"function {term.function}"] = "a Python function, which is not imported unless allowed"
            else:
                kept.append(term)
        self.unit = reward_unit(spec)
        self._objective = self._constraints = None
        # Rules of a trip may name functions, too, and are of no use here.
        plain = spec.to_dict() | {"episodes": {}}
        if kept:
            self._objective = Objective(
                PlantSpec.from_dict(plain | {"objective": [term.model_dump(mode="json") for term in kept]})
            )
        self.whole = not self.missing
        self.names = () if self._objective is None else self._objective.term_names
        layout = self._layout = bundle.layout
        self._slots = [layout.index(f"{tag}@-1") if f"{tag}@-1" in layout.names else None for tag in layout.action_tags]
        self.over_time = Timeline(start_ns, period_ns, 1)
        self._sums, self._counts = np.zeros(len(self.names)), np.zeros(len(self.names))
        self._limits = _limits(spec)
        self._outside, self._judged = np.zeros(len(self._limits)), np.zeros(len(self._limits))

    def add(self, block: CycleBlock, steps: Steps) -> None:
        """Takes pairs of cycles."""
        usable = np.where(block.ok, block.obs, np.nan).astype(np.float64)
        frame, following = usable[steps.first], usable[steps.second]
        tags = self._layout.frame_tags
        for i, (tag, low, high, _) in enumerate(self._limits):
            value = following[:, tags.index(tag)]
            self._judged[i] += np.isfinite(value).sum()
            with np.errstate(invalid="ignore"):
                self._outside[i] += ((value < low) | (value > high)).sum()
        if self._objective is None or not len(steps.first):
            return
        observation = np.full((len(frame), self._layout.size), np.nan)
        observation[:, : len(tags)] = frame
        for i, slot in enumerate(self._slots):
            if slot is not None:
                observation[:, slot] = steps.before[:, i]
        terms = np.stack(
            [
                np.broadcast_to(np.asarray(value, dtype=np.float64), (len(frame),))
                for value in self._objective.terms(observation, steps.done, following).values()
            ],
            axis=1,
        )
        known = np.isfinite(terms)
        self._counts += known.sum(axis=0)
        self._sums += np.where(known, terms, 0.0).sum(axis=0)
        self.over_time.add(steps.time_ns, np.where(known.all(axis=1), terms.sum(axis=1), np.nan)[:, None])

    def terms(self) -> list[dict[str, Any]]:
        """Mean of each computed term and the number of steps in it."""
        return [
            {"term": name, "mean": float(total / count) if count else np.nan, "steps": int(count)}
            for name, total, count in zip(self.names, self._sums, self._counts, strict=True)
        ]

    def limits(self) -> list[dict[str, Any]]:
        """How often the measured plant left each limit, beside the tolerated share."""
        return [
            {
                "name": name_of_limit(tag, low, high),
                "allowed": allowed,
                "outside": float(outside / judged) if judged else np.nan,
                "samples": int(judged),
            }
            for (tag, low, high, allowed), outside, judged in zip(
                self._limits, self._outside, self._judged, strict=True
            )
        ]


class Prediction:
    """One-step errors of the model per state tag, where the command in force was near the policy's.

    `predicted` is the next sample under the policy's command: where the operator commanded something else, the
    difference is no error of the model.
    """

    def __init__(self, bundle: Bundle) -> None:
        layout, spec = bundle.layout, bundle.spec
        self.tags, self._columns = layout.state_tags, layout.state_columns
        self.ranges = np.array([spec.tags[tag].range for tag in self.tags], dtype=np.float64)
        size = len(self.tags)
        self._count, self._error, self._squared = np.zeros(size), np.zeros(size), np.zeros(size)
        self._worst, self._still = np.zeros(size), np.zeros(size)

    def add(self, block: CycleBlock, steps: Steps, near: Bools) -> None:
        """Takes the pairs in which policy and operator were `near` (P,)."""
        first, second = steps.first[near], steps.second[near]
        usable = np.where(block.ok, block.obs, np.nan).astype(np.float64)[:, self._columns]
        error = block.predicted[first][:, self._columns].astype(np.float64) - usable[second]
        change = usable[second] - usable[first]
        known = np.isfinite(error) & np.isfinite(change)
        error, change = np.where(known, error, 0.0), np.where(known, change, 0.0)
        self._count += known.sum(axis=0)
        self._error += error.sum(axis=0)
        self._squared += (error**2).sum(axis=0)
        self._still += (change**2).sum(axis=0)
        if len(error):
            self._worst = np.maximum(self._worst, np.abs(error).max(axis=0))

    def summary(self) -> list[dict[str, Any]]:
        """Bias, root mean square and largest error; beside the error of 'nothing changes', and the tag's range."""
        result = []
        for i, tag in enumerate(self.tags):
            count = self._count[i]
            known = count > 0
            rms = float(np.sqrt(self._squared[i] / count)) if known else np.nan
            still = float(np.sqrt(self._still[i] / count)) if known else np.nan
            result.append(
                {
                    "tag": tag,
                    "steps": int(count),
                    "bias": float(self._error[i] / count) if known else np.nan,
                    "rms": rms,
                    "largest": float(self._worst[i]) if known else np.nan,
                    "persistence_rms": still,
                    "ratio": rms / still if known and still > 0 else np.nan,
                    "share_of_range": rms / float(np.ptp(self.ranges[i])),
                }
            )
        return result


def reward_unit(spec: PlantSpec) -> str:
    """The unit of a reward per period: the tags' own where all terms share one and none is weighted."""
    units = set()
    for term in spec.objective:
        if isinstance(term, FunctionTerm | RecordedTerm) or term.weight != 1.0:
            return "objective units"
        squared = isinstance(term, TrackTerm | RangeTerm) and term.error == "squared"
        unit = spec.tags[term.tag].unit
        if isinstance(term, TrackTerm | CostTerm | RangeTerm):
            units.add(f"({unit})²" if squared else unit)
    return units.pop() if len(units) == 1 else "objective units"


def name_of_limit(tag: str, low: float, high: float) -> str:
    """A limit in words."""
    ends = [f"at least {low:g}" if np.isfinite(low) else "", f"at most {high:g}" if np.isfinite(high) else ""]
    return f"{tag} {' and '.join(end for end in ends if end)}"


def _limits(spec: PlantSpec) -> list[tuple[str, float, float, float]]:
    """Tag, low, high and tolerated share of every hard limit and constraint of a state tag."""
    hard = [(tag, *spec.limits(tag), 0.0) for tag in spec.state_tags if spec.tags[tag].limits is not None]
    soft = [
        (c.tag, -np.inf if c.low is None else c.low, np.inf if c.high is None else c.high, c.share)
        for c in spec.constraints
    ]
    return [*hard, *soft]
