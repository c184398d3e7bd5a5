"""What differs between runs: of settings and figures only the fields in which not all are the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from controlkit.runs.summary import RunSummary

Differences = dict[str, list[Any]]


def differences(runs: Sequence[RunSummary]) -> Differences:
    """Field -> its value in each run, in their order; `None` where a run does not have it.

    Records come first (plant, data, state, verdict), then settings, then figures.
    """
    columns = [{**_record(run), **run.settings, **run.figures} for run in runs]
    fields = dict.fromkeys(name for column in columns for name in column)
    table = {name: [column.get(name) for column in columns] for name in fields}
    return {name: values for name, values in table.items() if any(value != values[0] for value in values)}


def _record(run: RunSummary) -> Mapping[str, Any]:
    return {
        "plant": run.plant,
        "method": run.method,
        "state": run.state,
        "verdict": run.verdict,
        "data_sha256": run.data_sha256,
        "commit": run.commit,
    }
