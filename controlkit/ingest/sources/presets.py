"""What the historians call their columns, and what their quality codes and status words are worth.

A preset (`log.preset` of the plant file) is asked before the usual names; `log.columns` comes before both. Sources:
the AVEVA (OSIsoft) documentation "Data Archive Reference" and "The SYSTEM digital state set", the enumeration
`AFSystemStateCode` of the PI AF SDK, AspenTech's "InfoPlus.21 Database User's Manual" and the table of levels in
Equinor's Tagreader manual, Inductive Automation's "Ignition Database Table Reference", InfluxData's "Annotated CSV" and
"Line protocol", Timescale's documentation of hypertables (ordinary tables of PostgreSQL; the names are a habit).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from controlkit.ingest import columns as usual
from controlkit.ingest.stage import Code
from controlkit.log_rules import LogRules

if TYPE_CHECKING:
    import pyarrow as pa

ROLES = ("timestamp", "tag", "value", "quality", "unit")


@dataclass(frozen=True)
class Preset:
    """One historian.

    Attributes:
        timestamp, tag, value, quality, unit: names of columns in small letters, the likeliest first.
        flags: columns of 0 and 1 (or true and false) beside the quality -> the word that a 1 stands for.
        aside: columns of its exports that say nothing about a sample.
        codes: quality code or word in small letters -> what the sample is worth.
        other_numbers: what a number is worth that `codes` lacks; None: what the number means elsewhere.
        states: words in small letters that stand where a value should be.
    """

    timestamp: tuple[str, ...]
    tag: tuple[str, ...]
    value: tuple[str, ...]
    quality: tuple[str, ...] = ()
    unit: tuple[str, ...] = ()
    flags: Mapping[str, str] = field(default_factory=dict)
    aside: frozenset[str] = frozenset()
    codes: Mapping[str, Code] = field(default_factory=dict)
    other_numbers: Code | None = None
    states: frozenset[str] = frozenset()

    def code(self, text: str) -> Code | None:
        """What a quality code is worth; None where this historian has no such code."""
        word = text.strip().lower()
        number = _number(word)
        if number is not None:
            return self.codes.get(str(number), self.other_numbers)
        return self.codes.get(word)


# States of PI's SYSTEM set: any point may hold them instead of a value, whatever its type.
PI_STATES = frozenset(
    """access denied;no sample;no result;unit down;sample bad;equip fail;no lab data;trace;
    no good data;invalid data;doubtful;dcs failed;bad output;scan off;scan on;configure;failed;error;execute;filtered;
    calc off;i/o timeout;set to bad;no data;calc failed;calc overflow;under range;over range;pt created;point created;
    shutdown;
    bad input;bad total;arc off-line;archive offline;active batch;intf shut;intf down;comm fail;not connect;snapfix;
    bad quality;coercion failed;invalid float;not converge;bad""".replace("\n    ", "").split(";")
)
_WORDS = {
    "good": Code.GOOD, "true": Code.GOOD, "bad": Code.BAD, "false": Code.BAD, "uncertain": Code.UNCERTAIN,
    "questionable": Code.UNCERTAIN, "suspect": Code.UNCERTAIN, "substituted": Code.SUBSTITUTED,
}  # fmt: skip

PI = Preset(
    timestamp=("time", "timestamp"),
    tag=("tag", "tagname", "name", "point"),
    value=("value",),
    quality=("status", "quality", "good"),
    unit=("engunits", "unitsabbreviation", "uom", "units"),
    flags={"substituted": "substituted", "questionable": "questionable"},
    aside=frozenset({"annotated", "annotations", "_index", "pointid", "type", "webid"}),
    # `status` is 0 for a good value and the number of a digital state (negative in OLE DB) for every other.
    codes={"0": Code.GOOD, **_WORDS, **dict.fromkeys(sorted(PI_STATES), Code.BAD)},
    other_numbers=Code.BAD,
    states=PI_STATES,
)
IP21 = Preset(
    timestamp=("ip_trend_time", "ts", "ip_input_time"),
    tag=("name", "tag"),
    value=("ip_trend_value", "value", "ip_input_value"),
    quality=("ip_trend_qstatus", "ip_trend_qlevel", "status", "ip_input_quality"),
    unit=("ip_eng_units",),
    aside=frozenset({"ip_description", "ip_trend_qlevel", "ip_sequence_number", "ip_tag_type", "ip_dcs_name"}),
    # Levels as numbers: 0 good, 1 suspect, 2 bad; 4 more where somebody has changed the sample.
    codes={
        **_WORDS, "initial": Code.BAD, "no status": Code.BAD, "out of service": Code.BAD, "off scan": Code.BAD,
        "0": Code.GOOD, "1": Code.UNCERTAIN, "2": Code.BAD, "4": Code.SUBSTITUTED, "5": Code.SUBSTITUTED,
        "6": Code.BAD,
    },
    other_numbers=Code.BAD,
    states=frozenset({"no data", "bad", "?????", "########"}),
)  # fmt: skip
IGNITION = Preset(
    timestamp=("t_stamp",),
    tag=("tagpath", "path"),
    value=("floatvalue", "intvalue", "value"),
    quality=("dataintegrity", "quality", "quality_code"),
    aside=frozenset({"tagid", "stringvalue", "datevalue"}),
    # "192 is Good Quality, anything else is bad."
    codes={"192": Code.GOOD, "good": Code.GOOD, "good_provisional": Code.UNCERTAIN, "uncertain": Code.UNCERTAIN},
    other_numbers=Code.BAD,
)
INFLUXDB = Preset(
    timestamp=("_time", "time"),
    tag=("tag", "_field", "_measurement", "name"),
    value=("_value", "value"),
    quality=("quality", "status"),
    aside=frozenset({"", "result", "table", "_start", "_stop", "_measurement"}),
)
TIMESCALEDB = Preset(
    timestamp=("time", "ts", "timestamp", "bucket", "recorded_at"),
    tag=("tag", "tag_name", "name", "sensor", "sensor_name", "sensor_id", "metric", "signal"),
    value=("value", "val", "reading"),
    quality=("quality", "status", "quality_code"),
    unit=("unit", "uom"),
)
PRESETS: Mapping[str, Preset] = {
    "pi": PI, "ip21": IP21, "ignition": IGNITION, "influxdb": INFLUXDB, "timescaledb": TIMESCALEDB
}  # fmt: skip


def preset_of(rules: LogRules) -> Preset | None:
    """The historian that a plant file names."""
    return PRESETS[rules.preset] if rules.preset is not None else None


def find_roles(names: Sequence[str], rules: LogRules) -> dict[str, str]:
    """Role -> the column that plays it: the one `log.columns` names, else the preset's, else one with a usual name.

    What `log.columns` names is returned whether it is there or not; other roles that no column plays are left out.
    """
    preset = preset_of(rules)
    by_lower = {name.strip().lower(): name for name in reversed(names)}
    found: dict[str, str] = {}
    for role in ROLES:
        given: str | None = getattr(rules.columns, role)
        if given is not None:
            found[role] = given if given in names else by_lower.get(given.lower(), given)
            continue
        likely = (*(getattr(preset, role) if preset else ()), *getattr(usual, role.upper()))
        taken = set(found.values())
        name = next((by_lower[name] for name in likely if name in by_lower and by_lower[name] not in taken), None)
        if name is not None:
            found[role] = name
    return found


def find_flags(names: Sequence[str], rules: LogRules) -> dict[str, str]:
    """Column -> word, for the preset's columns of 0 and 1 that are there; the column named first counts first."""
    preset = preset_of(rules)
    if preset is None:
        return {}
    by_lower = {name.strip().lower(): name for name in names}
    return {by_lower[name]: word for name, word in preset.flags.items() if name in by_lower}


def with_flags(quality: pa.Array | None, flags: Sequence[tuple[pa.Array, str]]) -> pa.Array:
    """Quality as text (K,): as it is, but where it is good (or there is none), the word of the first flag that is set.

    Args:
        quality: (K,) of any type, or None.
        flags: (K,) columns of bool, number or text (1, true, yes) with their words, the one that counts most first.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    if quality is None:
        quality = pa.array(["good"] * len(flags[0][0]), pa.string())
    text = pc.cast(quality, pa.string())
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(text))
    good = pc.fill_null(pc.is_in(plain, value_set=pa.array(["0", "0.0", "good", "true", "192"])), False)
    for flag, word in reversed(flags):
        said = pc.utf8_lower(pc.utf8_trim_whitespace(pc.cast(flag, pa.string())))
        is_set = pc.fill_null(pc.is_in(said, value_set=pa.array(["1", "1.0", "true", "t", "yes", "y"])), False)
        text = pc.if_else(pc.and_(good, is_set), word, text)
    return text


def _number(word: str) -> int | None:
    try:
        number = float(word)
    except ValueError:
        return None
    return int(number) if number.is_integer() else None
