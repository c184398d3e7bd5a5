"""The bytes of a Read and a Write, for the two requests that a cycle makes again and again (OPC 10000-6, 5.2).

asyncua builds and takes apart a request field by field, which costs milliseconds for some twenty nodes. Here what stays
the same from cycle to cycle is encoded once, and the usual answers are read in one pass. Whatever is not usual (arrays,
structures, diagnostics, picoseconds, a fault, an answer cut short) is `None` here and left to asyncua's own decoder.
Channel, signature and encryption are asyncua's in any case.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Final, NamedTuple

from asyncua import ua
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import nodeid_to_binary

READ: Final = ObjectIds.ReadRequest_Encoding_DefaultBinary
WRITE: Final = ObjectIds.WriteRequest_Encoding_DefaultBinary

_STRING, _DATE_TIME = ua.VariantType.String.value, ua.VariantType.DateTime.value
_SCALARS = {
    kind.value: struct.Struct(f"<{code}")
    for kind, code in (
        (ua.VariantType.Boolean, "?"),
        (ua.VariantType.SByte, "b"),
        (ua.VariantType.Byte, "B"),
        (ua.VariantType.Int16, "h"),
        (ua.VariantType.UInt16, "H"),
        (ua.VariantType.Int32, "i"),
        (ua.VariantType.UInt32, "I"),
        (ua.VariantType.Int64, "q"),
        (ua.VariantType.UInt64, "Q"),
        (ua.VariantType.Float, "f"),
        (ua.VariantType.Double, "d"),
        (ua.VariantType.DateTime, "q"),
    )
}
_ID, _LENGTH, _HEADER = struct.Struct("<BBH"), struct.Struct("<i"), struct.Struct("<qIIiIBBB")
# Time stamp, handle, result, no diagnostics, the string table's length; then an additional header of nothing.
_ANSWER = struct.Struct("<BBHqIIBi3sI")
_READ_ANSWER = ObjectIds.ReadResponse_Encoding_DefaultBinary
_WRITE_ANSWER = ObjectIds.WriteResponse_Encoding_DefaultBinary
_VALUE, _STATUS, _SOURCE, _SERVER = 1, 2, 4, 8
_NO_TABLE, _NO_DIAGNOSTICS = (0, -1), (b"\0\0\0\0", b"\xff\xff\xff\xff")

_EPOCH_TICKS, _TICK_NS = 116_444_736_000_000_000, 100  # 1970 in ticks since 1601
_UNIX = datetime(1970, 1, 1, tzinfo=UTC)
_MAX_NS = 2**63 - 1


class Value(NamedTuple):
    """A node's value as far as the runtime looks at it.

    Attributes:
        kind: number of its built-in type; 0 where there is no value, or an array.
        content: a scalar number or text; `None` for anything else: arrays, structures, times, nothing.
        status: its StatusCode; 0, Good, where none came.
        source_ns, server_ns: time stamps in ns since 1970, exact to the microsecond; `None` where there is none, or one
            before 1970 or beyond int64.
    """

    kind: int = 0
    content: bool | int | float | str | None = None
    status: int = 0
    source_ns: int | None = None
    server_ns: int | None = None


def value_of(value: ua.DataValue) -> Value:
    """The same from what asyncua decoded."""
    variant, code = value.Value, 0 if value.StatusCode is None else value.StatusCode.value
    kind, content = (0, None) if variant is None or variant.is_array else (variant.VariantType.value, variant.Value)
    if not isinstance(content, bool | int | float | str):
        content = None
    return Value(kind, content, code, _moment(value.SourceTimestamp), _moment(value.ServerTimestamp))


def read_parameters(ids: Iterable[ua.NodeId], source_time: bool) -> bytes:
    """The parameters of a Read of values, newest, with the source's or the server's time stamp."""
    nodes = [nodeid_to_binary(node) for node in ids]
    stamps = ua.TimestampsToReturn.Source if source_time else ua.TimestampsToReturn.Server
    one = struct.pack("<IiHi", AttributeIds.Value, -1, 0, -1)  # no index range, no data encoding
    return struct.pack("<dii", 0.0, stamps, len(nodes)) + b"".join(node + one for node in nodes)


def write_item(node: ua.NodeId, kind: ua.VariantType) -> bytes:
    """What of a node in a Write stays the same: everything before its value, which is of this type."""
    return nodeid_to_binary(node) + struct.pack("<IiBB", AttributeIds.Value, -1, _VALUE, kind.value)


def packed(content: bool | int | float | str, kind: ua.VariantType) -> bytes:
    """A value of this type, which can hold it; see `deploy.runtime.opcua_values.written`."""
    if isinstance(content, str):
        text = content.encode("utf-8", "surrogateescape")
        return _LENGTH.pack(len(text)) + text
    return _SCALARS[kind.value].pack(content)


def write_parameters(items: Sequence[bytes]) -> bytes:
    """The parameters of a Write of items, each with its value behind it."""
    return _LENGTH.pack(len(items)) + b"".join(items)


def request(kind: int, token: bytes, parameters: bytes, *, wall_ns: int, handle: int, timeout_ms: int) -> bytes:
    """A whole request without channel and chunk.

    Args:
        kind: `READ` or `WRITE`.
        token: the session's authentication token, encoded.
        parameters: of the request.
        wall_ns: the wall clock, for the header.
        handle: of the request.
        timeout_ms: how long an answer is waited for, for the server to know.
    """
    ticks = wall_ns // 1000 * 10 + _EPOCH_TICKS
    # No diagnostics wanted, no audit entry, no additional header.
    return _ID.pack(1, 0, kind) + token + _HEADER.pack(ticks, handle, 0, -1, timeout_ms, 0, 0, 0) + parameters


def read_answer(body: bytes, count: int) -> list[Value] | None:
    """The values in an answer to a Read of `count` nodes; `None` unless it is a usual one through and through."""
    try:
        if not _is_usual(body, _READ_ANSWER, count):
            return None
        values, at = [], _ANSWER.size
        for _ in range(count):
            mask = body[at]
            at += 1
            kind, content = 0, None
            if mask & _VALUE:
                kind = body[at]
                at += 1
                if kind == _STRING:
                    (length,) = _LENGTH.unpack_from(body, at)
                    at += _LENGTH.size
                    if length >= 0:
                        if at + length > len(body):
                            return None
                        content = body[at : at + length].decode("utf-8", "surrogateescape")
                        at += length
                    elif length != -1:
                        return None
                elif kind:
                    scalar = _SCALARS[kind]
                    (content,) = scalar.unpack_from(body, at)
                    at += scalar.size
                    if kind == _DATE_TIME:
                        content = None
            tail, status, source, server = _TAILS[mask & ~_VALUE]
            fields = (None, *tail.unpack_from(body, at))
            at += tail.size
            values.append(Value(kind, content, fields[status] or 0, _ns(fields[source]), _ns(fields[server])))
    except (IndexError, KeyError, struct.error):
        return None
    return values if body[at:] in _NO_DIAGNOSTICS else None


def write_answer(body: bytes, count: int) -> list[int] | None:
    """The StatusCodes in an answer to a Write of `count` nodes; `None` unless it is a usual one through and through."""
    try:
        if not _is_usual(body, _WRITE_ANSWER, count):
            return None
        codes = struct.unpack_from(f"<{count}I", body, _ANSWER.size)
    except struct.error:
        return None
    return list(codes) if body[_ANSWER.size + 4 * count :] in _NO_DIAGNOSTICS else None


def _is_usual(body: bytes, kind: int, count: int) -> bool:
    """Whether the header says that all is well, and the answer is for as many nodes as were asked for."""
    encoding, space, number, _, _, result, diagnostics, table, extra, found = _ANSWER.unpack_from(body)
    return (
        (encoding, space, number, result, diagnostics, found) == (1, 0, kind, 0, 0, count)
        and table in _NO_TABLE
        and extra == b"\0\0\0"
    )


def _tail(mask: int) -> tuple[struct.Struct, int, int, int]:
    """What follows the value, and where in it, counted from 1, status and both times are; 0: not there."""
    present = [bit for bit in (_STATUS, _SOURCE, _SERVER) if mask & bit]
    places = [present.index(bit) + 1 if bit in present else 0 for bit in (_STATUS, _SOURCE, _SERVER)]
    fields = struct.Struct("<" + "".join("I" if bit == _STATUS else "q" for bit in present))
    return fields, places[0], places[1], places[2]


_TAILS = {mask: _tail(mask) for mask in range(0, 16, 2)}


def _ns(ticks: int | None) -> int | None:
    if ticks is None:
        return None
    ns = (ticks // 10 * 10 - _EPOCH_TICKS) * _TICK_NS
    return ns if 0 <= ns <= _MAX_NS else None


def _moment(stamp: datetime | None) -> int | None:
    if not isinstance(stamp, datetime):
        return None
    since = datetime.combine(stamp.date(), stamp.time(), UTC) - _UNIX
    # In whole numbers: a float of seconds is good for no more than about 0.2 us.
    ns = ((since.days * 86400 + since.seconds) * 1_000_000 + since.microseconds) * 1000
    return ns if 0 <= ns <= _MAX_NS else None
