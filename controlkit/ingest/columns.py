"""What the columns of a log mean, read from its header alone.

Two forms are known. A long log has one row per sample: time stamp, tag, value and, where it is there, quality and unit.
A wide log has one row per time stamp and one column per tag, headed by the tag's name or by `name [unit]`, and may hold
one quality column for the whole row. A header is long when it names a time stamp, a tag and a value column.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from controlkit.errors import DataError, nearest
from controlkit.spec import UNITS, PlantSpec

TIMESTAMP = ("timestamp", "time", "time stamp", "time_stamp", "datetime", "date_time", "date time", "ts", "time_utc")
TAG = ("tag", "tagname", "tag_name", "tag name", "name", "point", "signal", "variable", "sensor")
VALUE = ("value", "val", "reading")
QUALITY = ("quality", "quality_code", "quality code", "status", "statuscode", "status_code", "opcquality")
UNIT = ("unit", "units", "uom", "engunits", "eng_units")

_HEADED_UNIT = re.compile(r"(?P<name>.*?)\s*\[(?P<unit>[^\[\]]*)\]")
# Spellings of a unit in an export that mean the same as ours; everything else must be spelled as in the plant file.
_SAME_UNIT = {
    "": "1", "-": "1", "none": "1", "C": "degC", "deg C": "degC", "Celsius": "degC", "F": "degF", "deg F": "degF",
    "pct": "%", "percent": "%", "sec": "s", "l/min": "L/min", "l/h": "L/h", "l/s": "L/s", "l": "L",
}  # fmt: skip
_SIGNS = str.maketrans({"°": "deg", "²": "^2", "³": "^3", "µ": "u", "μ": "u", "·": "*", "Ω": "ohm"})


@dataclass(frozen=True)
class Columns:
    """Which column of a log holds what; columns are counted from 0.

    Attributes:
        form: `long` or `wide`.
        names: the header.
        timestamp: its column.
        quality: its column, if there is one.
        tag, value, unit: columns of a long log; a wide one has none of them.
        tags: of a wide log: name of the tag in the plant file -> its column.
    """

    form: Literal["long", "wide"]
    names: tuple[str, ...]
    timestamp: int
    quality: int | None = None
    tag: int | None = None
    value: int | None = None
    unit: int | None = None
    tags: Mapping[str, int] | None = None


def log_names(spec: PlantSpec) -> dict[str, str]:
    """Name in the log -> name in the plant file, for every tag."""
    return {tag.column or name: name for name, tag in spec.tags.items()}


def recognise(header: Sequence[str], spec: PlantSpec, where: str) -> Columns:
    """The meaning of a header's columns.

    Raises:
        DataError: a column is missing, unknown, unnamed or there twice, or it states another unit than the plant file.
    """
    names = tuple(name.strip() for name in header)
    _check_names(names, where)
    lower = [name.lower() for name in names]
    timestamp, tag, value = (_first(lower, known) for known in (TIMESTAMP, TAG, VALUE))
    if timestamp is None:
        raise DataError(
            f"no time stamp column; found: {_listed(names)}",
            where=f"{where}, line 1",
            cure=f"Name that column 'timestamp' ({', '.join(TIMESTAMP[1:4])} ... will do).",
        )
    quality = _first(lower, QUALITY)
    if tag is not None and value is not None:
        used = {timestamp, tag, value, quality, unit := _first(lower, UNIT)}
        extra = [name for i, name in enumerate(names) if i not in used]
        if extra:
            raise DataError(
                f"unknown column '{extra[0]}' in a log with one sample per row",
                where=f"{where}, line 1",
                cure="Keep timestamp, tag, value, quality and unit only.",
            )
        return Columns("long", names, timestamp, quality, tag, value, unit)
    known = log_names(spec)
    for found, lacking, one_of in ((tag, "value", VALUE), (value, "tag", TAG)):
        if found is not None and names[found] not in known:
            raise DataError(
                f"there is a column '{names[found]}' but no column for the {lacking}; found: {_listed(names)}",
                where=f"{where}, line 1",
                cure=f"Name that column '{lacking}' ({', '.join(one_of[1:3])} ... will do).",
            )
    if quality is not None and names[quality] in known:
        quality = None
    tags: dict[str, int] = {}
    for i, name in enumerate(names):
        if i not in (timestamp, quality):
            column, unit_text = _split_unit(name, known)
            if column not in known:
                raise unknown_tag(column, known, f"{where}, line 1")
            if unit_text is not None and is_other_unit(spec, known[column], unit_text):
                raise wrong_unit(spec, known[column], unit_text, f"{where}, line 1")
            if known[column] in tags:
                raise DataError(f"tag '{column}' has two columns", where=f"{where}, line 1", cure="Keep one of them.")
            tags[known[column]] = i
    if not tags:
        raise DataError(
            "the header names no tag",
            where=f"{where}, line 1",
            cure="Write timestamp,tag,value or one column per tag.",
        )
    return Columns("wide", names, timestamp, quality, tags=tags)


def unknown_tag(name: str, known: Mapping[str, str], where: str) -> DataError:
    """The error for a tag that the plant file lacks."""
    if not name:
        return DataError("a tag without a name", where=where, cure="Name it, or remove it from the log.")
    hint = nearest(name, known)
    hint = f"{hint[0].upper()}{hint[1:]}" + ("" if hint.endswith("?") else ".")
    return DataError(
        f"tag '{name}' is not in the plant file",
        where=where,
        cure=f"{hint} If it is no mistake, add it to the plant file with role 'ignore'.",
    )


def missing_tag(name: str, spec: PlantSpec, found: Sequence[str], where: str) -> DataError:
    """The error for a tag that no source holds."""
    column = spec.tags[name].column or name
    label = f"tag '{name}'" if column == name else f"tag '{name}' (column '{column}')"
    hint = nearest(column, found)
    hint = f"{hint[0].upper()}{hint[1:]}" if hint else "The log names no tag at all"
    return DataError(
        f"{label} of the plant file is not in the log",
        where=where,
        cure=f"{hint}{'' if hint.endswith('?') else '.'} Export it too, or mend 'column' in the plant file.",
    )


def is_other_unit(spec: PlantSpec, tag: str, text: str) -> bool:
    """Whether a unit that the log states differs from the plant file's."""
    return spec.tags[tag].role != "ignore" and same_unit(text) != spec.tags[tag].unit


def wrong_unit(spec: PlantSpec, tag: str, text: str, where: str) -> DataError:
    """The error for a unit that differs; names both."""
    return DataError(
        f"tag '{tag}' is in '{text.strip()}', the plant file says '{spec.tags[tag].unit}'",
        where=where,
        cure="Convert the log, or mend the unit in the plant file.",
    )


def same_unit(text: str) -> str:
    """The plant file's spelling of a unit in a log: `°C` is `degC`, `m³/h` is `m^3/h`; an unknown one stays."""
    text = text.strip()
    if text in UNITS:
        return text
    plain = text.translate(_SIGNS)
    return _SAME_UNIT.get(plain, plain)


def _check_names(names: Sequence[str], where: str) -> None:
    for i, name in enumerate(names):
        if not name:
            raise DataError(f"column {i + 1} has no name", where=f"{where}, line 1", cure="Name it, or remove it.")
        if name in names[:i]:
            raise DataError(f"column '{name}' is there twice", where=f"{where}, line 1", cure="Remove one of them.")


def _first(names: Sequence[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _split_unit(name: str, known: Mapping[str, str]) -> tuple[str, str | None]:
    headed = _HEADED_UNIT.fullmatch(name)
    if name in known or headed is None:
        return name, None
    return headed["name"], headed["unit"]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
