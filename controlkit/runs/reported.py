"""What an evaluation report says of one run: its own row among the candidates, told by the hash of its weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field, ValidationError

from controlkit.errors import ArtifactError
from controlkit.evaluation.report import SCHEMA
from controlkit.evaluation.verdict import Verdict
from controlkit.files import sha256_of
from controlkit.runs.reading import MAX_LARGE, read_object, require_file

REPORT, PAGE, WEIGHTS = "report.json", "report.html", Path("policy", "models.pt")
Name = Annotated[str, Field(max_length=1000)]


@dataclass(frozen=True)
class Gain:
    """Policy minus operator per period, with its interval; `None` where the report gives no number."""

    value: float | None
    low: float | None
    high: float | None
    unit: str

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "unknown"
        return f"{self.value:+.3g} ({self.low:+.3g} .. {self.high:+.3g}) {self.unit}"


@dataclass(frozen=True)
class Reported:
    """Verdict and figures of one run.

    Attributes:
        verdict: of this run, not of the report's best candidate.
        gain: over the operator.
        figures: other estimates, by name, in units of the plant per period, and shares 0 .. 1.
    """

    verdict: Verdict
    gain: Gain
    figures: dict[str, float]


class _Estimate(BaseModel):
    value: float | None
    low: float | None
    high: float | None


class _Support(BaseModel):
    share: float | None


class _Candidate(BaseModel):
    name: Name
    verdict: Verdict
    gain: _Estimate
    model: _Estimate
    fqe: _Estimate
    doubly_robust: _Estimate
    support: _Support


class _Policy(BaseModel):
    name: Name
    sha256: Name


class _Provenance(BaseModel):
    policies: Annotated[list[_Policy], Field(max_length=1000)]


class _Plant(BaseModel):
    reward_unit: Name


class _Report(BaseModel):
    # What is read here has been the same in all versions.
    version: Annotated[int, Field(ge=1, le=SCHEMA, alias="schema")]
    plant: _Plant
    candidates: Annotated[list[_Candidate], Field(max_length=1000)]
    provenance: _Provenance


def read_reported(run: Path, folder: Path | None = None) -> Reported | None:
    """What a report says of a run; `None` where there is no report.

    Args:
        run: the run folder.
        folder: where the report is; the run folder where not given.

    Raises:
        ArtifactError: the report is damaged or of another version, or it is not about these weights.
    """
    path = (folder or run) / REPORT
    if not path.is_file():
        return None
    report = _parse(read_object(path, MAX_LARGE), path)
    weights = sha256_of(require_file(run / WEIGHTS, 1 << 40))
    names = {policy.name for policy in report.provenance.policies if policy.sha256 == weights}
    mine = next((candidate for candidate in report.candidates if candidate.name in names), None)
    if mine is None:
        raise ArtifactError("is not about these weights", where=str(path), cure="Evaluate the run again.")
    figures: dict[str, Any] = {}
    for name in ("gain", "model", "fqe", "doubly_robust"):
        estimate: _Estimate = getattr(mine, name)
        figures |= {name: estimate.value, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    figures["support"] = mine.support.share
    known = {name: value for name, value in figures.items() if value is not None}
    gain = Gain(mine.gain.value, mine.gain.low, mine.gain.high, report.plant.reward_unit)
    return Reported(mine.verdict, gain, known)


def _parse(content: dict[str, Any], path: Path) -> _Report:
    try:
        return _Report.model_validate(content)
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(str(part) for part in first["loc"])[:80]
        raise ArtifactError(
            f"is no report of this version ({field}: {first['msg'].lower()})",
            where=str(path),
            cure="Evaluate the run again.",
        ) from None
