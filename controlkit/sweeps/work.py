"""One run of a sweep, as a process of a cluster does it: train, or go on from the checkpoint, then evaluate."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from controlkit.config import RunConfig
from controlkit.errors import ControlkitError
from controlkit.files import read_json
from controlkit.progress import Progress, Silent

if TYPE_CHECKING:
    from controlkit.artifacts import RunFolder
    from controlkit.dataset import TransitionDataset

PLAN, RUNS = "plan.json", "runs"
EVALUATION_SEED = 0


def payload(folder: Path, name: str, config: RunConfig, data: Path, hashes: Mapping[str, str], gamma: float) -> Any:
    """What `train_and_evaluate` needs, as plain values."""
    return {
        "sweep": str(folder.resolve()),
        "name": name,
        "config": config.to_dict(),
        "data": str(data.resolve()),
        "hashes": dict(hashes),
        "gamma": gamma,
    }


def train_and_evaluate(asked: dict[str, Any]) -> dict[str, Any]:
    """Trains a run to its end and judges it by the quick offline evaluation.

    Args:
        asked: see `payload`.

    Returns:
        Verdict, gain over the operator (with its interval), support, hash of the policy and seconds of training.

    Raises:
        ControlkitError: the sweep's folder or its data is not seen from this machine, or training failed.
    """
    import torch

    from controlkit.evaluation.assessment import evaluate
    from controlkit.evaluation.candidates import of_run

    folder, dataset = train_run(asked)
    torch.set_num_threads(folder.config.threads)  # training does so, too, where there was any left to do
    candidate = of_run(folder)
    report = evaluate([candidate], dataset, quick=True, progress=Silent(), seed=EVALUATION_SEED, gamma=asked["gamma"])
    found = report.content["candidates"][0]
    return {
        "verdict": found["verdict"],
        "gain": found["gain"],
        "support": found["support"]["share"],
        "policy_sha256": candidate.sha256,
        "training_seconds": folder.state.get("seconds"),
    }


def train_run(asked: dict[str, Any], progress: Progress | None = None) -> tuple[RunFolder, TransitionDataset]:
    """The run folder, trained to its end: from its checkpoint where there is one, not at all where it is done.

    Raises:
        ControlkitError: as `train_and_evaluate`.
    """
    from controlkit.artifacts import RunFolder
    from controlkit.dataset import RECORD, TransitionDataset
    from controlkit.morec.train import train

    sweep, data = Path(asked["sweep"]), Path(asked["data"])
    for seen in (sweep / PLAN, data / RECORD):
        if not seen.is_file():
            raise ControlkitError(
                "is not seen from the machine that runs this",
                where=str(seen),
                cure="Put the data set and --out on a disk that all machines share, under the same path.",
            )
    record = read_json(data / RECORD)
    if any(record.get(name) != value for name, value in asked["hashes"].items()):
        raise ControlkitError("is not the data set of the sweep", where=str(data), cure="Share one disk.")
    dataset = TransitionDataset.load(data)
    config, path = RunConfig.from_dict(asked["config"]), sweep / RUNS / asked["name"]
    if (path / "run.json").is_file():
        folder = RunFolder.open(path)
        folder.require_data(record, str(data))
        folder.require_config(config)
    else:
        shutil.rmtree(path, ignore_errors=True)  # cut while it was made: it holds nothing yet
        folder = RunFolder.create(path, config, dataset, record)
    if not folder.trained:
        train(folder, dataset, progress or Silent())
    return folder, dataset
