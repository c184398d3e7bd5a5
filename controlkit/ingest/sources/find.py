"""What a user names as sources, as files and databases: patterns, folders of partitioned files, addresses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path

from controlkit.errors import DataError
from controlkit.ingest.sources.opened import Opened
from controlkit.ingest.sources.sql_address import has_scheme, is_address, redacted
from controlkit.spec import PlantSpec

CSV = (".csv", ".txt", ".tsv")
LINE_SUFFIXES = (".lp", ".line")  # InfluxDB's line protocol
_PACKED = (".gz", ".zst")


def find(sources: Sequence[Path | str], spec: PlantSpec) -> Iterator[Opened]:
    """Opens sources in the order in which they are named.

    Args:
        sources: files, folders, patterns such as `logs/*.csv`, addresses such as `sqlite:///log.db?table=samples`.
        spec: the plant.

    Raises:
        DataError: one is missing, or cannot be a log.
    """
    for source in sources:
        if is_address(source):
            from controlkit.ingest.sources.sql import SqlSource

            yield SqlSource(str(source), spec)
            continue
        if has_scheme(source) and not Path(source).exists():
            raise DataError(
                "is no kind of address that can be read", where=redacted(str(source)),
                cure="Name files, or sqlite:///..., postgresql://... or odbc:...",
            )  # fmt: skip
        for path, folder in _files(Path(source)):
            yield open_file(path, spec, folder)


def open_file(path: Path, spec: PlantSpec, folder: Path | None = None) -> Opened:
    """One file, after the kind that its name says."""
    from controlkit.ingest.sources.csv_file import CsvFile
    from controlkit.ingest.sources.table_file import ARROW, PARQUET, TableFile

    name = path.name.lower()
    if name.endswith(PARQUET + ARROW):
        return TableFile(path, spec, folder)
    if spec.log.preset == "influxdb" and _unpacked(name).endswith(CSV + LINE_SUFFIXES):
        from controlkit.ingest.sources.influx import InfluxFile, is_influx

        if is_influx(path):
            return InfluxFile(path, spec)
    if _unpacked(name).endswith(CSV):
        return CsvFile(path, spec)
    raise DataError(
        "is neither CSV nor Parquet nor Arrow by its name", where=str(path),
        cure="Name it .csv, .csv.gz, .csv.zst, .parquet or .arrow after what it is.",
    )  # fmt: skip


def _files(path: Path) -> list[tuple[Path, Path | None]]:
    """The files that a path or pattern names, each with the folder that it is a part of."""
    if path.is_file():
        return [(path, None)]
    if path.is_dir():
        return [(file, path) for file in _in_folder(path)]
    if path.exists():
        raise DataError("is no regular file", where=str(path), cure="Check the path.")
    if not has_magic(str(path)):
        raise DataError("no such file", where=redacted(str(path)), cure="Check the path.")
    found = [Path(name) for name in sorted(glob(str(path), recursive=True))]
    if not found:
        raise DataError("no file fits the pattern", where=redacted(str(path)), cure="Check the path.")
    return [entry for one in found for entry in _files(one)]


def _in_folder(folder: Path) -> list[Path]:
    """The logs in a folder and the folders in it, which have the same columns."""
    from controlkit.ingest.sources.table_file import ARROW, PARQUET, column_names

    def hidden(path: Path) -> bool:
        return any(part.startswith(("_", ".")) for part in path.relative_to(folder).parts)

    files = sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path))
    files = [path for path in files if _unpacked(path.name.lower()).endswith(CSV + PARQUET + ARROW)]
    if not files:
        raise DataError("is a folder without a log in it", where=str(folder), cure="Name the log's files.")
    tables = [path for path in files if path.name.lower().endswith(PARQUET + ARROW)]
    expected = column_names(tables[0]) if tables else []
    for path in tables[1:]:
        names = column_names(path)
        if sorted(names) != sorted(expected):
            lacks, more = sorted(set(expected) - set(names)), sorted(set(names) - set(expected))
            differs = [f"it lacks '{lacks[0]}'"] * bool(lacks) + [f"it has '{more[0]}' besides"] * bool(more)
            raise DataError(
                f"has other columns than {tables[0]}: {' and '.join(differs)}", where=str(path),
                cure="Was a tag renamed? Mend it, or name the files one by one if they differ on purpose.",
            )  # fmt: skip
    return files


def _unpacked(name: str) -> str:
    for suffix in _PACKED:
        name = name.removesuffix(suffix)
    return name
