"""What it takes to get an evaluation's figures again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

import controlkit
from controlkit.artifacts import commit
from controlkit.dataset import Split, TransitionDataset
from controlkit.evaluation.candidates import Candidate
from controlkit.evaluation.findings import Findings


def provenance(found: Findings, policies: Sequence[Candidate], split: Split, data: TransitionDataset) -> dict[str, Any]:
    """Versions, seed, effort, hashes and settings: plain values."""
    start, stop = found.first_row, len(data)
    return {
        "version": controlkit.__version__,
        "commit": commit(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "seed": found.seed,
        "quick": found.quick,
        "effort": asdict(found.effort),
        "seconds": found.seconds,
        "rows": {"data set": len(data), "evaluation log": stop - start, "usable": len(found.log.rows)},
        "evaluation_log": [_stamp(data, start), _stamp(data, stop - 1)],
        "spec_sha256": data.spec.sha256(),
        "split": split.to_dict(),
        "policies": [
            {"name": each.policy.name, "kind": each.kind, "source": Path(each.source).name, "sha256": each.sha256}
            for each in policies
        ],
        "runs": [
            {
                "path": run.path.name,
                "data_sha256": run.data.get("data_sha256", ""),
                "split": run.split.to_dict(),
                "config": run.config.to_dict(),
            }
            for run in (each.run for each in policies)
            if run is not None
        ],
        "sources": dict(data.sources),
    }


def _stamp(data: TransitionDataset, row: int) -> str:
    return f"{np.datetime64(int(data.time_ns[row]), 'ns').astype('datetime64[s]')} UTC"
