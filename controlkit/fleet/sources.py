"""A plant's sources: where they are from the fleet file's point of view, and a hash that tells whether they changed."""

from __future__ import annotations

import hashlib
from glob import glob, has_magic
from pathlib import Path

from controlkit.files import sha256_of
from controlkit.ingest.sources.sql_address import has_scheme, is_address

_SQLITE, _MINARI = "sqlite:///", "minari:"


def placed(source: str, folder: Path) -> str:
    """A source with its path made absolute from a folder; addresses of servers and Minari's names stay as they are."""
    if source.lower().startswith(_SQLITE):
        place = source[len(_SQLITE) :]
        return source if place.startswith("/") else f"{_SQLITE}{folder / place}"
    if is_address(source) or has_scheme(source) or source.startswith(_MINARI):
        return source
    return str(folder / source)


def content_of(source: str) -> str | None:
    """Hash over the names and contents of a source's files; `None` where only reading it again could tell."""
    if is_address(source) or source.startswith(_MINARI):
        return None
    found = [Path(name) for name in sorted(glob(source, recursive=True))] if has_magic(source) else [Path(source)]
    if Path(source).exists():
        found = [Path(source)]
    files = sorted(file for path in found for file in (path.rglob("*") if path.is_dir() else [path]) if file.is_file())
    if not files:
        return None
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file}\0{sha256_of(file)}\n".encode())
    return total.hexdigest()
