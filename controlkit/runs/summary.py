"""One run folder as one row: settings, progress, figures and verdict, read without torch; a damaged one says why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from controlkit.baselines.settings import METHODS
from controlkit.config import RunConfig
from controlkit.errors import ArtifactError, ControlkitError
from controlkit.runs.reading import read_metrics, read_object, require_file
from controlkit.runs.reported import REPORT, WEIGHTS, Gain, Reported, read_reported
from controlkit.spec import PlantSpec

SCHEMA = 2  # of run.json
STATE, METRICS = "run.json", "metrics.csv"

State = Literal["finished", "unfinished", "damaged"]


@dataclass(frozen=True)
class RunSummary:
    """A run folder.

    Attributes:
        path, name: the folder, and its last part.
        state: `unfinished` was interrupted, or is being trained now.
        problem: what is damaged, or wrong with the report; empty where nothing is.
        changed: when anything in it last changed, seconds since 1970.
        plant, seed, method: what it is a run of; the method is the one of docs/methods.md whose settings it has.
        updates, of_updates: updates of the policy up to the last checkpoint, and in all.
        verdict, gain: of its report, where there is one about these weights.
        data_sha256, commit: where it comes from.
        settings: dotted field -> value.
        figures: last value of each metric, seconds, and the report's estimates.
    """

    path: Path
    name: str
    state: State
    problem: str = ""
    changed: float = 0.0
    plant: str = ""
    seed: int | None = None
    method: str = ""
    updates: int = 0
    of_updates: int = 0
    verdict: str | None = None
    gain: Gain | None = None
    data_sha256: str = ""
    commit: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self) | {"path": str(self.path), "settings": dict(self.settings), "figures": dict(self.figures)}


def summarise(path: Path) -> RunSummary:
    """Reads a run folder; whatever is wrong with it becomes its `problem`."""
    name = path.resolve().name
    try:
        return _summarised(path, name)
    except ControlkitError as problem:
        return RunSummary(path, name, "damaged", str(problem), _changed(path))
    except OSError as problem:
        return RunSummary(path, name, "damaged", f"cannot be read ({problem.strerror})", _changed(path))


def flat(content: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted field -> value."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return found


def method_of(settings: Mapping[str, Any]) -> str:
    """The method whose changes all stand in dotted settings; of several the one that changes most of the defaults."""
    defaults = flat(RunConfig().to_dict())

    def changed(name: str) -> int:
        return sum(defaults[key] != value for key, value in METHODS[name].items())

    fitting = [name for name, changes in METHODS.items() if all(settings.get(key) == changes[key] for key in changes)]
    return max(fitting, key=changed)  # the first of equals is the one that changes nothing


def _summarised(path: Path, name: str) -> RunSummary:
    state = read_object(path / STATE)
    if state.get("schema") != SCHEMA or state.get("state") not in ("training", "trained"):
        raise ArtifactError(
            f"is of another version (schema {state.get('schema')!r}, state {state.get('state')!r})",
            where=str(path / STATE),
            cure="Train again.",
        )
    config = RunConfig.load(require_file(path / "config.yaml"))
    plant = PlantSpec.load(require_file(path / "spec.yaml"))
    data = read_object(path / "dataset.json")
    finished = state["state"] == "trained"
    rows = read_metrics(path / METRICS) if finished or (path / METRICS).is_file() else []
    last: dict[str, float] = {}
    for row in rows:
        last |= row
    seconds = {key: state[key] for key in ("seconds", "world_seconds", "policy_seconds") if _is_number(state.get(key))}
    reported, problem = None, ""
    if finished:
        require_file(path / WEIGHTS, 1 << 40)
        reported, problem = _reported(path)
    settings = flat(config.to_dict())
    return RunSummary(
        path=path,
        name=name,
        state="finished" if finished else "unfinished",
        problem=problem,
        changed=_changed(path),
        plant=plant.name,
        seed=config.seed,
        method=method_of(settings),
        updates=int(last.get("updates", 0)),
        of_updates=config.policy.updates,
        verdict=None if reported is None else reported.verdict,
        gain=None if reported is None else reported.gain,
        data_sha256=str(data.get("data_sha256", "")),
        commit=str(state.get("commit", "")),
        settings=settings,
        figures=last | seconds | ({} if reported is None else reported.figures),
    )


def _reported(path: Path) -> tuple[Reported | None, str]:
    """A report that cannot be used leaves the run what it is."""
    try:
        return read_reported(path), ""
    except ArtifactError as problem:
        return None, str(problem)


def _changed(path: Path) -> float:
    times = []
    for name in (STATE, METRICS, REPORT):
        try:
            times.append((path / name).stat().st_mtime)
        except OSError:
            continue
    return max(times, default=0.0)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
