"""Which sources of an ingest are flat, one row per transition, and who reads them."""

from __future__ import annotations

from pathlib import Path

from controlkit.errors import DataError
from controlkit.ingest import d4rl_file, flat_file, minari_data
from controlkit.ingest.flat_file import FlatFile
from controlkit.ingest.sources.sql_address import redacted

# What the command line's help and its messages call them.
KINDS = "npz, D4RL's hdf5, or minari:NAME"


def is_flat(source: Path) -> bool:
    """Whether a source is a flat file or a Minari data set, by its name."""
    return source.suffix in (flat_file.SUFFIX, *d4rl_file.SUFFIXES) or minari_data.is_minari(source)


def read_source(source: Path) -> FlatFile:
    """Reads a flat source of any kind.

    Raises:
        DataError: it cannot be used; see the readers.
    """
    if minari_data.is_minari(source):
        return minari_data.read_minari(source)
    if not is_flat(source) and not source.exists():
        raise DataError(
            "is no flat file", where=redacted(str(source)), cure=f"Give one kind of log at a time; flat is {KINDS}."
        )
    return d4rl_file.read_d4rl(source) if source.suffix in d4rl_file.SUFFIXES else flat_file.read_flat(source)
