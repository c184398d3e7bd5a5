"""OPC UA's requests, values, qualities and times, and ours. What a server sends is untrusted: nothing raises for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Literal

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError

from deploy.runtime.plant import Quality, Sample

Time = Literal["source", "server"]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NS = 2**63 - 1
_MAX_TEXT = 1000
_CODE = 0xFFFF0000  # the upper half is the condition, the lower half says more about the value's origin
# The value is one that somebody put in its place.
_SUBSTITUTED = (StatusCodes.GoodLocalOverride, StatusCodes.UncertainSubstituteValue)

_UNSIGNED = {
    ua.VariantType.Byte: 8,
    ua.VariantType.UInt16: 16,
    ua.VariantType.UInt32: 32,
    ua.VariantType.UInt64: 64,
}
_SIGNED = {
    ua.VariantType.SByte: 8,
    ua.VariantType.Int16: 16,
    ua.VariantType.Int32: 32,
    ua.VariantType.Int64: 64,
}
_WRITABLE = {
    ua.VariantType.Boolean,
    ua.VariantType.Float,
    ua.VariantType.Double,
    ua.VariantType.String,
    *_UNSIGNED,
    *_SIGNED,
}
_FLOAT32_MAX = 3.4028234663852886e38


def sample_of(value: ua.DataValue, time: Time) -> Sample:
    """A tag's sample; what is no number, or no finite one, is NaN and bad."""
    quality = quality_of(value)
    number = number_of(value) if quality != "bad" else math.nan
    return Sample(time_of(value, time), number, quality if math.isfinite(number) else "bad")


def quality_of(value: ua.DataValue) -> Quality:
    """The quality that a StatusCode stands for; none at all means Good (OPC 10000-4, 7.11)."""
    code = 0 if value.StatusCode is None else value.StatusCode.value
    if code & _CODE in _SUBSTITUTED:
        return "substituted"
    return ("good", "uncertain", "bad", "bad")[code >> 30 & 3]


def number_of(value: ua.DataValue) -> float:
    """A Boolean, an integer or a float as a number; NaN for what is none, or not finite."""
    content = _content(value)
    if not isinstance(content, bool | int | float):
        return math.nan
    number = float(content)
    return number if math.isfinite(number) else math.nan


def time_of(value: ua.DataValue, time: Time) -> int | None:
    """The time stamp in ns since 1970; `None` where there is none, or one before 1970 or beyond int64."""
    stamp = value.SourceTimestamp if time == "source" else value.ServerTimestamp
    if not isinstance(stamp, datetime):
        return None
    since = datetime.combine(stamp.date(), stamp.time(), UTC) - _EPOCH
    # In whole numbers: a float of seconds is good for no more than about 0.2 us.
    ns = ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    return ns if 0 <= ns <= _MAX_NS else None


def switch_of(value: ua.DataValue) -> bool | None:
    """A switch; `None` unless it says so with good quality."""
    content = _content(value)
    if quality_of(value) != "good" or not isinstance(content, bool | int) or content not in (0, 1):
        return None
    return bool(content)


def counter_of(value: ua.DataValue) -> int | None:
    """A counter; `None` unless it is a whole number of good quality."""
    content = _content(value)
    if quality_of(value) != "good":
        return None
    if isinstance(content, float) and content.is_integer():
        return int(content)
    return int(content) if isinstance(content, bool | int) else None


def text_of(value: ua.DataValue) -> str | None:
    """A text of good quality; OPC UA knows a null text, which is empty."""
    variant = value.Value
    if quality_of(value) != "good" or variant is None or variant.is_array:
        return None
    if variant.VariantType == ua.VariantType.String and variant.Value is None:
        return ""
    return variant.Value[:_MAX_TEXT] if isinstance(variant.Value, str) else None


def type_of(value: ua.DataValue, data_type: ua.DataValue) -> ua.VariantType | None:
    """The type that a node's values are of: its DataType where that is a built-in one, else that of its value now.

    Returns:
        `None` where neither tells, or values of that type are not written by us.
    """
    found: ua.VariantType | None = None
    node = _content(data_type)
    if isinstance(node, ua.NodeId) and node.NamespaceIndex == 0 and isinstance(node.Identifier, int):
        found = next((kind for kind in _WRITABLE if kind.value == node.Identifier), None)
    if found is None and value.Value is not None and value.Value.VariantType in _WRITABLE:
        found = value.Value.VariantType
    return found


