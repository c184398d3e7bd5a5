"""A text file as blocks of whole lines in UTF-8, whatever its encoding, its line ends and its packing.

One line is one record: no historian writes a line end into a cell, and so every record has a line number.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from controlkit.errors import DataError
from controlkit.ingest.sources.opened import Part

if TYPE_CHECKING:
    import pyarrow as pa

BLOCK = 1 << 25  # bytes, about 32 MB
HEAD = 1 << 20  # bytes from which encoding, delimiter and decimal mark are found out
_LONGEST_LINE = 1 << 27
_PACKING = {".gz": "gzip", ".zst": "zstd"}
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF32_LE, "utf-32-le"), (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"),
)  # fmt: skip
# What Western exports without a mark are written in, if these are all the signs beyond ASCII that they hold; short
# texts of units and names tell charset-normalizer too little, it is asked about the rest.
_WESTERN, _WESTERN_SIGNS = "cp1252", frozenset("°²³µ·±ØøÄÖÜäöüßÅåÆæÉéÈèÊêÀàÂâÇçÑñÓóÍíÚúÎîÔôÛû€–’‰ ")


@dataclass(frozen=True)
class Lines:
    """Whole lines of a file: UTF-8 without a mark, line ends `\\n` or `\\r\\n`; `first` is the number of the first."""

    content: bytes
    first: int


class TextFile:
    """A text file, plain or packed with gzip or zstd.

    Args:
        path: the file; its suffix says how it is packed.
        encoding: Python's name of it; found out where None.

    Attributes:
        path: the file.
        encoding: of it.
        head: its first lines, in UTF-8; empty once they are forgotten.

    Raises:
        DataError: it cannot be read, is packed wrongly, or is in no known encoding.
    """

    def __init__(self, path: Path, encoding: str | None = None) -> None:
        self.path = path
        self._packing = _PACKING.get(path.suffix.lower())
        with self._stream() as stream:
            start = stream.read(HEAD)
        self._mark, self.encoding = _encoding(start, encoding, path)
        self._returns = False  # line ends of an old Macintosh, which a few loggers still write
        head = self._decoded(start[len(self._mark) :], codecs.getincrementaldecoder(self.encoding)("replace"))
        self._returns = b"\r" in head and b"\n" not in head
        head = head.replace(b"\r", b"\n") if self._returns else head
        cut = head.rfind(b"\n") + 1
        self.head = head if len(start) < HEAD or not cut else head[:cut]

    def forget(self) -> None:
        """Lets go of the head, of which there may be thousands at a time."""
        self.head = b""

    def blocks(self, size: int = BLOCK, part: Part | None = None) -> Iterator[Lines]:
        """All lines, or those of a part, about `size` bytes at a time.

        Raises:
            DataError: the file ends in the middle of its packing, or holds no lines.
        """
        decoder = codecs.getincrementaldecoder(self.encoding)("replace")
        rest, number, mark, left = b"", 1, len(self._mark), -1
        with self._stream() as stream:
            if part is not None and part.start:
                stream.seek(part.offset)
                rest, number, mark = stream.read(part.start * size - part.offset), part.row, 0
            if part is not None:
                left = part.stop - part.start
            while left:
                left -= 1
                read = stream.read(size)
                content = self._decoded(read[mark:], decoder, last=not read)
                mark = 0
                if self._returns:
                    content = content.replace(b"\r", b"\n")
                cut = content.rfind(b"\n") + 1 if read else len(content)
                if not cut and read:
                    rest += content
                    if len(rest) > _LONGEST_LINE:
                        raise DataError("has a line of more than 128 MB", where=str(self.path), cure="Is it a log?")
                    continue
                whole = rest + content[:cut]
                rest = content[cut:]
                if whole:
                    yield Lines(whole, number)
                    number += whole.count(b"\n")
                if not read:
                    return

    def split(self, size: int = BLOCK) -> list[Part]:
        """Parts of one block each; a single one of a file that is packed, or not in UTF-8.

        A part begins where a block without the end of a line does not come before: a line that goes on and on lies in
        one part.
        """
        length = self.path.stat().st_size
        whole = Part(0, length // size + 2, 1, 0, length)  # the last read finds nothing, and ends the file
        if self._packing is not None or self.encoding != "utf-8" or self._returns or length <= size:
            return [whole]
        begins = [(0, 1, 0)]  # block, line, byte
        line, start = 1, 0
        with self._stream() as stream:
            for block in range(length // size + 1):
                read = stream.read(size)
                line += read.count(b"\n")
                cut = read.rfind(b"\n") + 1
                start = block * size + cut if cut else start
                if cut and (block + 1) * size < length:
                    begins.append((block + 1, line, start))
        ends = [block for block, _, _ in begins[1:]] + [whole.stop]
        return [
            Part(block, end, line, offset, min(end * size, length) - block * size)
            for (block, line, offset), end in zip(begins, ends, strict=True)
        ]

    def _decoded(self, content: bytes, decoder: codecs.IncrementalDecoder, last: bool = False) -> bytes:
        if self.encoding == "utf-8":  # a line with bytes that are no UTF-8 comes to light when it is taken apart
            return content
        return decoder.decode(content, last).encode()

    @contextmanager
    def _stream(self) -> Iterator[pa.NativeFile]:
        import pyarrow as pa

        try:
            if self.path.stat().st_size == 0:
                yield pa.BufferReader(b"")
                return
            with pa.input_stream(str(self.path), compression=self._packing) as stream:
                yield stream
        except OSError as problem:
            if self._packing is None or problem.errno is not None:
                reason = problem.strerror or str(problem).splitlines()[0]
                raise DataError(f"cannot be read ({reason})", where=str(self.path), cure="Check the file.") from None
            what = "is cut off in the middle" if "runcated" in str(problem) else f"is no {self._packing} file"
            raise DataError(
                f"{what} ({problem})", where=str(self.path), cure="Copy or export it again, whole."
            ) from None


def _encoding(start: bytes, given: str | None, path: Path) -> tuple[bytes, str]:
    """The mark that the file begins with, and its encoding."""
    mark, found = next(((mark, name) for mark, name in _MARKS if start.startswith(mark)), (b"", None))
    if given is not None:
        try:
            name = codecs.lookup(given).name.removesuffix("-sig")
            if "1;\n".encode(name).decode(name) != "1;\n":
                raise LookupError
        except (LookupError, ValueError, TypeError, AttributeError):  # some of Python's codecs are none of text
            raise DataError(
                f"'{given}' is no known encoding", where="log.encoding of the plant file",
                cure="Write utf-8, utf-16, cp1252 or another of Python's names.",
            ) from None  # fmt: skip
        if name == "utf-16":
            name = found or "utf-16-le"
        return (mark if found == name else b""), name
    if found is not None:
        return mark, found
    try:
        if b"\0" in start:  # which would be UTF-8, too, but stands in no text
            return b"", _guessed(start, path)
        start[: _whole(start)].decode("utf-8")
        return b"", "utf-8"
    except UnicodeDecodeError:
        return b"", _guessed(start, path)


def _guessed(start: bytes, path: Path) -> str:
    """The encoding of text that is no UTF-8 and has no mark."""
    from charset_normalizer import from_bytes

    if b"\0" in start:
        odd, even = start[1::2].count(0), start[::2].count(0)
        if max(odd, even) > len(start) // 4:
            return "utf-16-le" if odd > even else "utf-16-be"
        raise DataError("is no text file", where=str(path), cure="Export it again, as CSV.")
    beyond = {sign for sign in start.decode(_WESTERN, "replace") if not sign.isascii()}
    if beyond <= _WESTERN_SIGNS:
        return _WESTERN
    best = from_bytes(start[: 1 << 16]).best()
    if best is None:
        raise DataError(
            "is in no encoding that can be told", where=str(path), cure="Set 'log.encoding' in the plant file."
        )
    return best.encoding


def _whole(start: bytes) -> int:
    """Where the last whole line ends: a sign may be cut in two after it."""
    return start.rfind(b"\n") + 1 or len(start)
