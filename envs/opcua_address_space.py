"""The OPC UA server of a simulated plant: its nodes, who may connect, what may be written, and injected faults."""

from __future__ import annotations

import asyncio
import gc
import hmac
import logging
import math
import socket
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any

from asyncua import ua
from asyncua.common.utils import ServiceError
from asyncua.crypto.permission_rules import User, UserRole
from asyncua.server.address_space import AttributeService
from asyncua.server.internal_server import InternalServer
from asyncua.server.internal_session import InternalSession
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.status_codes import StatusCodes
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.x509 import Certificate

from controlkit.certificates import application_uri
from controlkit.opcua_nodes import HANDSHAKE, NAMESPACE, NAMESPACE_INDEX, advice_node, handshake_node, tag_node
from controlkit.spec import PlantSpec
from envs.opcua_faults import Faults
from envs.opcua_service import NodeService, QuickServer

# asyncua logs every client that goes away with a traceback.
logging.getLogger("asyncua").addHandler(logging.NullHandler())

APPLICATION_URI = "urn:controlkit:simulated-plant"

_EPOCH = ua.DateTime(1970, 1, 1, tzinfo=UTC)
_VALUE_ONLY = AttributeIds.Value
_GOOD = ua.StatusCode()


@dataclass(frozen=True, repr=False)
class ServerIdentity:
    """Certificate and key of the server, and the certificates (DER) of the clients that it lets in.

    Attributes:
        users: name -> password; where there are any, a client must be one of them.
    """

    certificate: Certificate
    key: RSAPrivateKey
    trusted: frozenset[bytes]
    users: Mapping[str, str]


@dataclass(frozen=True)
class Variable:
    """A node of the plant.

    Attributes:
        name: a tag, a part of the handshake, or `advice.ACTION`; a name of the handshake begins with `#`, as no tag's
            does.
        kind: the type of its values.
        limits: of a command.
    """

    name: str
    node: ua.NodeId
    kind: ua.VariantType
    start: Any
    writable: bool
    description: str
    unit: str = ""
    limits: tuple[float, float] | None = None


def variables_of(spec: PlantSpec) -> dict[str, Variable]:
    """The plant's nodes by name: tags of a frame, commands, modes, the handshake, advice."""
    double = ua.VariantType.Double
    made: list[Variable] = []
    for name in (*spec.frame_tags, *spec.names("mode"), *spec.action_tags):
        tag = spec.tags[name]
        action = tag.role == "action"
        start = tag.safe if action else tag.accept[0] if tag.role == "mode" else math.nan
        limits = spec.limits(name) if action else None
        node = ua.NodeId.from_string(tag_node(spec, name))
        made.append(Variable(name, node, double, start, action, tag.description, tag.unit, limits))
        if action:
            node = ua.NodeId.from_string(advice_node(spec, name))
            made.append(Variable(f"#advice.{name}", node, double, start, True, f"advice for {name}", tag.unit))
    kinds: dict[str, tuple[ua.VariantType, Any, bool, str]] = {
        "auto": (ua.VariantType.Boolean, True, True, "the operator's switch: whether a controller may act"),
        "heartbeat_plant": (ua.VariantType.Int64, 0, False, "counts up every period"),
        "heartbeat_controller": (ua.VariantType.Int64, 0, True, "the controller counts up every period"),
        "lease": (ua.VariantType.String, "", True, "who may command"),
    }
    for name in HANDSHAKE:
        kind, start, writable, text = kinds[name]
        node = ua.NodeId.from_string(handshake_node(spec, name))
        made.append(Variable(f"#{name}", node, kind, start, writable, text))
    return {variable.name: variable for variable in made}


