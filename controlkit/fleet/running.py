"""A fleet on a cluster: one item a plant, and the record on disk brought up to date as each one ends."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from controlkit.cluster import Event, Item, Outcome, connect
from controlkit.config import RunConfig
from controlkit.configs import list_configs
from controlkit.errors import ArtifactError, ConfigError
from controlkit.fleet.file import FleetFile, PlantEntry, as_overrides
from controlkit.fleet.record import FILE, PLANTS, PlantRecord, Record, with_links, write_record
from controlkit.fleet.sources import placed
from controlkit.fleet.stages import Stages
from controlkit.fleet.work import Order, found_file, run_plant
from controlkit.progress import Progress, Silent


def run_fleet(
    fleet: FleetFile,
    out: Path,
    *,
    address: str | None = None,
    cores: int | None = None,
    gpus: float = 0.0,
    key: Path | None = None,
    track: str | None = None,
    progress: Progress | None = None,
) -> Record:
    """Brings all plants of a fleet up to date, as many at once as the cluster has cores for.

    Args:
        fleet: the file.
        out: folder for everything; on a cluster all machines must see it, the logs, and the key, at the same path.
        address: of a Ray cluster; this machine alone where not given.
        cores: to use of this machine.
        gpus: share of a GPU that each plant reserves.
        key: private key that signs the bundles.
        track: `local` (`mlflow.db` in `out`), or the address of an MLflow store.
        progress: told of each plant as it ends.

    Returns:
        What became of every plant; `fleet.json` and `index.html` say the same.

    Raises:
        ArtifactError: `out` holds something else than a fleet, or the key is none.
        ControlkitError: the cluster cannot be used.
    """
    bar = progress or Silent()
    out = out.resolve()
    _require_place(out)
    if key is not None:
        from deploy.bundle.signing import load_private_key

        load_private_key(key)  # a wrong key fails before the work, not after it
    if track is not None:
        from controlkit.tracking import address_of, open_tracker

        track = address_of(track, out / PLANTS)  # one store for all, beside their folder
        open_tracker(track, out / PLANTS)
    orders = {entry.name: _order(entry, fleet.folder, out, key, track) for entry in fleet.plants}
    records = {entry.name: PlantRecord(entry.name) for entry in fleet.plants}

    def state() -> Record:
        return Record(fleet.path.name, tuple(records.values()))

    def on_event(event: Event) -> None:
        if event.kind == "retried":
            bar.message(f"{event.name}: {event.message}")
        if event.outcome is None:
            return
        record = records[event.name] = record_of(event.outcome, out)
        write_record(state(), out)
        if record.state != "done":
            bar.message(f"{record.name}: {record.message}")
        bar.advance(1, f"{record.name}: {record.verdict if record.state == 'done' else record.state}")

    write_record(state(), out)
    with connect(address, cores=cores) as cluster:
        bar.start("plants", len(orders))
        most = max(cluster.cores, 1)
        items = [Item(name, asdict(order), min(_threads(order), most), gpus) for name, order in orders.items()]
        cluster.run(items, run_plant, on_event=on_event)
    return state()


def record_of(outcome: Outcome, out: Path) -> PlantRecord:
    """What became of one plant, from what its work returned or, where it did not, from what it left."""
    found: dict[str, Any] = dict(outcome.value or {})
    if outcome.state != "done":
        stage = Stages(out / PLANTS / outcome.name).now or ""
        found = {"state": outcome.state, "stage": stage, "message": outcome.message}
    bundle = bool(found.pop("bundle", False))
    record = PlantRecord(outcome.name, seconds=round(outcome.seconds, 1), **found)
    return with_links(record, out, bundle=bundle)


def _require_place(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise ArtifactError("is no folder", where=str(out), cure="Choose another --out.")
    if out.is_dir() and any(out.iterdir()) and not (out / FILE).is_file():
        raise ArtifactError("exists and holds no fleet", where=str(out), cure="Choose another --out.")


def _order(entry: PlantEntry, folder: Path, out: Path, key: Path | None, track: str | None) -> Order:
    assert entry.run is not None
    return Order(
        name=entry.name,
        folder=str(out / PLANTS / entry.name),
        plant=_file_or_preset("plants", entry.plant, folder),
        run=_file_or_preset("runs", entry.run, folder),
        sources=tuple(placed(source, folder) for source in entry.sources),
        overrides=tuple(as_overrides(entry.set)),
        quick=entry.evaluate.quick,
        seed=entry.evaluate.seed,
        gamma=entry.evaluate.gamma,
        key=None if key is None else str(key.resolve()),
        track=track,
    )


def _file_or_preset(kind: str, name: str, folder: Path) -> str:
    """A file beside the fleet file, or a shipped preset; a name that is neither is a file's, which will be missed."""
    preset = name.removesuffix(".yaml")
    return preset if not (folder / name).is_file() and preset in list_configs(kind) else str(folder / name)


def _threads(order: Order) -> int:
    """Cores that a plant needs; where its settings are wrong, its own work will say so."""
    try:
        return RunConfig.load(found_file("runs", order.run), order.overrides).threads
    except ConfigError:
        return 1
