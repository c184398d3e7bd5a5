"""OPC UA's requests, values, qualities and times, and ours. What a server sends is untrusted: nothing raises for it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Literal

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaError

from deploy.runtime.opcua_codec import Value, packed
from deploy.runtime.plant import Quality, Sample

Time = Literal["source", "server"]

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


def sample_of(value: Value, time: Time) -> Sample:
    """A tag's sample; what is no number, or no finite one, is NaN and bad."""
    quality = quality_of(value)
    number = number_of(value) if quality != "bad" else math.nan
    stamp = value.source_ns if time == "source" else value.server_ns
    return Sample(stamp, number, quality if math.isfinite(number) else "bad")


def quality_of(value: Value) -> Quality:
    """The quality that a StatusCode stands for; none at all means Good (OPC 10000-4, 7.11)."""
    if value.status & _CODE in _SUBSTITUTED:
        return "substituted"
    return ("good", "uncertain", "bad", "bad")[value.status >> 30 & 3]


def number_of(value: Value) -> float:
    """A Boolean, an integer or a float as a number; NaN for what is none, or not finite."""
    content = value.content
    if not isinstance(content, bool | int | float):
        return math.nan
    number = float(content)
    return number if math.isfinite(number) else math.nan


def switch_of(value: Value) -> bool | None:
    """A switch; `None` unless it says so with good quality."""
    content = value.content
    if quality_of(value) != "good" or not isinstance(content, bool | int) or content not in (0, 1):
        return None
    return bool(content)


def counter_of(value: Value) -> int | None:
    """A counter; `None` unless it is a whole number of good quality."""
    content = value.content
    if quality_of(value) != "good":
        return None
    if isinstance(content, float) and content.is_integer():
        return int(content)
    return int(content) if isinstance(content, bool | int) else None


def text_of(value: Value) -> str | None:
    """A text of good quality; OPC UA knows a null text, which is empty."""
    if quality_of(value) != "good":
        return None
    if value.kind == ua.VariantType.String.value and value.content is None:
        return ""
    return value.content[:_MAX_TEXT] if isinstance(value.content, str) else None


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


def written(content: float | int | str, kind: ua.VariantType, wrap: bool = False) -> bytes | str:
    """The value as the node's type wants it, encoded.

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
        return packed(content, kind)
    if kind == ua.VariantType.String:
        return "the node is a String, not a number"
    if not math.isfinite(content):
        return "is not a number"
    if kind in (ua.VariantType.Double, ua.VariantType.Float):
        if kind == ua.VariantType.Float and abs(content) > _FLOAT32_MAX:
            return "does not fit into a Float"
        return packed(float(content), kind)
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
    return packed(bool(whole) if kind == ua.VariantType.Boolean else whole, kind)


def node_id(text: str) -> ua.NodeId | None:
    """The node that a text such as `ns=2;s=tank.level` names; `None` if it names none."""
    try:
        return ua.NodeId.from_string(text)
    except (UaError, ValueError, TypeError):
        return None


def typing(ids: Iterable[ua.NodeId]) -> ua.ReadParameters:
    """A request for value and data type of each node in turn, for `type_of`."""
    parameters = ua.ReadParameters()
    parameters.TimestampsToReturn = ua.TimestampsToReturn.Neither
    attributes = (AttributeIds.Value, AttributeIds.DataType)
    parameters.NodesToRead = [ua.ReadValueId(node, attribute) for node in ids for attribute in attributes]
    return parameters


def is_unknown(value: Value) -> bool:
    """Whether the server does not know the node."""
    return value.status in (StatusCodes.BadNodeIdUnknown, StatusCodes.BadNodeIdInvalid)


def refusal_of(code: int) -> tuple[str, bool]:
    """Why a value was not taken (empty if it was), and whether the node may be of another type than it was."""
    if code >> 30 == 0:
        return "", False
    changed = (StatusCodes.BadTypeMismatch, StatusCodes.BadNodeIdUnknown)
    return str(ua.StatusCode(ua.UInt32(code)).name), code in changed


def _content(value: ua.DataValue) -> object:
    """The scalar inside; `None` for an array, or for nothing."""
    variant = value.Value
    return None if variant is None or variant.is_array else variant.Value
