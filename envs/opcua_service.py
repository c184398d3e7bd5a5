"""The two requests that a controller makes in every period, served quickly: a Read and a Write of the plant's nodes.

asyncua takes a request apart field by field and puts the answer together in the same way, which costs milliseconds for
some twenty nodes; a controller in another process waits for that. Here a Read that was seen before is known by its
bytes, values are encoded when they change and not when they are read, and a Write of plain values is read in one pass.
Everything else goes through asyncua, and so do channels, sessions, signatures and encryption in any case.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from asyncua import ua
from asyncua.common.connection import TransportLimits
from asyncua.common.utils import Buffer
from asyncua.crypto.permission_rules import UserRole
from asyncua.server.binary_server_asyncio import BinaryServer, OPCUAProtocol
from asyncua.server.internal_server import InternalServer
from asyncua.server.uaprocessor import UaProcessor
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import nodeid_from_binary, nodeid_to_binary, struct_from_binary, struct_to_binary
from asyncua.ua.uaerrors import UaError

if TYPE_CHECKING:
    from envs.opcua_address_space import Variable

_READ, _WRITE = ObjectIds.ReadRequest_Encoding_DefaultBinary, ObjectIds.WriteRequest_Encoding_DefaultBinary
_READ_ANSWER, _WRITE_ANSWER = (
    ObjectIds.ReadResponse_Encoding_DefaultBinary,
    ObjectIds.WriteResponse_Encoding_DefaultBinary,
)
_TYPE, _LENGTH = struct.Struct("<BBH"), struct.Struct("<i")
# Of a request after its token: time stamp, handle, diagnostics, length of the audit entry, time limit, no extension.
_REQUEST = struct.Struct("<qIIiI3s")
# Of an answer: type, time stamp, handle, result, no diagnostics, no string table, no extension, how many results.
_ANSWER = struct.Struct("<BBHqIIBi3si")
_EPOCH_TICKS = 116_444_736_000_000_000  # 1970 in ticks of 100 ns since 1601
_STRING_NODE = 3
# A number with status and both times, which is what measured tags and commands are.
_DOUBLE, _ALL = struct.Struct("<BBdIqq"), 0b1111
_SCALARS = {
    kind: struct.Struct(f"<{code}")
    for kind, code in (
        (ua.VariantType.Boolean, "?"),
        (ua.VariantType.Byte, "B"),
        (ua.VariantType.Int16, "h"),
        (ua.VariantType.Int32, "i"),
        (ua.VariantType.Int64, "q"),
        (ua.VariantType.Float, "f"),
        (ua.VariantType.Double, "d"),
    )
}
# So many different Reads are remembered, of so many nodes at most.
_PLANS, _PLAN_NODES = 16, 1000
# What asyncua and struct raise for bytes that are no request; asyncua itself answers those.
_UNREADABLE = (UaError, struct.error, ValueError, TypeError, IndexError)


class Store(Protocol):
    """What holds the nodes."""

    def plain(self) -> bool:
        """Whether a reader sees every node as it is."""

    def held(self, name: str) -> ua.DataValue:
        """What a node holds."""

    async def take(self, name: str, content: Any) -> int:
        """Takes what a client wrote, a value of the node's type; the StatusCode."""

    async def answering(self) -> None:
        """Returns once the server answers requests."""


class NodeService:
    """Reads and Writes of a server's nodes, as bytes.

    Args:
        nodes: by name.
        store: what holds them.
    """

    def __init__(self, nodes: Mapping[str, Variable], store: Store) -> None:
        self._store = store
        self._names = {node.node: node.name for node in nodes.values()}
        plain = (*_SCALARS, ua.VariantType.String)
        self._items = {_item(node): node for node in nodes.values() if node.kind in plain}
        self._plans: dict[bytes, tuple[str, ...]] = {}
        self._encoded: dict[str, tuple[ua.DataValue, bytes]] = {}

    def encode(self, name: str, value: ua.DataValue) -> bytes:
        """The bytes of what a node holds, which are kept for as long as it holds this very value."""
        kept = self._encoded.get(name)
        if kept is None or kept[0] is not value:
            kept = self._encoded[name] = (value, _encoded(value))
        return kept[1]

    async def read(self, parameters: bytes) -> tuple[int, bytes] | None:
        """Count and bytes of the results of a Read; `None` where asyncua has to see to it."""
        names = self._plans.get(parameters) or self._plan(parameters)
        if names is None:
            return None
        await self._store.answering()
        if not self._store.plain():
            return None
        return len(names), b"".join([self.encode(name, self._store.held(name)) for name in names])

    async def write(self, parameters: bytes) -> tuple[int, bytes] | None:
        """Count and bytes of the results of a Write; `None` where asyncua has to see to it."""
        try:
            values = self._values(parameters)
        except _UNREADABLE:
            return None
        if values is None:
            return None
        await self._store.answering()
        codes = [await self._store.take(name, content) for name, content in values]
        return len(codes), struct.pack(f"<{len(codes)}I", *codes)

    def _plan(self, parameters: bytes) -> tuple[str, ...] | None:
        try:
            asked = struct_from_binary(ua.ReadParameters, Buffer(parameters)).NodesToRead or []
        except _UNREADABLE:
            return None
        names = tuple(self._names.get(one.NodeId, "") for one in asked if _is_plain(one))
        if len(names) < len(asked) or "" in names or not 0 < len(names) <= _PLAN_NODES:
            return None
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        self._plans[parameters] = names
        return names

    def _values(self, data: bytes) -> list[tuple[str, Any]] | None:
        """What is to be written, by name; `None` unless all of it is plain."""
        (count,), at, found = _LENGTH.unpack_from(data), _LENGTH.size, list[tuple[str, Any]]()
        if not 0 < count <= _PLAN_NODES:
            return None
        for _ in range(count):
            if data[at] != _STRING_NODE:
                return None
            (length,) = _LENGTH.unpack_from(data, at + 3)
            end = at + 17 + length
            node = self._items.get(data[at:end]) if length >= 0 else None
            if node is None:
                return None
            if node.kind == ua.VariantType.String:
                (length,) = _LENGTH.unpack_from(data, end)
                at = end + 4 + length
                if length < 0 or at > len(data):
                    return None
                found.append((node.name, data[end + 4 : at].decode()))
            else:
                scalar = _SCALARS[node.kind]
                found.append((node.name, scalar.unpack_from(data, end)[0]))
                at = end + scalar.size
        return found if at == len(data) else None


