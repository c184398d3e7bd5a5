"""The suite `runtime`: the figures of the edge.

Tasks:
- `graph`: one step of the controller of a plant of 20 tags and 3 commands (actor 256 x 256, 5 networks of 2 or 4 layers
  of 200, distilled dynamics reward) on one thread, and the size of its bundle;
- `footprint`: memory of the runtime, disk of a base install, time from the start to the first cycle in SHADOW;
- `loop`: 100 cycles a second against an OPC UA server in another process, insecure and encrypted;
- `soak`: a day of plant time with random faults;
- `kpi`: the refrigerator's controller through OPC UA beside the same controller in the simulator.

Each part is kept in `parts/`, bundles in `data/`; a run goes on where it was. Timings mean something only on a machine
that does nothing else.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from controlkit.artifacts import commit
from controlkit.benchmarks.detection_plants import get_plant, prepare
from controlkit.benchmarks.results import Record, machine, markdown_table, write_results
from controlkit.benchmarks.runtime_footprint import base_install, memory, start_s
from controlkit.benchmarks.runtime_graph import bundle_bytes, linear_bundle, step_ms
from controlkit.benchmarks.runtime_kpi import compare
from controlkit.benchmarks.runtime_loop import PARTS, run_loop, served
from controlkit.benchmarks.runtime_soak import CHANCE, run_soak
from controlkit.errors import ControlkitError, nearest
from controlkit.files import read_json, write_json, write_text
from controlkit.progress import Progress
from deploy.bundle import Bundle, load_bundle
from envs.tasks import Task, get_task

SUITE = "runtime"
TASKS = ("graph", "footprint", "loop", "soak", "kpi")
REFRIGERATOR = "refrigerator"
KPI_SEED = 70_000
# metric -> (goal, whether more is better)
GOALS: Mapping[str, tuple[float, bool]] = {
    "step_p50_ms": (0.5, False),
    "step_p99_ms": (2.0, False),
    "bundle_mb": (5.0, False),
    "memory_mb": (150.0, False),
    "base_install_mb": (300.0, False),
    "start_s": (2.0, False),
    "deadline_met_share": (0.999, True),
    "memory_growth_share": (0.05, False),
    "unsafe_commands": (0.0, False),
    "lost_rows": (0.0, False),
    "flagged_share": (1.0, True),
    "kpi_difference_share": (0.02, False),
}


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured.

    Attributes:
        steps: of the graph. layers: of 200 each of the ensemble's networks.
        footprints: which are taken: on an OPC UA plant, on a simulated one, of a base install.
        memory_s: after which memory is looked at. starts: of the runtime, per plant.
        loop_period_s, loop_s: of the loop.
        soak_cycles, soak_chance: of the soak, per seed. soaks: how many.
        kpi_settle, kpi_periods, kpi_speed, phases: see `compare`.
        rows, settings: of the linear plant's controller, see `linear_bundle`.
    """

    steps: int = 20_000
    layers: tuple[int, ...] = (4, 2)
    footprints: tuple[str, ...] = ("opcua", "sim", "install")
    memory_s: float = 60.0
    starts: int = 5
    loop_period_s: float = 0.01
    loop_s: float = 600.0
    soak_cycles: int = 86_400
    soak_chance: float = CHANCE
    soaks: int = 1
    kpi_settle: int = 50
    kpi_periods: int = 1000
    kpi_speed: float = 10.0
    phases: tuple[float, ...] = (0.75, 0.25)
    rows: int = 6000
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


SIZES = Sizes()

Part = dict[str, Any]


def run_suite(out: Path, seeds: int, progress: Progress, *, tasks: Sequence[str] = ()) -> str:
    """Runs the suite.

    Args:
        out: folder for `results.json`, `table.md`, the figures in `parts/` and the bundles in `data/`.
        seeds: of `kpi`.
        progress: is told of each part.
        tasks: which; all where none is named.

    Returns:
        The table, Markdown.

    Raises:
        ControlkitError: an unknown task, or a part that could not be measured.
    """
    for name in tasks:
        if name not in TASKS:
            raise ControlkitError(f"unknown '{name}'", where="benchmark runtime --tasks", cure=nearest(name, TASKS))
    jobs: dict[str, Callable[[], Part]] = {}
    for name in tasks or TASKS:
        jobs |= _JOBS[name](out, SIZES, seeds, progress)
    for name, job in jobs.items():
        kept = out / "parts" / f"{name}.json"
        if not kept.is_file():
            began = time.monotonic()
            part = job()
            stamp = {"seconds": time.monotonic() - began, "commit": commit(), "machine": machine()}
            write_json(kept, part | stamp)
    parts = {path.stem: read_json(path) for path in sorted((out / "parts").glob("*.json"))}
    records = [_record(figure, part) for part in parts.values() for figure in part["figures"]]
    write_results(out, records)
    table = _table(records)
    write_text(out / "table.md", table)
    return table


