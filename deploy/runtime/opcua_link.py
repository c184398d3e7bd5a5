"""One OPC UA connection that mends itself, for the runtime's thread; everything here runs in an asyncio loop.

asyncua's own reconnection is not used: it makes callers wait for it, and reuses a client that may hang. Here every
connection has a client of its own, one request is under way at a time (so nothing old is ever queued behind a server
that hangs), and a request that the caller no longer waits for is let finish and its answer thrown away.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from asyncua import ua
from asyncua.client.client import Client
from asyncua.crypto import security_policies
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.status_codes import StatusCodes
from asyncua.ua.uaerrors import UaStatusCodeError

from controlkit.errors import ConfigError, ControlkitError
from deploy.runtime.opcua_exchange import exchanged
from deploy.runtime.opcua_security import Credentials

T = TypeVar("T")

# asyncua logs every lost connection with a traceback; what is wrong is told in `problem`.
logging.getLogger("asyncua").addHandler(logging.NullHandler())

OPEN_S = 10.0
DISCOVERY_S = 3.0
GOODBYE_S = 0.5
SESSION_MS = 60_000
CHANNEL_MS = 3_600_000
KEEP_ALIVE_S = 10.0
# Stay a long way below what a sane server sends.
MAX_MESSAGE_BYTES, MAX_CHUNKS = 16 * 1024 * 1024, 256

# The session or its channel is gone: only a new connection helps.
_GONE = {
    StatusCodes.BadSessionIdInvalid,
    StatusCodes.BadSessionClosed,
    StatusCodes.BadSessionNotActivated,
    StatusCodes.BadSecureChannelIdInvalid,
    StatusCodes.BadSecureChannelClosed,
    StatusCodes.BadConnectionClosed,
    StatusCodes.BadShutdown,
    StatusCodes.BadServerHalted,
    StatusCodes.BadTimeout,
    StatusCodes.BadCommunicationError,
    StatusCodes.BadUserAccessDenied,
}
# What somebody has to mend: waiting does not help.
_REFUSALS = {
    "BadCertificateUntrusted": "does not trust this runtime's certificate",
    "BadSecurityChecksFailed": "does not trust this runtime's certificate, or refuses its signature",
    "BadCertificateInvalid": "takes this runtime's certificate for invalid",
    "BadCertificateTimeInvalid": "takes this runtime's certificate for outdated",
    "BadCertificateUriInvalid": "wants another application URI in this runtime's certificate",
    "BadCertificateUseNotAllowed": "does not take this runtime's certificate for that of a client",
    "BadSecurityPolicyRejected": "refuses this security policy",
    "BadSecurityModeRejected": "refuses this security mode",
    "BadIdentityTokenInvalid": "refuses this kind of user",
    "BadIdentityTokenRejected": "refuses this user or password",
    "BadUserAccessDenied": "refuses this user or password",
    "BadUserSignatureInvalid": "refuses the user's signature",
}


class Unanswered(Exception):
    """Why the server did not answer; the text is for people."""


@dataclass
class Connection:
    """One connection while it lasts.

    Attributes:
        client: asyncua's.
        types: what is known of the types of nodes that are written, by their text; empty at first.
        pending: what comes of the one request under way.
        used_s: the loop's time of the last request.
        lost: set once the connection is given up.
    """

    client: Client
    types: dict[str, ua.VariantType] = field(default_factory=dict)
    pending: asyncio.Future[Any] | None = None
    used_s: float = 0.0
    lost: asyncio.Event = field(default_factory=asyncio.Event)


class Link:
    """Keeps a connection open; see the module.

    Args:
        url: `opc.tcp://host:port/path`.
        credentials: `None` for no security.
        silence_s: a server that does not answer one request for as long as this has failed.
        backoff_s: the first and the longest wait between attempts to connect; it doubles from one to the next.

    Attributes:
        connection: the one that is open, if any.
        opened: how many were opened.
        problem: why there is none.
        refusal: what somebody has to mend before there can be one, as far as the last attempt told.
    """

    def __init__(
        self, url: str, credentials: Credentials | None, silence_s: float, backoff_s: tuple[float, float]
    ) -> None:
        self.url, self._credentials = url, credentials
        self._silence_s, self._backoff_s = silence_s, backoff_s
        self.connection: Connection | None = None
        self.opened = 0
        self.problem = "not connected yet"
        self.refusal: ControlkitError | None = None

    async def run(self) -> None:
        """Connects, and connects again, until it is cancelled."""
        loop, (shortest, longest) = asyncio.get_running_loop(), self._backoff_s
        wait = shortest
        while True:
            began = loop.time()
            connection = await self._attempt()
            if connection is not None:
                self.connection, self.refusal, self.opened = connection, None, self.opened + 1
                keeper = asyncio.create_task(self._keep(connection))
                try:
                    await connection.lost.wait()
                finally:
                    keeper.cancel()
                    self.connection = None
                    _abort(connection.client)
                if loop.time() - began > longest:
                    wait = shortest
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def connected(self, timeout_s: float) -> None:
        """Waits for a connection.

        Raises:
            ControlkitError: there is none by then; at once where somebody has to mend something first.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while self.connection is None:
            if self.refusal is not None:
                raise self.refusal
            if loop.time() >= until:
                raise ControlkitError(self.problem, where=self.url, cure="Check the address, the server, the network.")
            await asyncio.sleep(0.01)

    async def request(self, send: Callable[[Connection], Awaitable[T]], timeout_s: float) -> T:
        """What the server answers to one request.

        Raises:
            Unanswered: there is no connection, no answer by `timeout_s`, or a refusal of the whole request.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + timeout_s
        while True:
            connection = self.connection
            if connection is None:
                raise Unanswered(self.problem)
            if connection.pending is None:
                break
            await asyncio.wait({connection.pending}, timeout=until - loop.time())
            if until <= loop.time():
                raise Unanswered("the server has not answered an earlier request yet")
        if until <= loop.time():
            raise Unanswered("no time was left to ask the server")
        answer = asyncio.ensure_future(send(connection))
        connection.pending, connection.used_s = answer, loop.time()
        answer.add_done_callback(lambda done: self._finished(connection, done))
        await asyncio.wait({answer}, timeout=until - loop.time())
        if not answer.done():
            raise Unanswered(f"the server did not answer within {timeout_s:.2g} s")
        if answer.cancelled():
            raise Unanswered(self.problem)
        error = answer.exception()
        if error is not None:
            raise Unanswered(explained(error))
        return answer.result()

    async def exchange(self, kind: int, parameters: bytes, decode: Callable[[bytes], T], timeout_s: float) -> T:
        """What the server answers to a request whose bytes are ready, see `deploy.runtime.opcua_exchange`.

        Raises:
            Unanswered: as with `request`.
        """
        return await self.request(
            lambda live: exchanged(live.client, kind, parameters, decode, self._silence_s), timeout_s
        )

    async def close(self) -> None:
        """Says goodbye, if the server listens. Call it before `run` is cancelled, which cuts the connection."""
        connection = self.connection
        if connection is None:
            return
        self.connection = None

        async def goodbye() -> None:
            await connection.client.uaclient.close_session(True)
            await connection.client.close_secure_channel()

        task = asyncio.create_task(goodbye())
        await asyncio.wait({task}, timeout=GOODBYE_S)
        _settle(task)
        _abort(connection.client)

    async def _attempt(self) -> Connection | None:
        task = asyncio.create_task(self._open())
        try:
            await asyncio.wait({task}, timeout=OPEN_S)
        except asyncio.CancelledError:
            task.cancel()
            raise
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=1.0)
            _settle(task)
            self.problem, self.refusal = "the server does not answer", None
            return None
        error = task.exception() if not task.cancelled() else asyncio.CancelledError()
        if error is None:
            return task.result()
        self.refusal = self._refusal(error)
        self.problem = explained(error)
        return None

    async def _open(self) -> Connection:
        secrets = self._credentials
        await self._check_server(secrets)
        client = _client(self.url, self._silence_s)
        connection = Connection(client)
        try:
            if secrets is not None:
                _secure(client, secrets)
            await client.connect_socket()
            await client.send_hello()
            await client.open_secure_channel()
            await client.create_session()
            if secrets is None:
                await client.activate_session()
            else:
                certificate = None if secrets.user_pair is None else secrets.user_pair[0]
                await client.activate_session(secrets.user or None, secrets.password or None, certificate)
        except BaseException:
            _abort(client)
            raise
        if client.uaclient.protocol is not None:
            client.uaclient.protocol.on_connection_lost = lambda error: self._lose(
                connection, "the connection was cut" if error is None else explained(error)
            )
        connection.used_s = asyncio.get_running_loop().time()
        return connection

    async def _check_server(self, secrets: Credentials | None) -> None:
        """Looks at what the server shows of itself, to say in plain words what the connection would only fail at.

        Nothing is trusted that is read here. A server that does not show its endpoints is tried all the same.
        """
        client = _client(self.url, DISCOVERY_S)
        task = asyncio.create_task(client.connect_and_get_server_endpoints())
        try:
            await asyncio.wait({task}, timeout=DISCOVERY_S)
        finally:
            if not task.done():
                task.cancel()
            _abort(client)
        if not task.done() or task.cancelled():
            return
        error = task.exception()
        if error is not None:
            if isinstance(error, ConnectionRefusedError | socket.gaierror):
                raise error
            return
        policy, mode = "None", ua.MessageSecurityMode.None_
        if secrets is not None:
            policy, mode = secrets.policy, ua.MessageSecurityMode.SignAndEncrypt
        uri = getattr(security_policies, f"SecurityPolicy{policy}").URI
        offered = [end for end in task.result() if end.SecurityPolicyUri == uri and end.SecurityMode == mode]
        if not offered:
            names = sorted({str(end.SecurityPolicyUri).rpartition("#")[2][:60] for end in task.result()})
            raise ConfigError(
                f"does not offer the security policy {policy} (it offers: {', '.join(names[:8]) or 'nothing'})",
                where=self.url,
                cure="Enable that policy on the server, with SignAndEncrypt, or choose another one in the site file.",
            )
        if secrets is not None:
            secrets.check_server(bytes(offered[0].ServerCertificate or b""), self.url)

    async def _keep(self, connection: Connection) -> None:
        """Keeps session and channel alive where the plant is read seldom, and notices a dead one in between."""
        loop = asyncio.get_running_loop()
        client = connection.client
        renew_s = loop.time() + 0.75 * client.secure_channel_timeout / 1000.0
        pause_s = min(KEEP_ALIVE_S, client.session_timeout / 4000.0)
        state = ua.ReadParameters()
        state.NodesToRead = [
            ua.ReadValueId(ua.NodeId(ua.Int32(ObjectIds.Server_ServerStatus_State)), AttributeIds.Value)
        ]
        while True:
            await asyncio.sleep(pause_s)
            try:
                if loop.time() >= renew_s:
                    await self.request(_renew, self._silence_s)
                    renew_s = loop.time() + 0.75 * client.secure_channel_timeout / 1000.0
                elif loop.time() - connection.used_s >= pause_s:
                    await self.request(lambda live: live.client.uaclient.read(state), self._silence_s)
            except Unanswered:
                continue  # a connection that is lost is given up by `_finished`

    def _finished(self, connection: Connection, task: asyncio.Future[Any]) -> None:
        connection.pending = None
        error = None if task.cancelled() else task.exception()
        if error is None:
            return
        if isinstance(error, UaStatusCodeError) and error.code not in _GONE:
            return  # the server answers, only not as hoped
        # Also for an answer that cannot be read: whatever follows it cannot be trusted either.
        self._lose(connection, explained(error))

    def _lose(self, connection: Connection, why: str) -> None:
        if not connection.lost.is_set():
            self.problem = why
            if self.connection is connection:
                self.connection = None
            connection.lost.set()

    def _refusal(self, error: BaseException) -> ControlkitError | None:
        if isinstance(error, ControlkitError):
            return error
        text = _REFUSALS.get(_name(error)) if isinstance(error, UaStatusCodeError) else None
        if text is None:
            return None
        cure = "Have the runtime's certificate trusted on the server, and check user and password."
        return ConfigError(f"the server {text} ({_name(error)})", where=self.url, cure=cure)


def explained(error: BaseException) -> str:
    """Why a request or an attempt failed, for people to read."""
    if isinstance(error, ControlkitError):
        return f"{error.where}: {error.what}" if error.where else error.what
    if isinstance(error, UaStatusCodeError):
        name = _name(error)
        return f"the server {_REFUSALS[name]} ({name})" if name in _REFUSALS else f"the server refuses ({name})"
    if isinstance(error, ConnectionRefusedError):
        return "no server listens at this address"
    if isinstance(error, socket.gaierror):
        return "the server's name is unknown"
    if isinstance(error, TimeoutError):
        return "the server does not answer"
    if isinstance(error, OSError):
        return f"the connection was cut ({str(error)[:80] or type(error).__name__})"
    return f"the server's answer cannot be read ({type(error).__name__}: {str(error)[:80]})"


def _name(error: BaseException) -> str:
    code = getattr(error, "code", None)
    return str(ua.StatusCode(ua.UInt32(code)).name) if isinstance(code, int) else type(error).__name__


async def _renew(connection: Connection) -> None:
    await connection.client.open_secure_channel(renew=True)
    connection.client.uaclient.revolve_security_token()


def _client(url: str, timeout_s: float) -> Client:
    client = Client(url, timeout=timeout_s)
    client.name = client.description = "controlkit"
    client.session_timeout = SESSION_MS
    client.secure_channel_timeout = CHANNEL_MS
    client.max_messagesize, client.max_chunkcount = MAX_MESSAGE_BYTES, MAX_CHUNKS
    return client


def _secure(client: Client, secrets: Credentials) -> None:
    """The trusted certificate goes into the policy: asyncua encrypts to it, and accepts no other in the session."""
    policy: Any = getattr(security_policies, f"SecurityPolicy{secrets.policy}")
    mode = ua.MessageSecurityMode.SignAndEncrypt
    client.security_policy = policy(secrets.server, secrets.certificate, secrets.key, mode)
    client.uaclient.set_security(client.security_policy)
    client.application_uri = secrets.application_uri
    if secrets.user_pair is not None:
        client.user_certificate, client.user_private_key = secrets.user_pair


def _abort(client: Client) -> None:
    """Closes the socket at once: a server that hangs would never take what is still to be sent."""
    protocol = client.uaclient.protocol
    if protocol is not None and protocol.transport is not None:
        protocol.transport.abort()
    client.disconnect_socket()


def _settle(task: asyncio.Task[Any]) -> None:
    """Cancels a task that is not done, and takes note of how it ended, so that asyncio does not complain."""
    if not task.done():
        task.cancel()
    elif not task.cancelled():
        task.exception()
