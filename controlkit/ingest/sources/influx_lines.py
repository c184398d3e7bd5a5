"""Files of InfluxDB's line protocol, as `influxd inspect export-lp` and `influx_inspect export` write them.

After InfluxData's "Line protocol": `measurement,key=value field=1.5,other=3i 1556813561098000000`. Integers end in `i`
or `u`, booleans are letters or words, text stands in quotation marks, and a backslash takes its meaning from a sign.
Lines without quotation marks and backslashes are taken apart all at once, the others sign by sign.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from controlkit.ingest.sources.influx_series import FIELD, MEASUREMENT, Naming
from controlkit.ingest.sources.opened import Batch, Rejected
from controlkit.ingest.sources.text_file import Lines

if TYPE_CHECKING:
    import pyarrow as pa

NO_POINT = "no line of InfluxDB's line protocol"
NO_TIME = "a point without a time stamp"
_SHOWN = 200
_POINT = r"^ *(?P<series>[^ ,]+(?:,[^ ,=]+=[^ ,=]+)*) +(?P<fields>[^ ]+)(?: +(?P<time>-?\d{1,19}))? *\r?$"
_FIELD = r"^(?P<key>[^=]+)=(?P<value>[^=]+)$"
# What an export says about itself, beside comments: of the database that it came from.
_NOTHING = r"^\s*(#.*|(CREATE|USE) DATABASE .*)?$"
_TRUE, _FALSE = ("t", "T", "true", "True", "TRUE"), ("f", "F", "false", "False", "FALSE")
_WHOLE = re.compile(r"[+-]?\d+[iu]")


def taken_apart(lines: Lines, naming: Naming, location: str) -> Batch:
    """Stamp, tag and value of every field of some lines."""
    import pyarrow as pa
    import pyarrow.compute as pc

    text = _array(lines)
    number = np.arange(lines.first, lines.first + len(text))
    hard = pc.or_(pc.match_substring(text, "\\"), pc.match_substring(text, '"')).to_numpy(zero_copy_only=False)
    empty = pc.match_substring_regex(text, _NOTHING).to_numpy(zero_copy_only=False)
    easy = np.flatnonzero(~hard & ~empty)
    found = pc.extract_regex(text.take(pa.array(easy)), pattern=_POINT)
    fields = pc.split_pattern(pc.struct_field(found, "fields"), ",")
    pairs = pc.extract_regex(pc.list_flatten(fields), pattern=_FIELD)
    parent = pc.list_parent_indices(fields).to_numpy()
    time = pc.struct_field(found, "time")
    timed = pc.and_(pc.is_valid(time), pc.not_equal(pc.fill_null(time, ""), "")).to_numpy(zero_copy_only=False)
    read = found.is_valid().to_numpy(zero_copy_only=False)
    whole = read.copy()
    whole[parent[~pairs.is_valid().to_numpy(zero_copy_only=False)]] = False  # a field that is none
    keep = whole & timed
    chosen = np.flatnonzero(keep[parent])
    at = parent[chosen]
    taken = pairs.take(pa.array(chosen))
    series = pc.struct_field(found, "series").take(pa.array(at)).dictionary_encode()
    key = pc.struct_field(taken, "key").dictionary_encode()
    row = number[easy[at]]
    names = _names(series, key, row, naming, location)
    stamps = pc.cast(time.take(pa.array(at)), pa.int64())
    values = _plain_values(pc.struct_field(taken, "value"))
    rejected = [(int(number[easy[i]]), NO_TIME if whole[i] else NO_POINT) for i in np.flatnonzero(~keep)]
    slow = _one_by_one(text, number, np.flatnonzero(hard & ~empty), naming, location)
    rejected += slow.rejected
    # Both kinds of line, in the order of the file.
    order = pa.array(np.argsort(np.concatenate([row, slow.row]), kind="stable"))
    columns = [
        pa.concat_arrays([stamps, pa.array(slow.time, pa.int64())]).take(order),
        pa.concat_arrays([names, pa.array(slow.tag, pa.string())]).take(order),
        pa.concat_arrays([values, pa.array(slow.value, pa.string())]).take(order),
    ]
    records = pa.RecordBatch.from_arrays(columns, ["timestamp", "tag", "value"])
    shown = tuple(
        Rejected(line, str(text[line - lines.first].as_py())[:_SHOWN], reason) for line, reason in sorted(rejected)
    )
    return Batch(records, np.sort(np.concatenate([row, slow.row]), kind="stable").astype(np.int64), shown)


def says_nothing(line: str) -> bool:
    """Whether a line is blank, a comment, or a statement about the database that an export came from."""
    return re.match(_NOTHING, line) is not None


def _array(lines: Lines) -> pa.Array:
    """The lines as an array of text; what is no UTF-8 has been replaced."""
    import pyarrow as pa

    content = lines.content.removesuffix(b"\n").split(b"\n")
    try:
        return pa.array(content, pa.binary()).cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([line.decode("utf-8", "replace") for line in content], pa.string())


def _names(series: pa.Array, key: pa.Array, row: np.ndarray, naming: Naming, location: str) -> pa.Array:
    """The name (K,) of each field's series."""
    import pyarrow as pa

    if not len(series):
        return pa.array([], pa.string())
    both = series.indices.to_numpy().astype(np.int64) * len(key.dictionary) + key.indices.to_numpy()
    found, first, which = np.unique(both, return_index=True, return_inverse=True)
    made: list[str] = [""] * len(found)
    for i in np.argsort(first):
        one, field = divmod(int(found[i]), len(key.dictionary))
        keys = _series(str(series.dictionary[one].as_py()))
        made[i] = naming.name({**keys, FIELD: str(key.dictionary[field].as_py())}, f"{location}, line {row[first[i]]}")
    return pa.array(made, pa.string()).take(pa.array(which))