class PlantServer:
    """An asyncua server with the plant's nodes; lives in one asyncio loop.

    Args:
        variables: from `variables_of`.
        identity: `None`: no security, anybody.
        faults: looked at with every request.
        on_write: called after a client wrote a node, with its name and value.
        now_ns: the plant's time, which stamps what clients write without a stamp of their own.
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        identity: ServerIdentity | None,
        faults: Faults,
        on_write: Callable[[str, Any], None],
        now_ns: Callable[[], int],
    ) -> None:
        self.variables, self._identity, self._faults = variables, identity, faults
        self._on_write, self._now_ns = on_write, now_ns
        self._host, self.port = "", 0

    async def start(self, host: str, port: int) -> None:
        """Listens.

        Raises:
            OSError: the port is taken.
        """
        # A port that is taken shows at once, not after the seconds that the address space takes.
        socket.create_server((host, port)).close()
        self._inner = _Internal(self._identity, self._faults)
        attributes = _Attributes(self._inner, self.variables, self._faults, self._on_write, self._now_ns)
        self._inner.attribute_service = attributes
        self._service = NodeService(self.variables, attributes)
        # A shut-down need not wait for the server's own clock, which nobody reads.
        self._inner.disabled_clock = True
        server = self._server = Server(iserver=self._inner)
        server.name = "controlkit simulated plant"
        await _without_collector(server.init())
        identity = self._identity
        await server.set_application_uri(application_uri(identity.certificate) if identity else APPLICATION_URI)
        server.set_endpoint(f"opc.tcp://{host}:{port}/controlkit")
        policies = ua.SecurityPolicyType
        if identity is None:
            server.set_security_policy([policies.NoSecurity])
            server.set_identity_tokens([ua.AnonymousIdentityToken])
        else:
            self._inner.certificate, self._inner.private_key = identity.certificate, identity.key
            server.set_security_policy(
                [
                    policies.Basic256Sha256_SignAndEncrypt,
                    policies.Aes128Sha256RsaOaep_SignAndEncrypt,
                    policies.Aes256Sha256RsaPss_SignAndEncrypt,
                ]
            )
            anonymous, named = ua.AnonymousIdentityToken, ua.UserNameIdentityToken
            server.set_identity_tokens([named if identity.users else anonymous])
        await self._add_nodes(server)
        self._host, self.port = host, port
        await server._setup_server_nodes()
        await self._inner.start()
        try:
            await self.listen_again()
        except BaseException:
            await self._inner.stop()
            raise
        assert server.bserver is not None
        self.port = server.bserver.port

    async def stop_listening(self) -> None:
        """Cuts every client off and listens no more; the nodes keep their values."""
        if self._server.bserver is not None:
            await self._server.bserver.stop()
            self._server.bserver = None

    async def listen_again(self) -> None:
        """Listens on the same port again."""
        if self._server.bserver is None:
            bserver = QuickServer(self._inner, self._host, self.port, self._server.limits, self._service)
            bserver.set_policies(self._server._policies)
            await bserver.start()
            self._server.bserver = bserver

    async def stop(self) -> None:
        """Ends the server."""
        await self._server.stop()

    def value(self, name: str) -> Any:
        """What a node holds, whatever faults make of it."""
        held = self._inner.aspace.read_attribute_value(self.variables[name].node, _VALUE_ONLY)
        return None if held.Value is None else held.Value.Value

    async def publish(self, values: Mapping[str, Any], time_ns: int) -> None:
        """Gives nodes new values, good, stamped with `time_ns`."""
        stamp, now = _stamp(time_ns), ua.DateTime.now(UTC)
        for name, value in values.items():
            variable = self.variables[name]
            made = ua.DataValue(
                Value=ua.Variant(value, variable.kind),
                StatusCode=_GOOD,
                SourceTimestamp=stamp,
                ServerTimestamp=now,
            )
            await self._inner.aspace.write_attribute_value(variable.node, _VALUE_ONLY, made)
            self._service.encode(name, made)

    async def _add_nodes(self, server: Server) -> None:
        index = await server.register_namespace(NAMESPACE)
        assert index == NAMESPACE_INDEX
        for variable in self.variables.values():
            name = variable.name.removeprefix("#")
            node = await server.nodes.objects.add_variable(
                variable.node, f"{index}:{name}", variable.start, variable.kind
            )
            unit = f" [{variable.unit}]" if variable.unit else ""
            text = ua.LocalizedText(f"{variable.description}{unit}")
            await node.write_attribute(AttributeIds.Description, ua.DataValue(ua.Variant(text)))
            if variable.unit:
                await node.add_property(index, "EngineeringUnits", variable.unit)
            if variable.writable:
                await node.set_writable()


class _Attributes(AttributeService):
    """Read and Write of the server, see also `NodeService`: refuses what a node cannot take, and lets faults act."""

    def __init__(
        self,
        inner: _Internal,
        variables: Mapping[str, Variable],
        faults: Faults,
        on_write: Callable[[str, Any], None],
        now_ns: Callable[[], int],
    ) -> None:
        super().__init__(inner.aspace)
        self._inner, self._variables, self._faults = inner, variables, faults
        self._on_write, self._now_ns = on_write, now_ns
        self._by_node = {variable.node: variable for variable in variables.values()}

    def plain(self) -> bool:
        """See `envs.opcua_service.Store`."""
        return not self._faults.any_reading

    def held(self, name: str) -> ua.DataValue:
        """See `Store`."""
        return self._aspace.read_attribute_value(self._variables[name].node, _VALUE_ONLY)

    async def answering(self) -> None:
        """See `Store`."""
        await self._inner.answering()

    async def take(self, name: str, content: Any) -> int:
        """See `Store`."""
        variable = self._variables[name]
        refusal = self._faults.refusal(name)
        if refusal is None and variable.limits is not None and not _inside(content, variable.limits):
            refusal = StatusCodes.BadOutOfRange
        if refusal is None and not variable.writable:
            refusal = StatusCodes.BadUserAccessDenied
        if refusal is not None:
            return refusal
        if self._faults.drops_a_write():
            return StatusCodes.Good
        made = ua.DataValue(
            Value=ua.Variant(content, variable.kind),
            StatusCode=_GOOD,
            SourceTimestamp=_stamp(self._now_ns()),
            ServerTimestamp=ua.DateTime.now(UTC),
        )
        code = await self._aspace.write_attribute_value(variable.node, _VALUE_ONLY, made)
        if code.is_good():
            self._on_write(name, content)
        return int(code.value)

    def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        answers = super().read(params)
        if not self._faults.any_reading:
            return answers
        for i, asked in enumerate(params.NodesToRead):
            variable = self._by_node.get(asked.NodeId)
            if variable is not None:
                answers[i] = self._faults.seen(variable.name, answers[i], asked.AttributeId == _VALUE_ONLY)
        return answers

    async def write(self, params: ua.WriteParameters, user: User | None = None) -> list[ua.StatusCode]:
        user = User(role=UserRole.Admin) if user is None else user
        codes: list[ua.StatusCode] = []
        for item in params.NodesToWrite:
            variable = self._by_node.get(item.NodeId)
            if variable is None or user.role == UserRole.Admin:
                codes += await super().write(_single(item), user)
                continue
            refusal = self._faults.refusal(variable.name)
            if refusal is None:
                refusal = _refusal(variable, item)
            if refusal is not None:
                codes.append(ua.StatusCode(ua.UInt32(refusal)))
            elif self._faults.drops_a_write():
                codes.append(_GOOD)
            else:
                if item.Value.SourceTimestamp is None:
                    stamp = _stamp(self._now_ns())
                    item.Value = ua.DataValue(Value=item.Value.Value, StatusCode=_GOOD, SourceTimestamp=stamp)
                codes += await super().write(_single(item), user)
                if codes[-1].is_good() and item.AttributeId == _VALUE_ONLY:
                    self._on_write(variable.name, item.Value.Value.Value)
        return codes


async def _without_collector(work: Coroutine[Any, Any, None]) -> None:
    """The standard's address space is a million objects that all stay: to look for garbage doubles the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        await work
    finally:
        if was_on:
            gc.enable()