class QuickServer(BinaryServer):
    """asyncua's listener, whose connections ask `NodeService` first."""

    def __init__(
        self, inner: InternalServer, host: str, port: int, limits: TransportLimits, service: NodeService
    ) -> None:
        super().__init__(inner, host, port, limits)
        self._service = service

    def _make_protocol(self) -> OPCUAProtocol:
        made = _Protocol(self.iserver, self._policies, self.clients, self.closing_tasks, self.limits)
        made.service = self._service
        return made


class _Protocol(OPCUAProtocol):
    service: NodeService

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        if self.processor is not None:
            self.processor = _Processor(self.iserver, self.transport, self.limits)
            self.processor.set_policies(self.policies)  # type: ignore[no-untyped-call]
            self.processor.service = self.service


class _Processor(UaProcessor):
    service: NodeService

    async def process_message(self, seqhdr: Any, body: Buffer) -> Any:
        data = bytes(body)
        encoding, space, kind = _TYPE.unpack_from(data) if len(data) >= _TYPE.size else (0, 0, 0)
        serve: Callable[[bytes], Awaitable[tuple[int, bytes] | None]] | None = None
        if (encoding, space) == (1, 0) and self._lets_in(kind, body):
            serve = {_READ: self.service.read, _WRITE: self.service.write}.get(kind)
        answer, handle = None, 0
        if serve is not None and (found := _parts(body)) is not None:
            handle, parameters = found
            self.session_last_activity = time.monotonic()
            assert self.session is not None
            self.session.touch()
            answer = await serve(parameters)
        if answer is None:
            return await super().process_message(seqhdr, body)  # type: ignore[no-untyped-call]
        count, results = answer
        ticks = time.time_ns() // 100 + _EPOCH_TICKS
        number = _READ_ANSWER if kind == _READ else _WRITE_ANSWER
        header = _ANSWER.pack(1, 0, number, ticks, handle, 0, 0, 0, b"\0\0\0", count)
        message = self._connection.message_to_binary(
            b"".join((header, results, b"\0\0\0\0")), request_id=seqhdr.RequestId
        )
        self._transport.write(message)
        return True

    def _lets_in(self, kind: int, body: Buffer) -> bool:
        """Whether an ordinary client with an active session asks for what it may."""
        session = self.session
        if session is None or not session.is_activated() or session.user.role == UserRole.Admin:
            return False
        rules: Any = self._connection.security_policy.permissions
        return rules is None or bool(rules.check_validity(session.user, ua.NodeId(ua.Int32(kind)), body))


def _encoded(value: ua.DataValue) -> bytes:
    variant, status, source, server = value.Value, value.StatusCode, value.SourceTimestamp, value.ServerTimestamp
    fine = value.SourcePicoseconds is not None or value.ServerPicoseconds is not None
    if variant is None or status is None or source is None or server is None or fine:
        return struct_to_binary(value)
    if variant.VariantType != ua.VariantType.Double or variant.is_array:
        return struct_to_binary(value)
    ticks = ua.datetime_to_win_epoch(source), ua.datetime_to_win_epoch(server)
    return _DOUBLE.pack(_ALL, variant.VariantType.value, variant.Value, status.value, *ticks)


def _parts(body: Buffer) -> tuple[int, bytes] | None:
    """Handle and parameters of a request; `None` where its header is no usual one."""
    rest = body.copy()
    try:
        rest.skip(_TYPE.size)
        nodeid_from_binary(rest)
        _, handle, _, entry, _, extension = _REQUEST.unpack(rest.read(_REQUEST.size))
    except _UNREADABLE:
        return None
    return (handle, bytes(rest)) if entry == -1 and extension == b"\0\0\0" else None


def _item(node: Variable) -> bytes:
    """What comes before the value in a Write of a plain value: id, attribute, no index range, nothing but a value."""
    return nodeid_to_binary(node.node) + struct.pack("<IiBB", AttributeIds.Value, -1, 1, node.kind.value)


def _is_plain(asked: ua.ReadValueId) -> bool:
    return asked.AttributeId == AttributeIds.Value and not asked.IndexRange and not asked.DataEncoding.Name
