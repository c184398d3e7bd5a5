"""Where the data of a suite's tasks comes from: released files, or logs that stand for them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from controlkit.errors import ControlkitError
from controlkit.files import sha256_of
from controlkit.layout import Layout
from controlkit.spec import PlantSpec
from envs.collect import collect
from envs.neorl.behaviour.policy import policy_file
from envs.neorl.data_files import LEVELS
from envs.tasks import get_task

DATA_SEED = 0
# Where the released files lie, in a folder for each benchmark.
DATA_VARIABLE, DATA_FOLDER = "CONTROLKIT_DATA", Path("../shared/data")


class Source(NamedTuple):
    """Where a task's data comes from.

    Attributes:
        released: name of the released file in the data folder, such as `neorl2/DMSD-train.npz`.
        label: what it is called in the table.
        behaviour, episodes: the task's controller that regenerates the data where the released file is not there, and
            how many episodes of it; empty where nothing stands in for the file.
    """

    released: str
    label: str = "the released file"
    behaviour: str = ""
    episodes: int = 0

    def prepare(self, task: str, folder: Path) -> tuple[Path, str]:
        """The data file, made in the folder unless it is there already, and what it is.

        Raises:
            ControlkitError: there is neither the released file nor a behaviour policy to stand in for it.
        """
        path = _data_folder() / self.released
        if path.is_file() or not self.behaviour:
            return data_file(self.released), self.label
        # A kept policy's file says by itself if it is missing, and how it is made.
        digest = sha256_of(policy_file(task, self.behaviour))[:12] if self.behaviour in LEVELS else "own"
        made = folder / f"{task}-{self.behaviour}-{self.episodes}-{digest}.npz"
        if not made.is_file():  # written whole or not at all
            folder.mkdir(parents=True, exist_ok=True)
            collect(get_task(task), made, self.episodes, DATA_SEED, controller=self.behaviour)
        return made, f"regenerated data, NeoRL protocol, {self.episodes} episodes"


def recorded_reward(spec: PlantSpec) -> PlantSpec:
    """The same plant without the formula of its reward."""
    return PlantSpec.from_dict(spec.to_dict() | {"objective": [{"kind": "recorded"}]})


def without_structure(spec: PlantSpec) -> PlantSpec:
    """The same plant as a benchmark's file shows it to one who knows nothing: every column of an observation is a state
    of its own, past samples and past commands too, and no tag is known to be exogenous or to have a history."""
    content = spec.to_dict()
    tags = {}
    for slot in Layout.from_spec(spec).slots:
        name = slot.tag if slot.lag == 0 else f"{slot.tag}_{slot.lag}"
        tags[name] = {"role": "state", "unit": slot.unit, "range": [slot.low, slot.high]}
    for tag in spec.action_tags:
        tags[tag] = content["tags"][tag] | {"history": 0}
    return PlantSpec.from_dict(content | {"tags": tags})


def data_file(name: str) -> Path:
    """A released file in the data folder.

    Raises:
        ControlkitError: it is not there.
    """
    path = _data_folder() / name
    if not path.is_file():
        raise ControlkitError(
            "the released data file is not there",
            where=str(path),
            cure=f"Put it there, or name the folder that holds {name} in {DATA_VARIABLE}.",
        )
    return path


def _data_folder() -> Path:
    return Path(os.environ.get(DATA_VARIABLE, DATA_FOLDER))
