"""`tracking.json` in a run folder: which MLflow run it belongs to, and what of it has been sent there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controlkit.errors import ArtifactError
from controlkit.files import write_json
from controlkit.runs.reading import read_object

FILE = "tracking.json"
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Name = Annotated[str, Field(max_length=1000)]


class Ledger(BaseModel):
    """What has been sent.

    Attributes:
        store: its address without secrets; an address is never taken from here, only compared.
        run_id: of the MLflow run.
        rows: of metrics.csv.
        figures: the last values of those that have no row.
        artifacts: path in the store -> hash of the file.
        bundles: hash of a bundle's manifest -> version in the model registry.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1] = Field(1, alias="schema", serialization_alias="schema")
    store: Name
    run_id: Annotated[str, Field(pattern=r"^[0-9A-Za-z_-]{1,64}$")]
    rows: Annotated[int, Field(ge=0)] = 0
    figures: Annotated[dict[Name, float], Field(max_length=10_000)] = Field(default_factory=dict)
    artifacts: Annotated[dict[Name, Hash], Field(max_length=1000)] = Field(default_factory=dict)
    bundles: Annotated[dict[Hash, Name], Field(max_length=10_000)] = Field(default_factory=dict)

    def write(self, run: Path) -> None:
        """Writes it into a run folder."""
        write_json(run / FILE, self.model_dump(mode="json", by_alias=True))


def read_ledger(run: Path) -> Ledger | None:
    """What a run folder says of itself; `None` where it was never tracked, or says nothing usable."""
    if not (run / FILE).is_file():
        return None
    try:
        return Ledger.model_validate(read_object(run / FILE))
    except (ArtifactError, ValidationError):
        return None
