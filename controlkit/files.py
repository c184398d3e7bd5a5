"""Files that are whole or absent: everything is written aside and renamed into place."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from controlkit.errors import ArtifactError, ControlkitError


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends without an error.

    Raises:
        ControlkitError: the disk is full or the place is not writable; what stood at `path` is untouched.
    """
    aside: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(handle)
        aside = Path(name)
        os.chmod(aside, 0o644)
        yield aside
        _flush(aside)
        os.replace(aside, path)
    except OSError as problem:
        raise _unwritable(problem, path) from None
    finally:
        if aside is not None:
            aside.unlink(missing_ok=True)


@contextmanager
def folder_written_aside(path: Path, marker: str) -> Iterator[Path]:
    """A temporary folder beside `path` that takes its place when the block ends without an error.

    Args:
        path: the folder to make or to replace.
        marker: a file that every folder of this kind holds; a folder without it is not ours and is never replaced.

    Raises:
        ArtifactError: `path` holds something else.
        ControlkitError: the disk is full or the place is not writable; what stood at `path` is untouched.
    """
    if path.exists() and not (path / marker).is_file() and not (path.is_dir() and not any(path.iterdir())):
        raise ArtifactError(
            f"exists and holds no {marker}", where=str(path), cure="Choose another place for the output."
        )
    aside: Path | None = None
    old: Path | None = None
    path = path.absolute()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
        os.chmod(aside, 0o755)
        yield aside
        if not path.exists():
            os.rename(aside, path)
        elif not _exchanged(aside, path):
            old = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".old", dir=path.parent))
            os.rename(path, old / "was")
            os.rename(aside, path)
    except OSError as problem:
        if old is not None and not path.exists() and (old / "was").exists():
            os.rename(old / "was", path)
        raise _unwritable(problem, path) from None
    except ControlkitError as problem:
        if aside is not None and problem.where.startswith(str(aside)):
            problem = type(problem)(problem.what, where=str(path), cure=problem.cure)  # the name that the user knows
        raise problem from None
    finally:
        for rest in (aside, old):
            if rest is not None:
                shutil.rmtree(rest, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    with written_aside(path) as aside:
        aside.write_bytes(content)


def write_text(path: Path, content: str) -> None:
    """Writes a UTF-8 file, whole or not at all."""
    write_bytes(path, content.encode())


def write_json(path: Path, content: Any) -> None:
    """Writes JSON without NaN or infinities (which are no JSON), whole or not at all."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file of ours.

    Raises:
        ArtifactError: it is missing or damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtifactError("no such file", where=str(path), cure="Check the path.") from None
    except (OSError, ValueError) as problem:
        raise ArtifactError(f"is damaged ({problem})", where=str(path), cure="Make it again.") from None


def sha256_of(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def md5_of(path: Path) -> str:
    """The sum by which published data files are known; it shows damage, not forgery."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _exchanged(one: Path, other: Path) -> bool:
    """Swaps two folders at once, so that even a kill leaves a whole folder at both; False where that cannot be done.

    Linux' renameat2 with RENAME_EXCHANGE; some network file systems lack it.
    """
    import ctypes

    at_cwd, exchange = -100, 2
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0)


def _flush(path: Path) -> None:
    """Sees to it that the content is on the disk before its name is, so that a power cut leaves no empty file."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _unwritable(problem: OSError, path: Path) -> ControlkitError:
    reason = problem.strerror or str(problem)
    return ControlkitError(
        f"cannot be written ({reason})",
        where=str(path),
        cure="Free some space or choose another place; nothing was changed.",
    )