def _graph(out: Path, sizes: Sizes, seeds: int, progress: Progress) -> dict[str, Callable[[], Part]]:
    def measure(layers: int) -> Part:
        bundle = _linear(out, sizes, layers, 1.0, progress)
        taken = step_ms(bundle, sizes.steps)
        task = f"graph, 5 x {layers} x 200"
        quantiles = {f"step_{name}_ms": float(np.quantile(taken, q)) for name, q in _QUANTILES}
        return {
            "figures": [
                *(_figure(task, metric, value, episodes=sizes.steps) for metric, value in quantiles.items()),
                _figure(task, "bundle_mb", bundle_bytes(bundle) / 1e6),
            ],
            "observation": bundle.layout.size,
            "model_bytes": bundle.manifest.model.bytes,
        }

    return {f"graph-{layers}": lambda layers=layers: measure(layers) for layers in sizes.layers}  # type: ignore[misc]


def _footprint(out: Path, sizes: Sizes, seeds: int, progress: Progress) -> dict[str, Callable[[], Part]]:
    def live() -> Part:
        bundle = _linear(out, sizes, sizes.layers[0], 1.0, progress)
        with _scratch() as folder, served(1.0, None) as (server, _):
            address = server["address"]
            found = memory(bundle.path, address, folder / "memory", sizes.memory_s)
            times = [start_s(bundle.path, address, folder / f"start-{i}") for i in range(sizes.starts)]
        task = "footprint, opc.tcp"
        return {
            "figures": [
                _figure(task, "memory_mb", found["rss"]),
                _figure(task, "memory_highest_mb", found["highest"]),
                *_starts(task, times),
            ],
            "starts": times,
        }

    def simulated() -> Part:
        bundle = _refrigerator(out, progress)
        with _scratch() as folder:
            times = [start_s(bundle.path, f"sim:{REFRIGERATOR}", folder / f"{i}") for i in range(sizes.starts)]
        return {"figures": _starts("footprint, sim", times), "starts": times}

    def installed() -> Part:
        with _scratch() as folder:
            found = base_install(folder / "install")
        return {"figures": [_figure("footprint, base install", "base_install_mb", found["mb"])], **found}

    jobs = {"opcua": live, "sim": simulated, "install": installed}
    return {f"footprint-{name}": jobs[name] for name in sizes.footprints}


def _loop(out: Path, sizes: Sizes, seeds: int, progress: Progress) -> dict[str, Callable[[], Part]]:
    def measure(secure: bool) -> Part:
        bundle = _linear(out, sizes, sizes.layers[-1], sizes.loop_period_s, progress)
        progress.message(f"{sizes.loop_s:g} s of the loop {'encrypted' if secure else 'insecure'}")
        with _scratch() as folder:
            found = run_loop(bundle.path, sizes.loop_period_s, sizes.loop_s, folder, secure)
        task = f"loop, {1 / sizes.loop_period_s:g} Hz, {'encrypted' if secure else 'insecure'}"
        periods, (start, end) = found["periods"], found["memory_mb"]
        return {
            "figures": [
                _figure(task, "deadline_met_share", found["deadline_met"] / periods, episodes=periods),
                _figure(task, "faultless_share", found["faultless"] / periods, episodes=periods),
                _figure(task, "armed_share", found["armed"] / periods, episodes=periods),
                _figure(task, "falls", found["falls"], episodes=periods),
                *(
                    _figure(task, f"{part}_{level}_ms", value, episodes=periods)
                    for part in PARTS
                    for level, value in found["parts_ms"][part].items()
                ),
                _figure(task, "memory_mb", end),
                _figure(task, "memory_growth_share", end / start - 1.0),
            ],
            **found,
        }

    return {"loop-insecure": lambda: measure(False), "loop-encrypted": lambda: measure(True)}


def _soak(out: Path, sizes: Sizes, seeds: int, progress: Progress) -> dict[str, Callable[[], Part]]:
    def measure(seed: int) -> Part:
        bundle = _linear(out, sizes, sizes.layers[-1], 1.0, progress)
        with _scratch() as folder:
            found = run_soak(bundle, folder / "state", seed, sizes.soak_cycles, progress, sizes.soak_chance)
        injected = sum(kind["injected"] for kind in found["kinds"].values())
        flagged = sum(kind["flagged"] for kind in found["kinds"].values())
        task, cycles = f"soak, {found['cycles'] / 3600:.3g} h", found["cycles"]
        figures = {
            "unsafe_commands": found["unsafe"],
            "lost_rows": found["lost"] + bool(found["chain"]),
            "faults": injected,
            "flagged_share": flagged / max(injected, 1),
            "false_falls": len(found["false_falls"]),
            "largest_jump_of_rate": found["largest_jump"],
            "armed_share": found["armed"] / cycles,
            "restarts": found["restarts"],
        }
        return {
            "figures": [_figure(task, name, value, episodes=cycles) for name, value in figures.items()],
            **found,
        }

    return {f"soak-{seed}": lambda seed=seed: measure(seed) for seed in range(sizes.soaks)}  # type: ignore[misc]


