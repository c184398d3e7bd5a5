"""The control socket: who may ask for what, and what comes of lines that are no requests."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controlkit.errors import ArtifactError, ControlkitError
from deploy.runtime.clock import AcceleratedClock
from deploy.runtime.control import MAX_LINE, NAME, Control, ControlSocket, Wish, ask
from deploy.runtime.operators import Operators, new_token
from deploy.runtime.requests import Request, Requests

TOKEN, STORED = new_token()


class Loop:
    """A loop that answers every request, and keeps it: what it did, and what was refused before it came here."""

    def __init__(self, requests: Requests) -> None:
        self.done, self.refused = list[Request](), list[Request]()
        self._requests, self._stop = requests, threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.002):
            for request in self._requests.take():
                if request.problem is not None:
                    self.refused.append(request)
                    request.refuse(request.problem)
                    continue
                self.done.append(request)
                request.answer(f"{request.action} {request.mode} by '{request.operator}'")

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10.0)


class Rig:
    def __init__(self, folder: Path, answering: bool = True, patience_s: float = 5.0) -> None:
        self.folder, self.requests = folder, Requests()
        self.load: Callable[[Path], Any] = lambda path: None
        operators = Operators({"anna": STORED}, AcceleratedClock())
        self.control = Control(self.requests, operators, lambda path: self.load(path), patience_s)
        self.socket = ControlSocket(folder, self.control)
        self.loop = Loop(self.requests) if answering else None

    def say(self, line: bytes) -> dict[str, str]:
        """One connection, one line, one answer."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(10.0)
            client.connect(str(self.socket.path))
            client.sendall(line)
            answer = b""
            while piece := client.recv(4096):
                answer += piece
        found: dict[str, str] = json.loads(answer)
        return found

    def ask(self, **wish: Any) -> str:
        return ask(self.folder, Wish(**wish))

    @property
    def done(self) -> list[Request]:
        assert self.loop is not None
        return self.loop.done

    @property
    def refused(self) -> list[Request]:
        assert self.loop is not None
        return self.loop.refused

    def close(self) -> None:
        self.socket.close()
        if self.loop is not None:
            self.loop.close()


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path)
    yield rig
    rig.close()


def test_an_operator_arms_under_a_record(rig: Rig) -> None:
    answer = rig.ask(action="mode", mode="ARMED", token=TOKEN, change_record="MOC-1")
    assert answer == "mode ARMED by 'anna'"
    assert rig.done[0].record() == {
        "action": "mode", "mode": "ARMED", "operator": "anna", "change_record": "MOC-1", "controller": None,
    }  # fmt: skip
    assert TOKEN not in repr(vars(rig.done[0]))


@pytest.mark.parametrize("mode", ["OFF", "SHADOW"])
def test_down_goes_whoever_may_open_the_socket_even_with_a_wrong_token(rig: Rig, mode: str) -> None:
    for token, name in (("", ""), ("wrong", ""), (TOKEN, "anna")):
        assert rig.ask(action="mode", mode=mode, token=token) == f"mode {mode} by '{name}'"


def test_down_goes_also_while_wrong_tokens_lock_everybody_out(rig: Rig) -> None:
    for _ in range(6):
        with pytest.raises(ControlkitError):
            rig.ask(action="swap", token="wrong")
    with pytest.raises(ControlkitError, match="too many wrong tokens"):
        rig.ask(action="mode", mode="ADVISORY", token=TOKEN)
    assert rig.ask(action="mode", mode="SHADOW", token=TOKEN) == "mode SHADOW by ''"
    assert len(rig.done) == 1


