"""HTTP for readers on this machine only: one thread a request, a bounded number of them, one answer a connection.

Whoever connects is untrusted. A request has to arrive within a few seconds and a few kilobytes, only GET and HEAD are
answered, only by names that mean this machine (a page of a stranger's that a browser was lured to cannot read the
answers under a name of its own), and no more than a few at a time. Whatever goes wrong with a request ends with it.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from http import HTTPStatus
from typing import Any

HOST = "127.0.0.1"
MAX_HEAD_BYTES = 8192
MAX_LINE_BYTES = 2048
METHODS = ("GET", "HEAD")
TEXT = "text/plain; charset=utf-8"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Connection": "close",
}

_REQUEST = re.compile(r"([A-Z]{1,20}) ([!-~]+) HTTP/1\.[01]")
_NAMES = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?", re.IGNORECASE)


@dataclass(frozen=True)
class Answer:
    """Status, kind and bytes of an answer, and the headers that only it has."""

    status: HTTPStatus
    content_type: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def to_bytes(self, with_body: bool = True) -> bytes:
        """As it goes over the wire."""
        lines = [f"HTTP/1.1 {self.status.value} {self.status.phrase}", f"Date: {formatdate(usegmt=True)}"]
        lines += [f"Content-Type: {self.content_type}", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in (*HEADERS.items(), *self.headers.items())]
        head = "\r\n".join((*lines, "", "")).encode("ascii")
        return head + self.body if with_body else head


def refusal(status: HTTPStatus, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer that names its status and nothing else."""
    return Answer(status, TEXT, f"{status.phrase}\n".encode("ascii"), headers or {})


class LoopbackServer(socketserver.ThreadingTCPServer):
    """Listens on 127.0.0.1; says nothing on the console.

    Args:
        port: 0 takes any free one.
        answer: the answer to the target of a request whose head is in order; called from several threads.
        max_requests: answered at the same time; whoever comes then is told to come again.
        timeout_s: for a request to arrive as a whole, and for its answer to be taken.

    Raises:
        OSError: the port is busy or forbidden.
    """

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int, answer: Callable[[str], Answer], max_requests: int, timeout_s: float) -> None:
        self.answer, self.timeout_s = answer, timeout_s
        self._places = threading.BoundedSemaphore(max_requests)
        super().__init__((HOST, port), _Handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:
            # Out of file handles, the waiting connection would be tried again at once, for ever, at full load.
            time.sleep(0.1)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._places.acquire(blocking=False):
            request.settimeout(0.1)
            with contextlib.suppress(OSError):
                request.sendall(refusal(HTTPStatus.SERVICE_UNAVAILABLE, {"Retry-After": "1"}).to_bytes())
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        # The reader went away: nobody to tell. Anything else is told in one line, without its inner life.
        if not isinstance(sys.exception(), OSError):
            with contextlib.suppress(OSError):
                request.sendall(refusal(HTTPStatus.INTERNAL_SERVER_ERROR).to_bytes())


class _Handler(socketserver.BaseRequestHandler):
    """One request, one answer, and the connection is closed."""

    server: LoopbackServer
    request: socket.socket

    def handle(self) -> None:
        method, answer = self._method_and_answer()
        self.request.settimeout(self.server.timeout_s)
        self.request.sendall(answer.to_bytes(with_body=method != "HEAD"))
        if answer.status != HTTPStatus.OK:
            self._drain()

    def _method_and_answer(self) -> tuple[str, Answer]:
        head = self._head()
        if isinstance(head, HTTPStatus):
            return "", refusal(head)
        line, *headers = head.split("\r\n")
        if len(line) > MAX_LINE_BYTES:
            return "", refusal(HTTPStatus.REQUEST_URI_TOO_LONG)
        request = _REQUEST.fullmatch(line)
        if request is None or not request[2].startswith("/"):
            return "", refusal(HTTPStatus.BAD_REQUEST)
        method = request[1]
        hosts = [header.partition(":")[2].strip() for header in headers if header.lower().startswith("host:")]
        if len(hosts) != 1:
            return method, refusal(HTTPStatus.BAD_REQUEST)
        if not _NAMES.fullmatch(hosts[0]):
            return method, refusal(HTTPStatus.MISDIRECTED_REQUEST)
        if method not in METHODS:
            return method, refusal(HTTPStatus.METHOD_NOT_ALLOWED, {"Allow": ", ".join(METHODS)})
        return method, self.server.answer(request[2])

    def _head(self) -> str | HTTPStatus:
        """Request line and headers, or why there are none. The time is for all of it, not for each byte."""
        until = time.monotonic() + self.server.timeout_s
        head = b""
        while b"\r\n\r\n" not in head:
            if len(head) >= MAX_HEAD_BYTES:
                return (
                    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
                    if b"\r\n" in head[:MAX_LINE_BYTES]
                    else HTTPStatus.REQUEST_URI_TOO_LONG
                )
            left = until - time.monotonic()
            if left <= 0:
                return HTTPStatus.REQUEST_TIMEOUT
            self.request.settimeout(left)
            try:
                more = self.request.recv(MAX_HEAD_BYTES - len(head))
            except TimeoutError:
                return HTTPStatus.REQUEST_TIMEOUT
            if not more:
                # A reader that only knocked: browsers open connections that they never use.
                raise ConnectionResetError
            head += more
        return head.partition(b"\r\n\r\n")[0].decode("latin-1")

    def _drain(self) -> None:
        """Takes a little of what was not read: closing at once would take the answer away from the reader."""
        with contextlib.suppress(OSError):
            self.request.shutdown(socket.SHUT_WR)
            self.request.settimeout(0.2)
            for _ in range(16):
                if not self.request.recv(65536):
                    return
