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
        flags: columns of 0 and 1 with the quality that a 1 stands for; the first one that is set counts.
    """

    form: Literal["long", "wide"]
    names: tuple[str, ...]
    timestamp: int
    quality: int | None = None
    tag: int | None = None
    value: int | None = None
    unit: int | None = None
    tags: Mapping[str, int] | None = None
    flags: tuple[tuple[int, str], ...] = ()


def log_names(spec: PlantSpec) -> dict[str, str]:
    """Name in the log -> name in the plant file, for every tag."""
    return {tag.column or name: name for name, tag in spec.tags.items()}


def recognise(header: Sequence[str], spec: PlantSpec, where: str, roles: Mapping[str, str] | None = None) -> Columns:
    """The meaning of a header's columns.

    Args:
        header: their names.
        spec: the plant.
        where: the source, for messages.
        roles: timestamp, tag, value, quality, unit -> the column that plays the part; found out where None.

    Raises:
        DataError: a column is missing, unknown, unnamed or there twice, or it states another unit than the plant file.
    """
    from controlkit.ingest.sources.presets import find_flags, find_roles, preset_of

    names = tuple(name.strip() for name in header)
    preset = preset_of(spec.log)
    aside = preset.aside if preset is not None else frozenset[str]()
    _check_names(names, where, aside)
    roles = find_roles(names, spec.log) if roles is None else roles
    _check_given(roles, names, where)
    place = {role: names.index(name) for role, name in roles.items()}
    timestamp, tag, value = (place.get(role) for role in ("timestamp", "tag", "value"))
    if timestamp is None:
        raise DataError(
            f"no time stamp column; found: {_listed(names)}",
            where=f"{where}, line 1",
            cure=f"Name that column 'timestamp' ({', '.join(TIMESTAMP[1:4])} ... will do), or say which it is in the "
            "plant file (log.columns.timestamp).",
        )
    quality = place.get("quality")
    flags = find_flags([name for name in names if name not in roles.values()], spec.log)
    if tag is not None and value is not None:
        unit = place.get("unit")
        used = {timestamp, tag, value, quality, unit}
        rest = [name for i, name in enumerate(names) if i not in used and name not in flags]
        extra = [name for name in rest if name.lower() not in aside]
        if extra:
            raise DataError(
                f"unknown column '{extra[0]}' in a log with one sample per row",
                where=f"{where}, line 1",
                cure="Keep timestamp, tag, value, quality and unit only.",
            )
        marked = tuple((names.index(name), word) for name, word in flags.items())
        return Columns("long", names, timestamp, quality, tag, value, unit, flags=marked)
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
    others = {timestamp, quality} | {i for i, name in enumerate(names) if name.lower() in aside and name not in known}
    tags = _tag_columns(names, others, spec, where)
    return Columns("wide", names, timestamp, quality, tags=tags)


def _tag_columns(names: Sequence[str], others: set[int | None], spec: PlantSpec, where: str) -> dict[str, int]:
    """Tag -> its column, of a wide log."""
    known, tags = log_names(spec), dict[str, int]()
    for i, name in enumerate(names):
        if i not in others:
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
    return tags


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


def unknown_tags(names: Sequence[str], known: Mapping[str, str], where: str) -> DataError:
    """The error for several of them; `where` is the first one's place."""
    problem = unknown_tag(names[0], known, where)
    more = f", nor are {len(names) - 1} more: {_listed(names[1:])}" if len(names) > 1 else ""
    return DataError(problem.what + more, where=problem.where, cure=problem.cure)


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
    """Whether a unit that the log states differs from the one in which the plant file expects it."""
    return spec.tags[tag].role != "ignore" and same_unit(text) != unit_in_log(spec, tag)


def unit_in_log(spec: PlantSpec, tag: str) -> str:
    """The unit in which a tag's values stand in the log."""
    return spec.tags[tag].log_unit or spec.tags[tag].unit


def wrong_unit(spec: PlantSpec, tag: str, text: str, where: str) -> DataError:
    """The error for a unit that differs; names both, and the line of the plant file that would have it converted."""
    from controlkit.ingest.units import convertible

    unit, said = same_unit(text), "log_unit" if spec.tags[tag].log_unit else "unit"
    cure = "Convert the log, or mend the unit in the plant file."
    if convertible(unit, spec.tags[tag].unit):
        cure = f"Write 'log_unit: {unit}' under that tag in the plant file, and its values are converted."
        if unit == spec.tags[tag].unit:
            cure = "Take 'log_unit' out of that tag in the plant file."
    return DataError(
        f"tag '{tag}' is in '{text.strip()}', the plant file says '{unit_in_log(spec, tag)}' ({said})",
        where=where,
        cure=cure,
    )


def same_unit(text: str) -> str:
    """The plant file's spelling of a unit in a log: `°C` is `degC`, `m³/h` is `m^3/h`; an unknown one stays."""
    text = text.strip()
    if text in UNITS:
        return text
    plain = text.translate(_SIGNS)
    return _SAME_UNIT.get(plain, plain)


def _check_names(names: Sequence[str], where: str, aside: frozenset[str]) -> None:
    for i, name in enumerate(names):
        if name.lower() in aside:
            continue
        if not name:
            raise DataError(f"column {i + 1} has no name", where=f"{where}, line 1", cure="Name it, or remove it.")
        if name in names[:i]:
            raise DataError(f"column '{name}' is there twice", where=f"{where}, line 1", cure="Remove one of them.")


def _check_given(roles: Mapping[str, str], names: Sequence[str], where: str) -> None:
    """Refuses what `log.columns` of the plant file names and the header lacks."""
    for role, name in roles.items():
        if name not in names:
            hint = nearest(name, names)
            raise DataError(
                f"there is no column '{name}' (log.columns.{role} of the plant file)",
                where=f"{where}, line 1",
                cure=f"{hint[0].upper()}{hint[1:]}" + ("" if hint.endswith("?") else "."),
            )


def _split_unit(name: str, known: Mapping[str, str]) -> tuple[str, str | None]:
    headed = _HEADED_UNIT.fullmatch(name)
    if name in known or headed is None:
        return name, None
    return headed["name"], headed["unit"]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:6])
    return shown + (f" and {len(names) - 6} more" if len(names) > 6 else "")