def _kpi(out: Path, sizes: Sizes, seeds: int, progress: Progress) -> dict[str, Callable[[], Part]]:
    def measure(phase: float) -> Part:
        bundle, task, make = _kpi_plant(out, progress)
        found = []
        progress.start(f"kpi, sampled at {phase:g} of the period", seeds)
        for seed in range(seeds):
            with _scratch() as folder:
                found.append(
                    compare(
                        bundle, task, make, KPI_SEED + seed, periods=sizes.kpi_periods, settle=sizes.kpi_settle,
                        speed=sizes.kpi_speed, phase=phase, state=folder / "state",
                    )
                )  # fmt: skip
            progress.advance(note=f"{found[-1].difference:+.2%}")
        title = f"kpi, {task.name}, sampled at {phase:g}"
        columns = {
            "kpi_opcua": [one.served for one in found],
            "kpi_simulated": [one.simulated for one in found],
            "kpi_difference_share": [one.difference for one in found],
            "controlled_share": [one.controlled for one in found],
        }
        return {
            "figures": [
                _figure(title, name, float(np.mean(values)), values, sizes.kpi_periods * seeds)
                for name, values in columns.items()
            ],
            "seeds": [asdict(one) for one in found],
        }

    return {f"kpi-{phase:g}": lambda phase=phase: measure(phase) for phase in sizes.phases}  # type: ignore[misc]


_JOBS: Mapping[str, Callable[[Path, Sizes, int, Progress], dict[str, Callable[[], Part]]]] = {
    "graph": _graph,
    "footprint": _footprint,
    "loop": _loop,
    "soak": _soak,
    "kpi": _kpi,
}
_QUANTILES = (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))


def _linear(out: Path, sizes: Sizes, layers: int, period_s: float, progress: Progress) -> Bundle:
    folder = out / "data" / f"linear-{layers}-{period_s:g}"
    return linear_bundle(folder, period_s, layers, rows=sizes.rows, settings=sizes.settings, progress=progress)


def _refrigerator(out: Path, progress: Progress) -> Bundle:
    """Trained as the suite `detection` trains it; what lies in `data/refrigerator` is used again."""
    folder = out / "data" / REFRIGERATOR
    if (folder / "bundle" / "manifest.json").is_file():
        return load_bundle(folder / "bundle")
    return prepare(get_plant(REFRIGERATOR), 0, folder, progress).bundle


def _kpi_plant(out: Path, progress: Progress) -> tuple[Bundle, Task, Callable[[], Any]]:
    """Controller, task and environment of the comparison."""
    task = get_task(REFRIGERATOR)
    return _refrigerator(out, progress), task, lambda: task.make(horizon=10**6)


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder with a short name (that of the control socket is limited), gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="ck-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _starts(task: str, times: Sequence[Mapping[str, float]]) -> list[Part]:
    first, faultless = ([time[name] for time in times] for name in ("first", "faultless"))
    return [
        _figure(task, "start_s", float(np.median(first)), first, len(first)),
        _figure(task, "start_max_s", max(first), episodes=len(first)),
        _figure(task, "start_faultless_s", float(np.median(faultless)), faultless, len(first)),
    ]


def _figure(task: str, metric: str, value: float, values: Sequence[float] = (), episodes: int = 1) -> Part:
    spread = float(np.std(values, ddof=1)) / len(values) ** 0.5 if len(values) > 1 else 0.0
    return {
        "suite": SUITE, "task": task, "method": "controlkit", "metric": metric, "value": float(value),
        "stderr": spread, "seeds": max(len(values), 1), "episodes": episodes, "data_sha256": "",
    }  # fmt: skip


def _record(figure: Part, part: Part) -> Record:
    return Record(**figure, seconds=part["seconds"], commit=part["commit"], machine=part["machine"])


def _table(records: Sequence[Record]) -> str:
    rows = []
    for record in records:
        goal, verdict = "", ""
        if record.metric in GOALS:
            limit, more = GOALS[record.metric]
            value = abs(record.value) if record.metric == "kpi_difference_share" else record.value
            goal = f"{'>=' if more else '<='} {limit:g}"
            verdict = "yes" if (value >= limit if more else value <= limit) else "NO"
        spread = f"{record.stderr:.3g}" if record.stderr else ""
        rows.append([record.task, record.metric, f"{record.value:.4g}", spread, f"{record.episodes}", goal, verdict])
    return markdown_table(["task", "figure", "value", "standard error", "of", "goal", "reached"], rows)
