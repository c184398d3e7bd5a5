"""What a fleet came to: `fleet.json`, one record a plant."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import controlkit
from controlkit.files import write_json
from controlkit.fleet.page import INDEX, write_page
from controlkit.runs.reported import Gain

SCHEMA = 1
FILE = "fleet.json"
PLANTS = "plants"

# `waiting` only while a fleet is under way, or after it was interrupted.
State = Literal["done", "failed", "lost", "waiting"]


@dataclass(frozen=True)
class PlantRecord:
    """One plant.

    Attributes:
        name: in the fleet file; plant: in its plant file.
        state: `failed` has a message; `lost` means that its worker died at every try.
        stage: in which it failed.
        message: one line: why it failed, or why nothing was exported.
        verdict, gain: of its report.
        report, quality, bundle: paths of report, data-quality report and bundle, relative to the fleet's folder.
        data_sha256: of its data set.
        done: stages that were run this time; the others had been before.
        warnings: what the stages told.
        seconds: of this time.
    """

    name: str
    plant: str = ""
    state: State = "waiting"
    stage: str = ""
    message: str = ""
    verdict: str | None = None
    gain: Gain | None = None
    report: str | None = None
    quality: str | None = None
    bundle: str | None = None
    data_sha256: str = ""
    done: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    seconds: float = 0.0


@dataclass(frozen=True)
class Record:
    """A fleet.

    Attributes:
        name: of its file.
        plants: in its order.
    """

    name: str
    plants: tuple[PlantRecord, ...]

    @property
    def failed(self) -> tuple[PlantRecord, ...]:
        """The plants that something went wrong with."""
        return tuple(plant for plant in self.plants if plant.state in ("failed", "lost"))

    @property
    def counts(self) -> dict[str, int]:
        """How many plants have each verdict, failed, wait, and have a bundle."""
        found = Counter(
            plant.verdict if plant.state == "done" and plant.verdict else plant.state for plant in self.plants
        )
        return dict(found) | {"exported": sum(plant.bundle is not None for plant in self.plants)}

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "schema": SCHEMA,
            "version": controlkit.__version__,
            "fleet": self.name,
            "counts": self.counts,
            "plants": [asdict(plant) for plant in self.plants],
        }


def write_record(record: Record, out: Path) -> None:
    """Writes `fleet.json` and `index.html`."""
    content = record.to_dict()
    write_json(out / FILE, content)
    write_page(content, out / INDEX)


def with_links(plant: PlantRecord, out: Path, *, bundle: bool) -> PlantRecord:
    """A record with the paths, relative to the fleet's folder, of what there is of its plant."""
    folder = Path(PLANTS, plant.name)

    def there(path: Path) -> str | None:
        return path.as_posix() if (out / path).is_file() else None

    return replace(
        plant,
        report=there(folder / "run" / "report.html"),
        quality=there(folder / "data" / "quality.html"),
        bundle=(folder / "bundle").as_posix() if bundle else None,
    )
