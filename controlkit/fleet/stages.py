"""Which of a plant's stages are done: by the hash of what went into each and of what came out.

`stages.json` in the plant's folder keeps them, so that the same command goes on after an interruption, a dead worker or
a changed log, and repeats only what has to be.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controlkit.errors import ArtifactError
from controlkit.files import read_json, sha256_of, write_json

FILE = "stages.json"
STAGES = ("ingest", "train", "evaluate", "export")
Stage = Literal["check", "ingest", "train", "evaluate", "export"]
Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Done(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    inputs: Hash
    outputs: dict[str, Hash]


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1] = Field(1, alias="schema", serialization_alias="schema")
    now: Stage | None = None
    done: dict[str, _Done] = Field(default_factory=dict)


class Stages:
    """The stages of one plant.

    Args:
        folder: the plant's; a damaged or missing record there means that nothing is done.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._content = _read(folder)

    @property
    def now(self) -> Stage | None:
        """The stage that was begun last, if it has not ended."""
        return self._content.now

    def is_done(self, stage: Stage, inputs: Mapping[str, Any]) -> bool:
        """Whether a stage was finished with the same inputs, and its files are still what they were then."""
        done = self._content.done.get(stage)
        if done is None or done.inputs != _digest(inputs):
            return False
        files = {name: self._folder / name for name in done.outputs}
        return all(path.is_file() and sha256_of(path) == done.outputs[name] for name, path in files.items())

    def begin(self, stage: Stage) -> None:
        """A stage begins; what came of it before counts no more."""
        self._content.done.pop(stage, None)
        self._content.now = stage
        self._write()

    def finish(self, stage: Stage, inputs: Mapping[str, Any], outputs: Sequence[Path]) -> None:
        """A stage ended.

        Args:
            stage: which.
            inputs: plain values that it depends on.
            outputs: its chief files, within the plant's folder.
        """
        hashes = {path.relative_to(self._folder).as_posix(): sha256_of(path) for path in outputs}
        self._content.done[stage] = _Done(inputs=_digest(inputs), outputs=hashes)
        self._content.now = None
        self._write()

    def _write(self) -> None:
        write_json(self._folder / FILE, self._content.model_dump(mode="json", by_alias=True))


def _read(folder: Path) -> _File:
    if not (folder / FILE).is_file():
        return _File(schema=1)
    try:
        return _File.model_validate(read_json(folder / FILE))
    except (ArtifactError, ValidationError):
        return _File(schema=1)


def _digest(inputs: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()
