"""StatusServer: the status page, its data, and the metrics; read-only, and for this machine alone.

The control loop lives in another thread and shares nothing with what is here but the board and its lock.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http import HTTPStatus
from importlib import resources
from types import TracebackType

from controlkit.errors import ControlkitError
from deploy.runtime.loopback import HOST, TEXT, Answer, LoopbackServer, refusal
from deploy.runtime.metrics import CONTENT_TYPE, metrics_text
from deploy.runtime.status import StatusBoard, status_record

PAGE = {
    "/": ("status.html", "text/html; charset=utf-8"),
    "/status.css": ("status.css", "text/css; charset=utf-8"),
    "/status.js": ("status.js", "text/javascript; charset=utf-8"),
    "/plots.js": ("plots.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}

_SINCE = re.compile(r"since=([0-9]{1,15})")


class StatusServer:
    """Serves a board on 127.0.0.1: `/`, `/status.json`, `/trend.json`, `/metrics` and `/healthz`.

    Args:
        board: what it shows.
        port: 0 takes any free one.
        host: 127.0.0.1; nothing else is served.
        max_requests: answered at the same time; whoever comes then is told to come again.
        timeout_s: for a request to arrive as a whole, and for its answer to be taken.

    Raises:
        ControlkitError: another host, or a port that is busy, forbidden or none.
    """

    def __init__(
        self,
        board: StatusBoard,
        port: int = 0,
        host: str = HOST,
        *,
        max_requests: int = 16,
        timeout_s: float = 5.0,
    ) -> None:
        where = "status page"
        if host not in (HOST, "localhost"):
            cure = f"Serve it on {HOST}, and let others in through an SSH tunnel or a proxy that knows who they are."
            raise ControlkitError(f"is not served on '{host}', only on this machine", where=where, cure=cure)
        if not 0 <= port <= 65535:
            raise ControlkitError(f"{port} is no port", where=where, cure="Give 1 to 65535, or 0 for any free one.")
        try:
            self._server = LoopbackServer(port, _Routes(board).answer, max_requests, timeout_s)
        except OSError as problem:
            cure = "Give another port, or 0 for any free one; perhaps another runtime runs on this machine already."
            raise ControlkitError(f"port {port} cannot be used ({problem.strerror})", where=where, cure=cure) from None
        self._thread: threading.Thread | None = None

    @property
    def address(self) -> str:
        """Where the page is, such as http://127.0.0.1:8420/."""
        return f"http://{HOST}:{self._server.server_address[1]}/"

    def start(self) -> None:
        """Serves in a thread of its own, until `close`."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._server.serve_forever, name="status page", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Stops serving and frees the port. What is being answered is answered."""
        if self._thread is not None:
            self._server.shutdown()
            self._thread.join()
            self._thread = None
        self._server.server_close()

    def __enter__(self) -> StatusServer:
        self.start()
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()


class _Routes:
    """What each path shows. The files of the page are read once, at the start."""

    def __init__(self, board: StatusBoard) -> None:
        self._board = board
        folder = resources.files("deploy.runtime").joinpath("page")
        self._files = {
            path: (folder.joinpath(name).read_bytes(), content_type) for path, (name, content_type) in PAGE.items()
        }
        self._made: dict[str, Callable[[int], Answer]] = {
            "/status.json": self._status,
            "/trend.json": self._trend,
            "/metrics": self._metrics,
            "/healthz": self._healthz,
        }

    def answer(self, target: str) -> Answer:
        """What a path shows, or that there is no such path."""
        path, _, query = target.partition("?")
        if path in self._files:
            body, content_type = self._files[path]
            return Answer(HTTPStatus.OK, content_type, body)
        if path not in self._made:
            return refusal(HTTPStatus.NOT_FOUND)
        since = _SINCE.fullmatch(query)
        return self._made[path](int(since[1]) if since else 0)

    def _status(self, since: int) -> Answer:
        text = json.dumps(status_record(self._board.read()), allow_nan=False)
        return Answer(HTTPStatus.OK, "application/json", text.encode("ascii"))

    def _trend(self, since: int) -> Answer:
        return Answer(HTTPStatus.OK, "application/json", self._board.trend_json(since).encode("ascii"))

    def _metrics(self, since: int) -> Answer:
        body = metrics_text(self._board.read()).encode("utf-8", errors="replace")
        return Answer(HTTPStatus.OK, CONTENT_TYPE, body)

    def _healthz(self, since: int) -> Answer:
        reading = self._board.read()
        if not reading.stale:
            return Answer(HTTPStatus.OK, TEXT, b"ok\n")
        why = "no cycle yet" if reading.snapshot is None else f"the newest cycle is {reading.age_s:.0f} s old"
        return Answer(HTTPStatus.SERVICE_UNAVAILABLE, TEXT, f"{why}\n".encode("ascii"))
