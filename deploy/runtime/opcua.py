"""A live plant behind an OPC UA server: one Read and one Write a cycle, with qualities and times, never an exception.

Calls come from the runtime's threads and return by their own time limit, whatever server and network do; the connection
lives in a thread of its own (`deploy.runtime.opcua_link`) and mends itself. An answer that comes too late is thrown
away: what a call returns was asked for by that call. A command that was sent but not confirmed in time may still reach
the plant; its heartbeat, which comes with it, is what the plant's watchdog goes by.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar
from urllib.parse import urlsplit

from controlkit.background_loop import BackgroundLoop
from controlkit.errors import ConfigError, ControlkitError, nearest
from controlkit.opcua_nodes import HANDSHAKE, advice_node, handshake_node, tag_node
from controlkit.spec import PlantSpec
from deploy.runtime.opcua_security import Insecure, Security
from deploy.runtime.plant import PlantReading, Sample, WriteRequest, WriteResult, plant_address

if TYPE_CHECKING:
    from asyncua import ua

    from deploy.runtime.opcua_codec import Value

T = TypeVar("T")

DEFAULT_PORT = 4840
# Beyond its own limit a call waits this long for the thread of the connection to say so.
GRACE_S = 0.25
# How often at most the type of a node that the server does not know is asked for again.
LEARN_AGAIN_S = 1.0
# Names of nodes are those of tags, and these signs, which no tag's name holds, before the handshake's.
_SHAKE, _ADVICE, _BEAT, _LEASE = "#", "#advice.", "#heartbeat_controller", "#lease"


class OpcUaPlant:
    """See `deploy.runtime.plant.Plant` and the module. Begins to connect at once, in the background.

    Args:
        spec: the plant.
        address: `opc.tcp://host:port/path`.
        nodes: node id of a tag, where it is not the plant file's.
        handshake: node id of `auto`, `heartbeat_plant`, `heartbeat_controller` or `lease`, or of the advice for an
            action (`advice.ACTION`); `None`: the plant has none (`advice`: none for any action).
        security: `Security`, or `Security.insecure_for_tests()`.
        time: which time stamp tells the age of a value.
        silence_s: a server that does not answer one request for as long as this has failed, and is connected anew.
        backoff_s: the first and the longest wait between attempts to connect.

    Raises:
        ControlkitError: an address or a node id that cannot be one, a file of the certificates that cannot be used,
            asyncua is missing.

    Attributes:
        handshake: see `Plant`.
        warning: what a person must know of the connection; empty if it is secure.
    """

    def __init__(
        self,
        spec: PlantSpec,
        address: str,
        *,
        nodes: Mapping[str, str] | None = None,
        handshake: Mapping[str, str | None] | None = None,
        security: Security | Insecure,
        time: Literal["source", "server"] = "source",
        silence_s: float = 5.0,
        backoff_s: tuple[float, float] = (0.2, 10.0),
    ) -> None:
        url = _url(address)
        credentials = security.load() if isinstance(security, Security) else None
        try:
            from deploy.runtime.opcua_codec import read_parameters
            from deploy.runtime.opcua_link import Link
        except ImportError:
            cure = "Install controlkit[opcua]."
            raise ControlkitError("asyncua is not installed", where=url, cure=cure) from None
        self.warning, self._spec, self._time = security.warning, spec, time
        self._ids = _node_ids(spec, nodes or {}, handshake or {})
        self.handshake = frozenset(
            "advice" if name.startswith(_ADVICE) else name[1:] for name in self._ids if name.startswith(_SHAKE)
        )
        shown = [f"{_SHAKE}{name}" for name in ("auto", "heartbeat_plant", "lease") if name in self.handshake]
        self._modes = spec.names("mode")
        self._read_names = (*spec.frame_tags, *spec.action_tags, *self._modes, *shown)
        advised = (f"{_ADVICE}{name}" for name in spec.action_tags)
        self._writable = [name for name in (*spec.action_tags, *advised, _BEAT, _LEASE) if name in self._ids]
        self._read_all = read_parameters((self._ids[name] for name in self._read_names), time == "source")
        self._read_commands = read_parameters((self._ids[name] for name in spec.action_tags), time == "source")
        self._items: dict[tuple[str, ua.VariantType], bytes] = {}
        self._learned_s = -math.inf
        self._closed = False
        self._link = Link(url, credentials, silence_s, backoff_s)
        self._loop = BackgroundLoop("opcua-plant")
        self._loop.loop.call_soon_threadsafe(self._start)

    def connect(self, timeout_s: float) -> None:
        """Waits for the connection.

        Raises:
            ControlkitError: there is none by then; at once where somebody has to mend something first, such as another
                certificate of the server than the trusted one.
        """
        try:
            self._loop.call(self._link.connected(timeout_s), timeout_s + GRACE_S)
        except (TimeoutError, RuntimeError):
            raise ControlkitError(self._link.problem, where=self._link.url, cure="Check the server.") from None

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link.connection is not None

    @property
    def reconnects(self) -> int:
        """How often the connection was made again."""
        return max(self._link.opened - 1, 0)

    def read(self, timeout_s: float) -> PlantReading:
        """See `Plant`. A tag whose node the server does not know is bad; the others are as they are."""
        values, problem = self._ask(self._values(self._read_all, len(self._read_names), timeout_s), timeout_s)
        if values is None:
            return PlantReading(problem=problem)
        return self._interpreted(dict(zip(self._read_names, values, strict=True)))

    def write(self, request: WriteRequest, timeout_s: float) -> WriteResult:
        """See `Plant`. A value goes out in the node's own type, which is asked for once per connection."""
        content = self._content(request)
        if not content:
            return WriteResult()
        refused, problem = self._ask(self._written(content, timeout_s), timeout_s)
        if refused is None:
            return WriteResult({_told(name): f"not confirmed: {problem}" for name in content}, problem)
        return WriteResult({_told(name): why for name, why in refused.items()})

    def read_back(self, timeout_s: float) -> Mapping[str, float]:
        """See `Plant`."""
        count = len(self._spec.action_tags)
        values, _ = self._ask(self._values(self._read_commands, count, timeout_s), timeout_s)
        if values is None:
            return {}
        from deploy.runtime.opcua_values import sample_of

        samples = {
            name: sample_of(value, self._time) for name, value in zip(self._spec.action_tags, values, strict=True)
        }
        return {name: sample.value for name, sample in samples.items() if sample.quality != "bad"}

    def close(self) -> None:
        """See `Plant`."""
        if self._closed:
            return
        self._closed = True
        try:
            self._loop.call(self._link.close(), 2.0)
        except (TimeoutError, RuntimeError):
            pass
        self._loop.close()

    def _start(self) -> None:
        # Kept: a task that nobody refers to may be collected while it runs.
        self._running = self._loop.loop.create_task(self._link.run())

    def _ask(self, work: Coroutine[Any, Any, T], timeout_s: float) -> tuple[T | None, str]:
        from deploy.runtime.opcua_link import Unanswered

        try:
            return self._loop.call(work, max(timeout_s, 0.0) + GRACE_S), ""
        except Unanswered as problem:
            return None, str(problem)
        except TimeoutError:
            return None, f"no answer within {timeout_s:.2g} s: this machine is too busy"
        except RuntimeError:
            return None, "the connection was closed"

    async def _values(self, parameters: bytes, count: int, timeout_s: float) -> list[Value]:
        from deploy.runtime.opcua_codec import READ
        from deploy.runtime.opcua_exchange import decoded_read

        values = await self._link.exchange(READ, parameters, lambda body: decoded_read(body, count), timeout_s)
        return _whole(values, count)

    def _interpreted(self, values: Mapping[str, Value]) -> PlantReading:
        from deploy.runtime.opcua_values import counter_of, is_unknown, sample_of, switch_of, text_of

        spec, samples = self._spec, dict[str, Sample]()
        for name, value in values.items():
            if name in spec.tags:
                samples[name] = sample_of(value, self._time)
        auto, beat, lease = (values.get(f"{_SHAKE}{name}") for name in ("auto", "heartbeat_plant", "lease"))
        return PlantReading(
            samples={name: samples[name] for name in spec.frame_tags},
            commands={name: samples[name] for name in spec.action_tags},
            modes={name: samples[name] for name in self._modes},
            auto=None if auto is None else switch_of(auto),
            heartbeat=None if beat is None else counter_of(beat),
            lease=None if lease is None else text_of(lease),
            # Every node unknown: another server, or its namespaces have moved.
            problem="the server knows none of the plant's nodes" if all(map(is_unknown, values.values())) else "",
        )

    def _content(self, request: WriteRequest) -> dict[str, float | int | str]:
        content: dict[str, float | int | str] = dict(request.commands)
        content |= {f"{_ADVICE}{name}": value for name, value in request.advice.items()}
        if request.heartbeat is not None:
            content[_BEAT] = request.heartbeat
        if request.lease is not None:
            content[_LEASE] = request.lease
        # What the plant has no node for is not written; every action has one.
        return {name: value for name, value in content.items() if name in self._ids}

    async def _written(self, content: Mapping[str, float | int | str], timeout_s: float) -> dict[str, str]:
        """What was refused, by the name of the node."""
        from deploy.runtime.opcua_codec import WRITE, write_item, write_parameters
        from deploy.runtime.opcua_exchange import decoded_write
        from deploy.runtime.opcua_values import refusal_of, written

        until = self._loop.loop.time() + timeout_s
        types = await self._types(content, timeout_s)
        refused: dict[str, str] = {}
        sent: dict[str, bytes] = {}
        for name, value in content.items():
            kind = types.get(name)
            if kind is None:
                refused[name] = "the server does not know the node, or it is of a type that cannot be written"
                continue
            made = written(value, kind, wrap=name == _BEAT)
            if isinstance(made, str):
                refused[name] = made
                continue
            if (name, kind) not in self._items:
                self._items[name, kind] = write_item(self._ids[name], kind)
            sent[name] = self._items[name, kind] + made
        if not sent:
            return refused
        parameters, left = write_parameters(list(sent.values())), until - self._loop.loop.time()
        codes = await self._link.exchange(WRITE, parameters, lambda body: decoded_write(body, len(sent)), left)
        for name, code in zip(sent, _whole(codes, len(sent)), strict=True):
            why, changed = refusal_of(code)
            if why:
                refused[name] = why
            if changed:
                types.pop(name, None)
        return refused

    async def _types(self, names: Collection[str], timeout_s: float) -> dict[str, ua.VariantType]:
        """Types of the nodes, as far as the server knows them; remembered with the connection."""
        from deploy.runtime.opcua_values import type_of, typing

        connection, now = self._link.connection, self._loop.loop.time()
        known = {} if connection is None else connection.types
        missing = [name for name in names if name not in known]
        if not missing or (known and now - self._learned_s < LEARN_AGAIN_S):
            return known
        self._learned_s = now
        # On a new connection all of them at once, so that no later cycle needs a second request.
        asked = missing if known else self._writable
        question = typing(self._ids[name] for name in asked)
        answers = await self._link.request(lambda live: live.client.uaclient.read(question), timeout_s)
        answers = _whole(answers, 2 * len(asked))
        for name, value, data_type in zip(asked, answers[::2], answers[1::2], strict=True):
            kind = type_of(value, data_type)
            if kind is not None:
                known[name] = kind
        return known


