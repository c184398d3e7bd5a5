"""Downloads of published data files: resumed after a cut, checked by md5, whole or absent.

What has come over lies in `.NAME.part` beside the file until it is whole and its md5 is right; only then does it get
its name. A later call goes on where that file ends (HTTP Range, RFC 9110 section 14) and starts over where the server
cannot. The standard library is enough: one file at a time, and proxies are taken from the environment.
"""

from __future__ import annotations

import http
import http.client
import os
import re
import urllib.error
import urllib.request
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from controlkit.errors import ControlkitError, DataError
from controlkit.files import md5_of
from controlkit.progress import Progress, Silent

TIMEOUT_S = 30.0
# How often a transfer that gets somewhere is taken up again within one call.
ATTEMPTS = 5
_BLOCK = 1 << 18


@dataclass(frozen=True)
class Download:
    """What was done: the file, its size in bytes, how many came over now, and how many lay there before."""

    path: Path
    size: int
    fetched: int
    resumed_at: int


def partial_path(out: Path) -> Path:
    """Where an unfinished download of `out` lies."""
    return out.with_name(f".{out.name}.part")


def download(
    url: str,
    out: Path,
    *,
    md5: str,
    progress: Progress | None = None,
    timeout_s: float = TIMEOUT_S,
    note: str = "",
) -> Download:
    """Fetches a file.

    Args:
        url: http or https.
        out: where to put it. A file there with this md5 is left as it is; another one is replaced once the new one is
            whole and right.
        md5: of the whole file.
        progress: is told of the transfer in KiB.
        timeout_s: the longest silence of the server.
        note: is added to the message where the server cannot be reached.

    Raises:
        ControlkitError: the server cannot be reached or refuses, the transfer was cut (what came over is kept), or the
            disk is full.
        DataError: the md5 is another one; nothing of that file is kept.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise ControlkitError(
            "is no http or https address", where=url, cure="Give one that begins with http:// or https://."
        )
    bar, partial = progress or Silent(), partial_path(out)
    try:
        if out.is_file() and md5_of(out) == md5:
            return Download(out, out.stat().st_size, 0, 0)
        out.parent.mkdir(parents=True, exist_ok=True)
        began = partial.stat().st_size if partial.is_file() else 0
        fetched = _transferred(url, partial, out, bar, timeout_s, note)
        found = md5_of(partial)
        if found != md5:
            partial.unlink()
            raise DataError(
                f"the downloaded file has the md5 {found}, not {md5} as published; it was deleted",
                where=url,
                cure="Try again; if it stays so, the server has another file.",
            )
        size = partial.stat().st_size
        os.replace(partial, out)
    except OSError as problem:
        raise ControlkitError(
            f"cannot be written ({problem.strerror or problem})",
            where=str(out),
            cure="Free some space or choose another place; a later call goes on with what came over.",
        ) from None
    return Download(out, size, fetched, began if fetched < size else 0)


def _transferred(url: str, partial: Path, out: Path, bar: Progress, timeout_s: float, note: str) -> int:
    """Brings `partial` to its full length; returns the bytes that came over."""
    fetched, begun = 0, False
    for attempt in range(1, ATTEMPTS + 1):
        have = partial.stat().st_size if partial.is_file() else 0
        try:
            response = _opened(url, have, timeout_s)
        except _WholeAlready:
            return fetched
        except (urllib.error.URLError, http.client.HTTPException, OSError) as problem:
            raise _unreachable(url, out, problem, note) from None
        with closing(response):
            start, total = _extent(response, have)
            if not begun:
                bar.start(f"download {out.name}"[:40], -(-(total or 0) // 1024) or 1)
                bar.advance(start // 1024)
                begun = True
            got, cut = _received(response, partial, start, total, bar)
        fetched += got
        if not cut:
            return fetched
        if not got or attempt == ATTEMPTS:
            break
    raise ControlkitError(
        f"the transfer was cut after {start + got}{'' if total is None else f' of {total}'} bytes",
        where=url,
        cure="Run the same command again: it goes on from there.",
    )


class _WholeAlready(Exception):
    """The server has nothing beyond what is already here."""


def _opened(url: str, have: int, timeout_s: float) -> Any:
    headers = {"Accept-Encoding": "identity", "User-Agent": "controlkit"}
    if have:
        headers["Range"] = f"bytes={have}-"
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=timeout_s)
    except urllib.error.HTTPError as problem:
        with problem:
            if not have or problem.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                raise
            total = re.fullmatch(r"bytes \*/(\d+)", problem.headers.get("Content-Range", ""))
        if total is not None and int(total[1]) == have:
            raise _WholeAlready from None
    return _opened(url, 0, timeout_s)  # what lies here is longer than the file: start over


def _extent(response: Any, have: int) -> tuple[int, int | None]:
    """Where the content begins in the file, and the file's length where the server says it."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found is not None and int(found[1]) == have:
            return have, None if found[2] == "*" else int(found[2])
        raise ControlkitError(
            f"the server sent another part than was asked for ({response.headers.get('Content-Range')})",
            where=response.url,
            cure="Try again later.",
        )
    length = response.headers.get("Content-Length")
    return 0, int(length) if length is not None and length.isdigit() else None


def _received(response: Any, partial: Path, start: int, total: int | None, bar: Progress) -> tuple[int, bool]:
    """Appends the content to the file from `start` on, as far as it comes.

    Returns:
        Its bytes, and whether it was cut: less came than the server said or, where it did not say, an exception ended
        it, as where a chunked answer stops without its last chunk (RFC 9112 section 8).
    """
    got, shown, failed = 0, 0, False
    with partial.open("r+b" if start else "wb") as file:
        file.seek(start)
        file.truncate()
        while total is None or start + got < total:
            try:
                block = response.read1(_BLOCK)  # what is there: of a read that fills a block, a cut would lose some
            except (http.client.HTTPException, OSError):  # a reset or a time-out; what is written stays written
                failed = True
                break
            if not block:
                break
            file.write(block)
            got += len(block)
            bar.advance(got // 1024 - shown)
            shown = got // 1024
        file.flush()
        os.fsync(file.fileno())
    return got, failed if total is None else start + got != total


def _unreachable(url: str, out: Path, problem: Exception, note: str) -> ControlkitError:
    if isinstance(problem, urllib.error.HTTPError):
        what = f"the server answered {problem.code} {problem.reason}"
        hint = "The file may have moved." if problem.code in (404, 410) else "Try again later."
    else:
        reason = getattr(problem, "reason", problem)
        what = f"the server cannot be reached from here ({reason or type(problem).__name__})"
        hint = f"Fetch it on a machine that can, put it at {out}, and run the same command to check its md5."
    return ControlkitError(what, where=url, cure=f"{hint} {note}".strip())