@pytest.mark.parametrize(
    "wish",
    [
        {"action": "mode", "mode": "ADVISORY"}, {"action": "mode", "mode": "ARMED", "change_record": "MOC-1"},
        {"action": "load", "bundle": "bundle"}, {"action": "swap"}, {"action": "recalibrate"},
    ],
)  # fmt: skip
@pytest.mark.parametrize("token", ["", "wrong"])
def test_everything_else_needs_the_right_token(rig: Rig, wish: dict[str, Any], token: str) -> None:
    def load(path: Path) -> Any:
        raise AssertionError("nothing is read for somebody without a token")

    rig.load = load
    with pytest.raises(ControlkitError, match="is nobody's") as refused:
        rig.ask(**wish, token=token)
    assert "wrong" not in str(refused.value)
    assert rig.done == []
    (told,) = rig.refused  # for the log
    assert (told.action, told.operator) == (wish["action"], "")
    assert "is nobody's" in str(told.problem)
    assert "wrong" not in repr(told.record())


@pytest.mark.parametrize(
    ("wish", "message"),
    [
        ({"action": "mode"}, "the mode is missing"),
        ({"action": "mode", "mode": "ARMED"}, "arming needs the id of a change record"),
        ({"action": "mode", "mode": "ARMED", "change_record": "a b"}, "is no id of a change record"),
        ({"action": "load"}, "the bundle is missing"),
    ],
)
def test_what_an_operator_left_out_is_named(rig: Rig, wish: dict[str, Any], message: str) -> None:
    with pytest.raises(ControlkitError, match=message):
        rig.ask(**wish, token=TOKEN)
    assert rig.done == []


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (ArtifactError("the signature is wrong", where="b/manifest.sig"), "b/manifest.sig: the signature is wrong"),
        (PermissionError(13, "Permission denied"), r"cannot be done \(PermissionError\)"),
        (KeyError("deep inside"), r"cannot be done \(KeyError\)"),
    ],
)
def test_whatever_a_bundle_leads_to_is_answered_and_the_socket_goes_on(
    rig: Rig, problem: Exception, message: str
) -> None:
    def load(path: Path) -> Any:
        raise problem

    rig.load = load
    with pytest.raises(ControlkitError, match=message):
        rig.ask(action="load", bundle="b", token=TOKEN)
    assert rig.ask(action="mode", mode="OFF") == "mode OFF by ''"


GOOD = {"action": "mode", "mode": "SHADOW"}


@pytest.mark.parametrize(
    "line",
    [
        b"\n", b"hello\n", b"\xff\xfe\n", b"\x00\n", b"null\n", b"1\n", b"[]\n", b'"mode"\n', b"{}\n",
        b"[" * 4000 + b"\n", b'{"a":' * 1500 + b"\n",
        json.dumps(GOOD | {"x": 1}).encode() + b"\n",
        json.dumps(GOOD | {"action": "quit"}).encode() + b"\n",
        json.dumps(GOOD | {"mode": "shadow"}).encode() + b"\n",
        json.dumps(GOOD | {"mode": 1}).encode() + b"\n",
        json.dumps(GOOD | {"mode": ["SHADOW"]}).encode() + b"\n",
        json.dumps(GOOD | {"token": None}).encode() + b"\n",
        json.dumps(GOOD | {"token": "x" * 201}).encode() + b"\n",
        json.dumps(GOOD | {"change_record": "x" * 81}).encode() + b"\n",
        json.dumps(GOOD | {"bundle": "x" * 4097}).encode() + b"\n",
        b'{"action": "mode", "mode": "SHADOW", "token": "\\ud800"}\n',
        json.dumps(GOOD).encode()[:-1] + b"\n",
        b'{"action": "mode", "mode": NaN}\n',
    ],
)  # fmt: skip
def test_a_line_that_is_no_request_is_answered_and_does_nothing(rig: Rig, line: bytes) -> None:
    assert rig.say(line) == {"error": "is no request"}
    assert rig.done == []
    assert rig.say(json.dumps(GOOD).encode() + b"\n") == {"ok": "mode SHADOW by ''"}


@pytest.mark.parametrize("size", [MAX_LINE, MAX_LINE + 1, 60_000])
def test_an_oversize_line_is_cut_off(rig: Rig, size: int) -> None:
    line = json.dumps(GOOD | {"token": "x" * size}).encode()
    assert len(line) > MAX_LINE
    try:
        assert rig.say(line) == {"error": "is no request"}
    except ConnectionError:
        pass  # hung up on
    assert rig.done == []
    assert rig.ask(**GOOD) == "mode SHADOW by ''"


