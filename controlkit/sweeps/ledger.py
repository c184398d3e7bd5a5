"""The sweep's folder: its plan, one record a run, and whether what lies there is this sweep's.

plan.json            configuration, settings, seeds and hashes of the data
records/NAME.json    what became of a run
runs/NAME/           its run folder
sweep.json, sweep.md the standings and the winner; report.html, report.json of all candidates together
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from controlkit.cluster.items import Outcome
from controlkit.errors import ArtifactError
from controlkit.files import read_json, write_json
from controlkit.sweeps.plan import Plan, Run
from controlkit.sweeps.work import PLAN, RUNS

RECORDS = "records"


@dataclass(frozen=True)
class RunRecord:
    """What became of a run.

    Attributes:
        state, message, tries, seconds: as `Outcome` has them.
        result: what the run's evaluation found (see `train_and_evaluate`), empty unless done.
    """

    name: str
    setting: int
    values: Mapping[str, Any]
    seed: int
    state: Literal["done", "failed", "lost"]
    message: str
    tries: int
    seconds: float
    result: Mapping[str, Any]

    @property
    def low(self) -> float | None:
        """Low end of the gain's interval, which both estimators' intervals lie within."""
        found: float | None = self.result["gain"]["low"] if self.result else None
        return found


class Ledger:
    """The records of a sweep, on disk.

    Args:
        folder: of the sweep.
        plan: of the sweep; written where the folder is new or empty.

    Raises:
        ArtifactError: the folder holds another sweep (names the first difference), or something else.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder, self.plan = folder, plan
        content = plan.to_dict()
        if (folder / PLAN).is_file():
            difference = _difference(read_json(folder / PLAN), content)
            if difference is not None:
                name, mine, theirs = difference
                raise ArtifactError(
                    f"holds a sweep that was begun with {name}={mine}, not {theirs}",
                    where=str(folder),
                    cure="Go on with the same settings and data, or choose another --out.",
                )
            return
        if folder.exists() and any(folder.iterdir()):
            raise ArtifactError("exists and holds no sweep", where=str(folder), cure="Choose another --out.")
        write_json(folder / PLAN, content)

    def path(self, run: Run) -> Path:
        """The run folder."""
        return self.folder / RUNS / run.name

    def keep(self, run: Run, outcome: Outcome) -> RunRecord:
        """Writes what became of a run."""
        result = outcome.value if outcome.state == "done" else {}
        record = RunRecord(
            run.name,
            run.setting,
            dict(run.values),
            run.config.seed,
            outcome.state,
            outcome.message,
            outcome.tries,
            round(outcome.seconds, 3),
            result,
        )
        write_json(self._record(run), asdict(record))
        return record

    def kept(self, run: Run) -> RunRecord | None:
        """The record of a run that is done and whose policy is there; what failed or was lost is begun again.

        Raises:
            ArtifactError: the record is damaged.
        """
        path = self._record(run)
        if not path.is_file():
            return None
        content = read_json(path)
        try:
            record = RunRecord(**content)
            done = record.state == "done" and isinstance(record.result["gain"], dict)
        except (TypeError, KeyError):
            raise ArtifactError("is damaged", where=str(path), cure="Remove it: the run is begun again.") from None
        return record if done and (self.path(run) / "policy" / "models.pt").is_file() else None

    def _record(self, run: Run) -> Path:
        return self.folder / RECORDS / f"{run.name}.json"


def _difference(mine: Any, theirs: Any, prefix: str = "") -> tuple[str, Any, Any] | None:
    """Dotted name and both values of the first difference of two nested contents, whichever of them has the field."""
    if isinstance(mine, dict) and isinstance(theirs, dict):
        for name in {**mine, **theirs}:
            found = _difference(mine.get(name), theirs.get(name), f"{prefix}.{name}" if prefix else str(name))
            if found is not None:
                return found
        return None
    return None if mine == theirs else (prefix, mine, theirs)