def written(content: float | int | str, kind: ua.VariantType, wrap: bool = False) -> ua.DataValue | str:
    """The value as the node's type wants it: without status and stamps, which many servers refuse to take.

    Args:
        content: a number (of a command), a counter or a text.
        kind: from `type_of`.
        wrap: of a counter: start again at 0 where the type ends.

    Returns:
        The value, or why the type cannot hold it.
    """
    if isinstance(content, str):
        if kind != ua.VariantType.String:
            return f"the node is a {kind.name}, not a String"
        return _plain(content, kind)
    if kind == ua.VariantType.String:
        return "the node is a String, not a number"
    if not math.isfinite(content):
        return "is not a number"
    if kind in (ua.VariantType.Double, ua.VariantType.Float):
        if kind == ua.VariantType.Float and abs(content) > _FLOAT32_MAX:
            return "does not fit into a Float"
        return _plain(float(content), kind)
    if kind == ua.VariantType.Boolean:
        low, high = 0, 1
    elif kind in _UNSIGNED:
        low, high = 0, 2 ** _UNSIGNED[kind] - 1
    else:
        high = 2 ** (_SIGNED[kind] - 1) - 1
        low = -high - 1
    whole = round(content)
    if wrap:
        whole %= high + 1
    if not low <= whole <= high:
        return f"{content:g} does not fit into a {kind.name}"
    return _plain(bool(whole) if kind == ua.VariantType.Boolean else whole, kind)


def node_id(text: str) -> ua.NodeId | None:
    """The node that a text such as `ns=2;s=tank.level` names; `None` if it names none."""
    try:
        return ua.NodeId.from_string(text)
    except (UaError, ValueError, TypeError):
        return None


def reading(ids: Iterable[ua.NodeId], time: Time) -> ua.ReadParameters:
    """A request for the values of nodes, newest, with quality and time."""
    parameters = ua.ReadParameters()
    parameters.TimestampsToReturn = ua.TimestampsToReturn.Source if time == "source" else ua.TimestampsToReturn.Server
    parameters.NodesToRead = [ua.ReadValueId(node, AttributeIds.Value) for node in ids]
    return parameters


def typing(ids: Iterable[ua.NodeId]) -> ua.ReadParameters:
    """A request for value and data type of each node in turn, for `type_of`."""
    parameters = ua.ReadParameters()
    parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
    attributes = (AttributeIds.Value, AttributeIds.DataType)
    parameters.NodesToRead = [ua.ReadValueId(node, attribute) for node in ids for attribute in attributes]
    return parameters


def writing(values: Iterable[tuple[ua.NodeId, ua.DataValue]]) -> ua.WriteParameters:
    """A request to write the values of nodes."""
    parameters = ua.WriteParameters()
    parameters.NodesToWrite = [ua.WriteValue(node, AttributeIds.Value, Value=value) for node, value in values]
    return parameters


def is_unknown(value: ua.DataValue) -> bool:
    """Whether the server does not know the node."""
    codes = (StatusCodes.BadNodeIdUnknown, StatusCodes.BadNodeIdInvalid)
    return value.StatusCode is not None and value.StatusCode.value in codes


def refusal_of(code: ua.StatusCode) -> tuple[str, bool]:
    """Why a value was not taken (empty if it was), and whether the node may be of another type than it was."""
    if code.value >> 30 == 0:
        return "", False
    changed = (StatusCodes.BadTypeMismatch, StatusCodes.BadNodeIdUnknown)
    return str(code.name), code.value in changed


def _plain(content: object, kind: ua.VariantType) -> ua.DataValue:
    return ua.DataValue(Value=ua.Variant(content, kind), StatusCode=None)


def _content(value: ua.DataValue) -> object:
    """The scalar inside; `None` for an array, or for nothing."""
    variant = value.Value
    return None if variant is None or variant.is_array else variant.Value