def test_a_client_that_hangs_up_or_trickles_does_not_hold_up_the_others(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("deploy.runtime.control.PATIENCE_S", 1.0)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(rig.socket.path))
        client.sendall(b'{"action"')
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as slow:
        slow.connect(str(rig.socket.path))
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.05):
                try:
                    slow.sendall(b" ")
                except OSError:
                    return

        thread = threading.Thread(target=trickle)
        thread.start()
        began = time.monotonic()
        try:
            assert rig.ask(**GOOD) == "mode SHADOW by ''"
        finally:
            stop.set()
            thread.join(10.0)
        assert time.monotonic() - began < 20.0


def test_a_loop_that_does_not_answer_is_told_and_what_it_missed_is_not_done_later(tmp_path: Path) -> None:
    rig = Rig(tmp_path, answering=False, patience_s=0.05)
    with pytest.raises(ControlkitError, match="the loop did not answer in time; the request is withdrawn"):
        rig.ask(action="mode", mode="ARMED", token=TOKEN, change_record="MOC-1")
    with pytest.raises(ControlkitError, match="the loop did not answer in time; the request still stands"):
        rig.ask(action="mode", mode="SHADOW")
    assert [request.mode for request in rig.requests.take()] == ["SHADOW"]
    rig.close()


def test_a_refusal_is_told_although_the_loop_cannot_record_it(tmp_path: Path) -> None:
    rig = Rig(tmp_path, answering=False, patience_s=0.05)
    with pytest.raises(ControlkitError, match="is nobody's"):
        rig.ask(action="swap", token="wrong")
    rig.close()


def test_an_answer_that_takes_longer_than_the_client_waits(tmp_path: Path) -> None:
    rig = Rig(tmp_path, answering=False, patience_s=0.5)
    with pytest.raises(ControlkitError, match=r"the runtime gave no answer within 0\.05 s"):
        ask(tmp_path, Wish(action="mode", mode="SHADOW"), timeout_s=0.05)
    rig.close()


def test_the_socket_is_for_this_user_only_and_goes_with_the_runtime(rig: Rig) -> None:
    path = rig.folder / NAME
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    umask = os.umask(0)
    os.umask(umask)
    assert umask != 0o177  # given back
    rig.close()
    assert not path.exists()
    with pytest.raises(ControlkitError, match="no runtime answers"):
        rig.ask(**GOOD)


def test_a_second_runtime_in_the_same_folder_is_refused_and_the_first_goes_on(rig: Rig) -> None:
    with pytest.raises(ControlkitError, match="another runtime uses this folder"):
        ControlSocket(rig.folder, rig.control)
    assert rig.ask(**GOOD) == "mode SHADOW by ''"


def test_a_runtime_that_is_too_busy_to_answer_is_still_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy:
        busy.bind(str(tmp_path / NAME))
        busy.listen(0)
        waiting = [socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) for _ in range(3)]
        try:
            for client in waiting:
                client.setblocking(False)
                client.connect_ex(str(tmp_path / NAME))
            with pytest.raises(ControlkitError, match="another runtime uses this folder"):
                ControlSocket(tmp_path, Control(Requests(), Operators({}, AcceleratedClock()), lambda path: None))  # type: ignore[arg-type, return-value]
        finally:
            for client in waiting:
                client.close()
    assert (tmp_path / NAME).exists()


@pytest.mark.parametrize("kind", ["socket", "file"])
def test_what_a_killed_runtime_left_behind_is_replaced(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / NAME).write_text("")
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
            dead.bind(str(tmp_path / NAME))
    rig = Rig(tmp_path)
    assert rig.ask(**GOOD) == "mode SHADOW by ''"
    rig.close()


def test_a_path_that_is_too_long_is_named(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 120)
    folder.mkdir()
    with pytest.raises(ControlkitError, match=r"the control socket cannot be made .* Give a shorter path"):
        Rig(folder)
    with pytest.raises(ControlkitError, match="no runtime answers"):
        ask(folder, Wish(action="swap"))
