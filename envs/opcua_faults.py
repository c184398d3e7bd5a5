"""Faults of a simulated plant and of the network before it, for tests and trials."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Literal

import numpy as np
from asyncua import ua
from asyncua.ua.status_codes import StatusCodes

from controlkit.background_loop import BackgroundLoop
from controlkit.errors import ControlkitError, nearest


@dataclasses.dataclass(frozen=True)
class _Change:
    """What a reader sees of a node instead of what is there; `None`: as it is."""

    frozen: bool = False
    held: ua.Variant | None = None
    value: ua.Variant | None = None
    status: int | None = None
    stamp: Literal["none", "held"] | None = None
    held_stamp: ua.DateTime | None = None
    shift_s: float = 0.0


class Faults:
    """What is wrong with a simulated plant's server; may be changed from any thread and acts at once.

    Args:
        names: of the nodes: tags, and `#auto`, `#heartbeat_plant`, `#heartbeat_controller`, `#lease`, `#advice.ACTION`.
        rng: draws which writes are dropped.

    Attributes:
        hanging: whether the server takes requests and answers none.
    """

    def __init__(self, names: Collection[str], rng: np.random.Generator) -> None:
        self._names, self._rng = tuple(names), rng
        self.clear()

    def clear(self) -> None:
        """Everything works again."""
        self._changes: dict[str, _Change] = {}
        self._removed: frozenset[str] = frozenset()
        self._refused: frozenset[str] = frozenset()
        self._dropped_share, self._clock_s, self.hanging = 0.0, 0.0, False

    def freeze(self, name: str) -> None:
        """A dead sensor: the value stays what the next reader sees; quality and time go on."""
        self._change(name, frozen=True)

    def show(self, name: str, value: float | str | Sequence[float]) -> None:
        """Shows this value, of whatever type."""
        many = not isinstance(value, str | int | float)
        kind = ua.VariantType.String if isinstance(value, str) else ua.VariantType.Double
        content = list(value) if many and not isinstance(value, str | int | float) else value
        self._change(name, value=ua.Variant(content, kind, is_array=many))

    def status(self, name: str, code: int) -> None:
        """Shows this StatusCode."""
        self._change(name, status=code)

    def no_source_time(self, name: str) -> None:
        """Shows no source time."""
        self._change(name, stamp="none")

    def stop_stamping(self, name: str) -> None:
        """The source time stays what the next reader sees."""
        self._change(name, stamp="held")

    def shift_source_time(self, name: str, seconds: float) -> None:
        """Shows a source time that is earlier (or later) by so much."""
        self._change(name, shift_s=seconds)

    def shift_clock(self, seconds: float) -> None:
        """The server's clock is wrong: all time stamps are."""
        self._clock_s = seconds

    def remove(self, name: str) -> None:
        """The server does not know the node any more."""
        self._removed |= {self._known(name)}

    def refuse(self, name: str) -> None:
        """No client may write the node."""
        self._refused |= {self._known(name)}

    def drop_writes(self, share: float) -> None:
        """That share of the values written is answered with Good and forgotten."""
        self._dropped_share = share

    def hang(self) -> None:
        """Requests are taken and not answered, until `clear` is called."""
        self.hanging = True

    @property
    def any_reading(self) -> bool:
        """Whether a reader sees anything that is not so."""
        return bool(self._changes or self._removed or self._clock_s)

    def seen(self, name: str, value: ua.DataValue, is_value: bool) -> ua.DataValue:
        """What a reader sees of a node that holds `value`."""
        if name in self._removed:
            return ua.DataValue(StatusCode=ua.StatusCode(ua.UInt32(StatusCodes.BadNodeIdUnknown)))
        if not is_value:
            return value
        change = self._changes.get(name, _Change())
        if (change.frozen and change.held is None) or (change.stamp == "held" and change.held_stamp is None):
            change = dataclasses.replace(change, held=value.Value, held_stamp=value.SourceTimestamp)
            self._changes = {**self._changes, name: change}
        if change.value is not None:
            value = dataclasses.replace(value, Value=change.value)
        elif change.frozen:
            value = dataclasses.replace(value, Value=change.held)
        if change.status is not None:
            value = dataclasses.replace(value, StatusCode=ua.StatusCode(ua.UInt32(change.status)))
        stamp = change.held_stamp if change.stamp == "held" else value.SourceTimestamp
        shift = timedelta(seconds=change.shift_s + self._clock_s)
        stamp = None if stamp is None or change.stamp == "none" else stamp + shift
        at_server = value.ServerTimestamp
        if at_server is not None:
            at_server += timedelta(seconds=self._clock_s)
        return dataclasses.replace(value, SourceTimestamp=stamp, ServerTimestamp=at_server)

    def refusal(self, name: str) -> int | None:
        """Why a node cannot be written, as a StatusCode."""
        if name in self._removed:
            return StatusCodes.BadNodeIdUnknown
        return StatusCodes.BadUserAccessDenied if name in self._refused else None

    def drops_a_write(self) -> bool:
        """Whether this value is one of those that are dropped."""
        return self._dropped_share > 0 and bool(self._rng.random() < self._dropped_share)

    def _change(self, name: str, **fields: object) -> None:
        change = self._changes.get(self._known(name), _Change())
        # A new mapping: the server's thread may be reading the old one.
        self._changes = {**self._changes, name: dataclasses.replace(change, **fields)}  # type: ignore[arg-type]

    def _known(self, name: str) -> str:
        if name not in self._names:
            raise ControlkitError(f"the plant has no node '{name}'", cure=nearest(name, self._names))
        return name


class TcpProxy:
    """A network before a server on loopback: connect to `port` instead of the server's; it can be cut and hang.

    Args:
        target_port: of the server on 127.0.0.1.

    Attributes:
        port: to connect to.
    """

    def __init__(self, target_port: int) -> None:
        self._target, self._state = target_port, "pass"
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = BackgroundLoop("tcp-proxy")
        self.port = self._loop.call(self._listen(), 10.0)

    def cut(self) -> None:
        """Ends every connection, and every new one at once."""
        self._loop.call(self._set("cut"), 5.0)

    def hang(self) -> None:
        """Nothing goes through any more; connections stay, and new ones are accepted."""
        self._loop.call(self._set("hang"), 5.0)

    def heal(self) -> None:
        """Everything goes through, also what was held back while it hung."""
        self._loop.call(self._set("pass"), 5.0)

    def close(self) -> None:
        """Ends every connection and stops listening."""
        self.cut()
        self._loop.close()

    async def _listen(self) -> int:
        self._flow = asyncio.Event()
        self._flow.set()
        self._pumps: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _set(self, state: Literal["pass", "hang", "cut"]) -> None:
        self._state = state
        if state == "hang":
            self._flow.clear()
        else:
            self._flow.set()
        if state == "cut":
            for writer in tuple(self._writers):
                writer.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._state == "cut":
            writer.transport.abort()
            return
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.transport.abort()
            return
        pair = {writer, upstream}
        self._writers |= pair
        pumps = [asyncio.create_task(self._pump(*ends)) for ends in ((reader, upstream), (upstream_reader, writer))]
        self._pumps.update(pumps)
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in pair:
            end.transport.abort()
        self._writers -= pair
        self._pumps.difference_update(pumps)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flow.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # the other end has gone; the caller ends this one too
