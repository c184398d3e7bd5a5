"""Whether the lines of an unknown CSV file fit its header: a proposal from the few that do would be of no use."""

from __future__ import annotations

import csv
from pathlib import Path

from controlkit.errors import DataError
from controlkit.ingest.sources.text_file import TextFile
from controlkit.log_rules import LogRules

_LOOKED_AT = 1 << 20  # bytes
_SHOWN = 80  # signs of a line


def require_fit(path: Path, delimiter: str) -> None:
    """Refuses a file more of whose first lines have another number of cells than its header than ingest lets pass.

    Raises:
        DataError: names the first such line.
    """
    block = next(iter(TextFile(path).blocks(_LOOKED_AT)), None)
    text = block.content.decode("utf-8", "replace") if block is not None else ""
    lines = [(i + 1, line) for i, line in enumerate(text.split("\n")) if line.strip()]
    counts = [(number, line.strip(), _count(line, delimiter)) for number, line in lines]
    if len(counts) < 2:
        return
    width, records = counts[0][2], counts[1:]
    wrong = [record for record in records if record[2] != width]
    if len(wrong) <= LogRules().max_quarantined * len(records):
        return
    number, line, found = wrong[0]
    cure = "Remove what is no record, such as lines above the header; export it again if it was cut off."
    if found > width > 1:
        cure = (
            "Export it without a delimiter at the end of the lines, and with another delimiter where it is the decimal "
            "mark, too."
        )
    shown = line if len(line) <= _SHOWN else f"{line[:_SHOWN]} ..."
    raise DataError(
        f"{len(wrong)} of the first {len(records)} lines have not as many cells as the header, which has {width}; the "
        f"first of them has {found}: '{shown}'",
        where=f"{path}, line {number}",
        cure=cure,
    )


def _count(line: str, delimiter: str) -> int:
    try:
        return len(next(csv.reader([line.rstrip("\r")], delimiter=delimiter)))
    except csv.Error:
        return 0