def _stamp(time_ns: int) -> ua.DateTime:
    return _EPOCH + timedelta(microseconds=time_ns // 1000)


def _single(item: ua.WriteValue) -> ua.WriteParameters:
    one = ua.WriteParameters()
    one.NodesToWrite = [item]
    return one


def _refusal(variable: Variable, item: ua.WriteValue) -> int | None:
    """Why a value cannot be taken, as a StatusCode."""
    variant = item.Value.Value
    if item.AttributeId != _VALUE_ONLY:
        return None  # asyncua refuses it by itself
    if item.Value.StatusCode is not None and not item.Value.StatusCode.is_good():
        return StatusCodes.BadWriteNotSupported
    if variant is None or variant.VariantType != variable.kind or variant.is_array:
        return StatusCodes.BadTypeMismatch
    if variable.limits is not None and not _inside(variant.Value, variable.limits):
        return StatusCodes.BadOutOfRange
    return None


def _inside(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]  # NaN is not


class _Internal(InternalServer):
    """Makes sessions that check who is at the other end."""

    def __init__(self, identity: ServerIdentity | None, faults: Faults) -> None:
        super().__init__(user_manager=_Users({} if identity is None else identity.users))
        self.identity, self.faults = identity, faults

    def create_session(self, name: str, user: User | None = None, external: bool = False) -> InternalSession:
        user = User(role=UserRole.Anonymous) if user is None else user
        return _Session(self, self.aspace, self.subscription_service, name, user=user, external=external)

    async def answering(self) -> None:
        """Returns once the server answers requests."""
        while self.faults.hanging:
            await asyncio.sleep(0.01)


class _Session(InternalSession):
    """A client's session.

    asyncua lets an unencrypted channel be opened even where no policy allows one, for discovery. What counts is whose
    certificate the channel of the session was opened with: nobody's, on such a channel.
    """

    iserver: _Internal

    def activate_session(
        self, params: ua.ActivateSessionParameters, peer_certificate: bytes | None
    ) -> ua.ActivateSessionResult:
        identity = self.iserver.identity
        if identity is not None and peer_certificate not in identity.trusted:
            raise ServiceError(StatusCodes.BadCertificateUntrusted)
        return super().activate_session(params, peer_certificate)

    async def create_session(
        self, params: ua.CreateSessionParameters, sockname: tuple[str, int] | None = None
    ) -> ua.CreateSessionResult:
        await self.iserver.answering()
        return await super().create_session(params, sockname)

    async def read(self, params: ua.ReadParameters) -> list[ua.DataValue]:
        await self.iserver.answering()
        return await super().read(params)

    async def write(self, params: ua.WriteParameters) -> list[ua.StatusCode]:
        await self.iserver.answering()
        return await super().write(params)


class _Users(UserManager):
    """Who a client is; anybody on a channel of a trusted certificate where no users are named."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = users

    def get_user(
        self, iserver: Any, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> User | None:
        if not self._users:
            return User(role=UserRole.User)
        stored = self._users.get(username or "")
        if stored is None or password is None or not hmac.compare_digest(stored.encode(), password.encode()):
            return None
        return User(role=UserRole.User, name=username)
