"""The control socket: how an operator on this machine raises or lowers the mode, loads and swaps bundles.

A Unix socket inside the state folder, for this user only. One line of JSON in, one line out. Down to SHADOW or OFF
anybody who may open the socket goes; everything else needs a token. The status page has no part in it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from controlkit.errors import ControlkitError
from deploy.bundle.store import Bundle
from deploy.runtime.operators import MAX_TOKEN, Operators, require_change_record
from deploy.runtime.requests import LOWER, Request, Requests
from deploy.runtime.slots import Slot
from deploy.runtime.snapshot import Mode

MAX_LINE = 8192
PATIENCE_S = 5.0
NAME = "control.sock"


class Wish(BaseModel):
    """One line of JSON, checked before anything of it is used."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    action: Literal["mode", "load", "swap", "recalibrate"]
    mode: Mode | None = None
    token: Annotated[str, Field(max_length=MAX_TOKEN)] = ""
    change_record: Annotated[str, Field(max_length=80)] = ""
    bundle: Annotated[str, Field(max_length=4096)] = ""


class Control:
    """Turns wishes into requests that the loop answers.

    Args:
        requests: of the loop.
        operators: who may raise the mode.
        load: reads and verifies a bundle.
        patience_s: how long the loop may take to answer.
    """

    def __init__(
        self, requests: Requests, operators: Operators, load: Callable[[Path], Bundle], patience_s: float = PATIENCE_S
    ) -> None:
        self._requests, self._operators, self._load, self._patience = requests, operators, load, patience_s

    def do(self, wish: Wish) -> str:
        """Does what is wished for; what the loop says of it.

        Raises:
            ControlkitError: it may not be, or cannot be.
        """
        if wish.action == "mode" and wish.mode is None:
            raise ControlkitError("the mode is missing", where="control")
        if wish.action == "load" and not wish.bundle:
            raise ControlkitError("the bundle is missing", where="control")
        request = self._request(wish)
        self._requests.put(request)
        if request.problem is None:
            return request.wait(self._patience)
        with contextlib.suppress(ControlkitError):
            request.wait(self._patience)  # recorded by the loop, if it lives
        raise request.problem

    def _request(self, wish: Wish) -> Request:
        """The wish as the loop takes it, with why it is refused: refusals stand in the audit log, too."""
        operator = record = ""
        try:
            operator = self._operator(wish)
            if wish.action == "mode" and wish.mode == "ARMED":
                record = require_change_record(wish.change_record)
            # Opened here, not in the loop, which has no time for it.
            slot = Slot("", self._load(Path(wish.bundle))) if wish.action == "load" else None
        except ControlkitError as problem:
            return Request(wish.action, mode=wish.mode, operator=operator, change_record=record, problem=problem)
        return Request(wish.action, mode=wish.mode, operator=operator, change_record=record, slot=slot)

    def _operator(self, wish: Wish) -> str:
        if wish.action != "mode" or wish.mode not in LOWER:
            return self._operators.identify(wish.token)
        # Going down never fails for want of a token, nor for a wrong one.
        with contextlib.suppress(ControlkitError):
            return self._operators.identify(wish.token) if wish.token else ""
        return ""


class ControlSocket:
    """Serves a `Control` on a socket in a folder.

    Args:
        folder: the state folder.
        control: what does it.

    Raises:
        ControlkitError: the socket cannot be made, or another runtime answers on it.
    """

    def __init__(self, folder: Path, control: Control) -> None:
        self.path, self._control = folder / NAME, control
        if self.path.exists():
            if _answers(self.path):
                raise ControlkitError("another runtime uses this folder", where=str(folder), cure="Stop it first.")
            self.path.unlink()  # left behind by one that was killed
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            self._server.bind(str(self.path))
        except OSError as problem:
            self._server.close()
            raise ControlkitError(
                f"the control socket cannot be made ({problem})",
                where=str(self.path),
                cure="Give a shorter path of a local folder: --state DIR.",
            ) from None
        finally:
            os.umask(before)
        self._server.listen(4)
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops listening."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return  # closed
            with client, contextlib.suppress(OSError):
                reply = self._answer(_line(client, PATIENCE_S))
                client.settimeout(PATIENCE_S)
                client.sendall(json.dumps(reply).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, str]:
        try:
            return {"ok": self._control.do(Wish.model_validate_json(line))}
        except ControlkitError as problem:
            return {"error": str(problem)}
        except ValidationError:
            return {"error": "is no request"}
        except Exception as problem:  # noqa: BLE001 (whatever a bundle's path leads to must not end the socket)
            return {"error": f"cannot be done ({type(problem).__name__})"}


def ask(folder: Path, wish: Wish, timeout_s: float = 600.0) -> str:
    """Asks the runtime that uses a state folder.

    Args:
        folder: the state folder.
        wish: what for.
        timeout_s: for the answer; the runtime itself gives one within three of its periods.

    Raises:
        ControlkitError: none runs there, or what it says.
    """
    path = folder / NAME
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(min(timeout_s, PATIENCE_S))
            client.connect(str(path))
            client.sendall(wish.model_dump_json().encode() + b"\n")
            try:
                reply = json.loads(_line(client, timeout_s))
            except TimeoutError:
                raise ControlkitError(
                    f"the runtime gave no answer within {timeout_s:g} s", where=str(path), cure="See the status page."
                ) from None
    except (OSError, ValueError) as problem:
        raise ControlkitError(
            f"no runtime answers ({problem})", where=str(path), cure="Start one: controlkit run BUNDLE --state DIR."
        ) from None
    if "error" in reply:
        raise ControlkitError(str(reply["error"]))
    return str(reply.get("ok", ""))


def _line(stream: socket.socket, timeout_s: float) -> bytes:
    """Up to the end of the line, within `timeout_s` however slowly it trickles."""
    line, end = b"", time.monotonic() + timeout_s
    while not line.endswith(b"\n") and len(line) < MAX_LINE:
        stream.settimeout(max(end - time.monotonic(), 1e-3))
        piece = stream.recv(MAX_LINE - len(line))
        if not piece:
            break
        line += piece
    return line


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True  # somebody is there, and busy, or not to be spoken to by this user
        return True
