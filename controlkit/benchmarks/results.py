"""Records that every benchmark writes: one `results.json`, the same fields everywhere, and a Markdown table of them."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

from controlkit.files import write_json


@dataclass(frozen=True)
class Record:
    """One measured figure.

    Attributes:
        suite, task, method, metric: what was measured.
        value: the figure; a mean where there are several.
        stderr: standard error of the mean over seeds; where there is one, over episodes, or 0.
        seeds, episodes: how many training seeds, and episodes in all.
        seconds: wall clock that the figure cost.
        commit: of the code.
        data_sha256: of the data, empty where there is none (or one per seed).
        machine: processor and cores.
    """

    suite: str
    task: str
    method: str
    metric: str
    value: float
    stderr: float
    seeds: int
    episodes: int
    seconds: float
    commit: str
    data_sha256: str
    machine: str


def write_results(out: Path, records: Sequence[Record]) -> None:
    """Writes `results.json`, whole or not at all."""
    write_json(out / "results.json", [asdict(record) for record in records])


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right-aligned."""
    lines = ["| " + " | ".join(header) + " |", "|---" + "|---:" * (len(header) - 1) + "|"]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


@lru_cache
def machine() -> str:
    """Processor and number of cores, such as `Intel(R) Xeon(R), 2 cores`."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass  # not Linux: the architecture's name will do
    return f"{name}, {os.cpu_count()} cores"
