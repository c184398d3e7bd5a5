"""The way to Ray where there is none: one line, at once."""

from __future__ import annotations

import itertools
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from controlkit.cluster import Cluster, Item, Outcome, connect
from controlkit.cluster.versions import Versions, require_same
from controlkit.errors import ControlkitError


@pytest.fixture
def shop() -> Iterator[str]:
    """The address of a server that speaks, but no gRPC."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            customer, _ = server.accept()
            with customer:
                customer.recv(64)
                customer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        thread.join(5)


def test_an_address_where_nobody_answers() -> None:
    pytest.importorskip("ray")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(ControlkitError, match=f"--address 127.0.0.1:{port}: does not answer"):
        connect(f"127.0.0.1:{port}").__enter__()


def test_an_address_where_somebody_else_answers(shop: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(ControlkitError, match="something else than a Ray head answers"):
        connect(shop).__enter__()


@pytest.mark.parametrize("address", ["head", "ray://head:1", "head:port", "head:0", "head:70000", ":6379", ""])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ControlkitError, match="is no address of a Ray head"):
        connect(address).__enter__()


def test_without_the_extra_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(ControlkitError, match=r"pip install 'controlkit\[ray\]'"):
        connect().__enter__()


@pytest.mark.parametrize("package", ["python", "ray", "controlkit"])
def test_a_machine_with_another_version_is_named(package: str) -> None:
    mine = Versions("3.11.7", "2.60.0", "0.1.0")
    require_same(mine, {"10.0.0.1": mine})
    theirs = Versions(**{**vars(mine), package: "9.9"})
    with pytest.raises(ControlkitError, match=rf"machine 10\.0\.0\.2: runs {package} 9\.9, this machine"):
        require_same(mine, {"10.0.0.1": mine, "10.0.0.2": theirs})
    lacking = Versions(**{**vars(mine), package: ""})
    with pytest.raises(ControlkitError, match=f"has no {package}"):
        require_same(mine, {"10.0.0.2": lacking})


class Emptied:
    """A Ray whose only machine goes as soon as something is begun."""

    def __init__(self) -> None:
        self.machines: list[dict[str, Any]] = [{"Alive": True, "Resources": {"CPU": 2.0}}]
        self.cancelled: list[Any] = []

    def nodes(self) -> list[dict[str, Any]]:
        return self.machines

    def options(self, **options: Any) -> Emptied:
        return self

    def remote(self, work: Any, payload: Any = None) -> Any:
        if payload is None:
            return self
        self.machines = [{"Alive": False, "Resources": {"CPU": 2.0}}]
        return object()

    def wait(self, streams: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return [], streams

    def cancel(self, stream: Any, force: bool) -> None:
        self.cancelled.append(stream)


def test_an_item_waits_for_a_machine_that_may_come_back_but_not_for_ever() -> None:
    ray, seconds = Emptied(), itertools.count()
    cluster = Cluster(ray, patience_s=5.0, clock=lambda: float(next(seconds)))
    (found,) = cluster.run([Item("one", {"x": 1}, cores=2)], print)
    assert found == Outcome("one", "lost", message="no machine is left that has 2 cores")
    assert len(ray.cancelled) == 1
    assert 5 < next(seconds) < 20


def test_two_items_of_one_name_are_refused() -> None:
    with pytest.raises(ControlkitError, match="two items are called 'a'"):
        Cluster(Emptied()).run([Item("a"), Item("b"), Item("a")], print)