def _url(address: str) -> str:
    """The address with a port.

    Raises:
        ControlkitError: it is none of OPC UA.
    """
    where = "the plant's address"
    known = plant_address(address)
    if known.kind != "opc.tcp":
        raise ControlkitError(f"'{address}' is no OPC UA server", where=where, cure="Write opc.tcp://HOST:PORT/PATH.")
    try:
        parts = urlsplit(known.target)
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host = None, None
    if not host:
        raise ControlkitError(
            f"'{address}' names no host and port", where=where, cure="Write opc.tcp://HOST:PORT/PATH."
        )
    return known.target if port else parts._replace(netloc=f"{parts.netloc.rstrip(':')}:{DEFAULT_PORT}").geturl()


def _node_ids(spec: PlantSpec, nodes: Mapping[str, str], handshake: Mapping[str, str | None]) -> dict[str, ua.NodeId]:
    """Every node that is read or written, by its name."""
    tags: dict[str, str | None] = {
        name: tag_node(spec, name) for name in (*spec.frame_tags, *spec.action_tags, *spec.names("mode"))
    }
    parts: dict[str, str | None] = {name: handshake_node(spec, name) for name in HANDSHAKE}
    advised = {f"advice.{name}": advice_node(spec, name) for name in spec.action_tags}
    parts |= dict.fromkeys(advised) if handshake.get("advice", "") is None else advised
    for given, known, what in ((nodes, spec.tags, "tag"), (handshake, [*parts, "advice"], "part of the handshake")):
        for name in given:
            if name not in known:
                raise ConfigError(f"'{name}' is no {what}", where="nodes of the plant", cure=nearest(name, known))
    tags |= {name: text for name, text in nodes.items() if name in tags}
    parts |= {name: text for name, text in handshake.items() if name != "advice"}
    texts = tags | {f"{_SHAKE}{name}": text for name, text in parts.items()}
    return {name: _node_id(name, text) for name, text in texts.items() if text is not None}


def _node_id(name: str, text: str) -> ua.NodeId:
    from deploy.runtime.opcua_values import node_id

    found = node_id(text)
    if found is None:
        cure = "Write ns=NUMBER;s=TEXT or ns=NUMBER;i=NUMBER."
        raise ConfigError(f"'{text}' is no node id", where=f"node of '{name}'", cure=cure)
    return found


def _told(name: str) -> str:
    """A node's name as `WriteResult.refused` has it."""
    if name.startswith(_ADVICE):
        return "advice"
    return {_BEAT: "heartbeat", _LEASE: "lease"}.get(name, name)


def _whole(answers: list[T] | None, count: int) -> list[T]:
    from deploy.runtime.opcua_link import Unanswered

    if answers is None or len(answers) != count:
        raise Unanswered(f"the server answered for {len(answers or [])} of {count} nodes")
    return answers
