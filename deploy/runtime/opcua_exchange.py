"""Sending a request whose bytes are ready through asyncua's channel, and reading its answer.

asyncua's own way takes a request as an object only. What is used of its client here is what that way uses, too: the
channel makes the message (sequence number, signature, encryption, chunks), and the answer comes back by the number of
the request, checked and decrypted.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, TypeVar

from asyncua import ua
from asyncua.client.client import Client
from asyncua.client.ua_client import UASocketProtocol
from asyncua.common.utils import Buffer
from asyncua.ua.object_ids import ObjectIds
from asyncua.ua.ua_binary import nodeid_from_binary, nodeid_to_binary, struct_from_binary
from asyncua.ua.uaerrors import UaError

from deploy.runtime.opcua_codec import Value, read_answer, request, value_of, write_answer

T = TypeVar("T")

_FAULT = ua.FourByteNodeId(ua.Int32(ObjectIds.ServiceFault_Encoding_DefaultBinary))


def exchanged(
    client: Client, kind: int, parameters: bytes, decode: Callable[[bytes], T], timeout_s: float
) -> asyncio.Future[T]:
    """Sends a request; what comes of it, which ends by itself: with a result, an error, or the server's silence.

    Args:
        client: with an open session.
        kind, parameters: see `deploy.runtime.opcua_codec.request`.
        decode: makes the result of the answer's body.
        timeout_s: after which the server counts as silent: `TimeoutError`.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[T] = loop.create_future()
    protocol = client.uaclient.protocol
    try:
        received = _sent(protocol, kind, parameters, timeout_s)
    except Exception as problem:  # noqa: BLE001 (whatever it is, it is told like any other failure of the connection)
        answer.set_exception(problem)
        return answer
    timer = loop.call_later(timeout_s, _give_up, answer)

    def take(done: asyncio.Future[Any]) -> None:
        timer.cancel()
        error = ConnectionError("the connection was closed") if done.cancelled() else done.exception()
        if answer.done():
            return
        try:
            if error is not None:
                raise error
            answer.set_result(decode(bytes(done.result())))
        except Exception as problem:  # noqa: BLE001 (a server may send anything)
            answer.set_exception(problem)

    received.add_done_callback(take)
    return answer


def decoded_read(body: bytes, count: int) -> list[Value]:
    """The values in an answer to a Read of `count` nodes; as many as the server sent.

    Raises:
        Exception: any of asyncua's: the server refuses, or the answer cannot be read.
    """
    values = read_answer(body, count)
    if values is None:
        answer = _decoded(ua.ReadResponse, body)
        values = [value_of(value) for value in answer.Results or []]
    return values


def decoded_write(body: bytes, count: int) -> list[int]:
    """The StatusCodes in an answer to a Write of `count` nodes; as many as the server sent.

    Raises:
        Exception: any of asyncua's: the server refuses, or the answer cannot be read.
    """
    codes = write_answer(body, count)
    if codes is None:
        answer = _decoded(ua.WriteResponse, body)
        codes = [code.value for code in answer.Results or []]
    return codes


def _decoded(kind: type[Any], body: bytes) -> Any:
    data = Buffer(body)
    if nodeid_from_binary(data.copy()) == _FAULT:
        kind = ua.ServiceFault
    answer = struct_from_binary(kind, data)
    answer.ResponseHeader.ServiceResult.check()
    if kind is ua.ServiceFault:
        raise UaError("the server answers with a fault that is none")
    return answer


def _sent(protocol: UASocketProtocol | None, kind: int, parameters: bytes, timeout_s: float) -> asyncio.Future[Any]:
    if protocol is None or protocol.transport is None:
        raise ConnectionError("the connection was closed")
    number, handle = protocol._request_id + 1, protocol._request_handle + 1
    body = request(
        kind,
        nodeid_to_binary(protocol.authentication_token),
        parameters,
        wall_ns=time.time_ns(),
        handle=handle & 0xFFFFFFFF,
        timeout_ms=round(timeout_s * 1000),
    )
    protocol.revolve_security_token()
    message = protocol._connection.message_to_binary(body, request_id=number)
    protocol._request_id, protocol._request_handle = number, handle
    received: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    protocol._callbackmap[number] = received
    protocol.transport.write(message)
    return received


def _give_up(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(TimeoutError())