def _series(text: str) -> dict[str, str]:
    """Measurement and keys of `m,host=a,site=b`, without backslashes."""
    measurement, *pairs = text.split(",")
    return {MEASUREMENT: measurement, **dict(pair.partition("=")[::2] for pair in pairs)}


def _plain_values(values: pa.Array) -> pa.Array:
    """Numbers as everybody writes them: without the letter of their type, booleans as 1 and 0."""
    import pyarrow as pa
    import pyarrow.compute as pc

    values = pc.replace_substring_regex(values, pattern=r"^([+-]?\d+)[iu]$", replacement=r"\1")
    for words, number in ((_TRUE, "1"), (_FALSE, "0")):
        values = pc.if_else(pc.is_in(values, value_set=pa.array(words)), number, values)
    return values


class _Slow:
    """Fields of lines that were looked at sign by sign."""

    def __init__(self) -> None:
        self.row = np.empty(0, dtype=np.int64)
        self.time: list[int] = []
        self.tag: list[str] = []
        self.value: list[str] = []
        self.rejected: list[tuple[int, str]] = []


def _one_by_one(text: pa.Array, number: np.ndarray, rows: np.ndarray, naming: Naming, location: str) -> _Slow:
    slow, lines = _Slow(), list[int]()
    for i in rows.tolist():
        point = read_point(str(text[i].as_py()).rstrip("\r"))
        if point is None or point[2] is None:
            slow.rejected.append((int(number[i]), NO_POINT if point is None else NO_TIME))
            continue
        for key, value in point[1]:
            lines.append(int(number[i]))
            slow.time.append(point[2])
            slow.tag.append(naming.name({**point[0], FIELD: key}, f"{location}, line {number[i]}"))
            slow.value.append(value)
    slow.row = np.array(lines, dtype=np.int64)
    return slow


def read_point(line: str) -> tuple[dict[str, str], list[tuple[str, str]], int | None] | None:
    """Measurement and keys, fields with their values, and the stamp of one line; None where it is none."""
    parts = list(_split(line.strip(), " "))
    if len(parts) not in (2, 3) or (len(parts) == 3 and not re.fullmatch(r"-?\d{1,19}", parts[2])):
        return None
    measurement, *pairs = _split(parts[0], ",")
    keys = [list(_split(pair, "=")) for pair in pairs]
    fields = [list(_split(pair, "=")) for pair in _split(parts[1], ",")]
    if not measurement or any(len(pair) != 2 or not all(pair) for pair in (*keys, *fields)):
        return None
    series = {MEASUREMENT: _meant(measurement), **{_meant(key): _meant(value) for key, value in keys}}
    found = [(_meant(key), _value(value)) for key, value in fields]
    return series, found, int(parts[2]) if len(parts) == 3 else None


def _split(text: str, mark: str) -> Iterator[str]:
    """Parts between marks that stand neither in quotation marks nor after a backslash; runs of blanks are one."""
    part, quoted, i = "", False, 0
    while i < len(text):
        sign = text[i]
        if sign == "\\" and i + 1 < len(text):
            part += text[i : i + 2]
            i += 2
            continue
        if sign == '"':
            quoted = not quoted
        if sign == mark and not quoted:
            if part or mark != " ":
                yield part
            part = ""
        else:
            part += sign
        i += 1
    yield part


def _meant(text: str) -> str:
    return re.sub(r"\\([,= ])", r"\1", text)


def _value(text: str) -> str:
    if len(text) > 1 and text[0] == text[-1] == '"':
        return re.sub(r'\\(["\\])', r"\1", text[1:-1])
    if _WHOLE.fullmatch(text):
        return text[:-1]
    return "1" if text in _TRUE else "0" if text in _FALSE else text
