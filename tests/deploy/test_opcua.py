"""The plant adapter against real OPC UA servers on loopback: values, qualities, times, types, faults, time limits."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import ua

from controlkit.background_loop import BackgroundLoop
from controlkit.certificates import ensure_identity
from controlkit.errors import ConfigError, ControlkitError
from controlkit.spec import PlantSpec
from deploy.runtime.opcua import OpcUaPlant
from deploy.runtime.opcua_security import Security
from deploy.runtime.plant import WriteRequest
from envs.opcua_address_space import PlantServer, variables_of
from envs.opcua_faults import Faults, TcpProxy
from envs.opcua_server import SimulatedPlant

INSECURE = Security.insecure_for_tests()
T0 = 1_700_000_000_123_456_000
# What a busy machine may take longer than it was told.
SLACK_S = 1.0
START = {"level": 4.5, "flow": -2.0, "mode": 1.0}


def tank() -> PlantSpec:
    action = {"role": "action", "unit": "1", "range": [-100, 100], "safe": 0, "fallback": {"kind": "hold"}}
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 1,
            "tags": {
                "level": {"role": "state", "unit": "m", "range": [0, 10]},
                "mode": {"role": "mode", "unit": "1", "range": [0, 3], "accept": [1]},
                "flow": {"role": "exogenous", "unit": "m^3/s", "range": [-5, 5]},
                "valve": action,
                "pump": action,
                "heater": action,
                "lamp": action,
                # A tag may be called as a part of the handshake is.
                "auto": {"role": "static", "unit": "1", "range": [0, 1]},
            },
            "objective": [{"kind": "cost", "tag": "level"}],
        }
    )


class Rig:
    """A server with the tank's nodes, whose commands are of four types."""

    def __init__(self) -> None:
        self.spec, self.loop, self.writes = tank(), BackgroundLoop("rig"), list[tuple[str, Any]]()
        variables = variables_of(self.spec)
        kinds = ua.VariantType
        for name, kind, start in (
            ("pump", kinds.Float, 0.0),
            ("heater", kinds.Int16, 0),
            ("lamp", kinds.Boolean, False),
            ("#heartbeat_controller", kinds.Byte, 0),
            ("#advice.heater", kinds.Int16, 0),
        ):
            variables[name] = dataclasses.replace(variables[name], kind=kind, start=start)
        self.faults = Faults(variables, np.random.default_rng(0))
        self.server = PlantServer(
            variables, None, self.faults, lambda name, value: self.writes.append((name, value)), lambda: T0
        )
        self.loop.call(self.server.start("127.0.0.1", 0), 60)
        self.address = f"opc.tcp://127.0.0.1:{self.server.port}/controlkit"

    def reset(self) -> None:
        self.faults.clear()
        self.writes.clear()
        self.publish(**START, valve=0.0, pump=0.0, heater=0, lamp=False, auto=0.0)
        self.loop.call(self.server.publish({"#auto": True, "#lease": "", "#heartbeat_plant": 7}, T0), 5)

    def publish(self, time_ns: int = T0, **values: Any) -> None:
        self.loop.call(self.server.publish(values, time_ns), 5)

    def plant(self, address: str | None = None, **settings: Any) -> OpcUaPlant:
        settings = {"security": INSECURE, "backoff_s": (0.05, 0.2)} | settings
        return OpcUaPlant(self.spec, address or self.address, **settings)


@pytest.fixture(scope="module")
def rig_of_all() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.loop.call(rig.server.stop(), 10)
    rig.loop.close()


@pytest.fixture
def rig(rig_of_all: Rig) -> Rig:
    rig_of_all.reset()
    return rig_of_all


@pytest.fixture
def plant(rig: Rig) -> Iterator[OpcUaPlant]:
    plant = rig.plant()
    plant.connect(10)
    yield plant
    plant.close()


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    began = time.monotonic()
    return call(), time.monotonic() - began


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.02)


def test_a_reading_is_values_qualities_and_times(rig: Rig, plant: OpcUaPlant) -> None:
    rig.publish(time_ns=T0 + 5_000, level=4.25, valve=1.5)
    reading = plant.read(2)
    assert reading.problem == ""
    assert list(reading.samples) == ["level", "flow", "auto"]
    assert list(reading.commands) == ["valve", "pump", "heater", "lamp"]
    level = reading.samples["level"]
    assert (level.value, level.quality, level.time_ns) == (4.25, "good", T0 + 5_000)  # exact to the microsecond
    assert reading.commands["valve"].value == 1.5
    assert reading.commands["lamp"].value == 0.0  # a Boolean
    assert reading.modes["mode"].value == 1.0
    assert (reading.auto, reading.heartbeat, reading.lease) == (True, 7, "")
    assert reading.samples["auto"].value == 0.0  # the tag, not the switch


@pytest.mark.parametrize(
    ("code", "quality"),
    [
        (ua.StatusCodes.Good, "good"),
        (ua.StatusCodes.GoodClamped, "good"),
        (ua.StatusCodes.GoodLocalOverride, "substituted"),
        (ua.StatusCodes.UncertainSubstituteValue, "substituted"),
        (ua.StatusCodes.UncertainSubstituteValue | 0x0403, "substituted"),  # with bits about the value's origin
        (ua.StatusCodes.UncertainLastUsableValue, "uncertain"),
        (ua.StatusCodes.BadSensorFailure, "bad"),
        (0xC0000000, "bad"),  # reserved
    ],
)
def test_qualities(rig: Rig, plant: OpcUaPlant, code: int, quality: str) -> None:
    rig.faults.status("level", code)
    sample = plant.read(2).samples["level"]
    assert sample.quality == quality
    assert math.isnan(sample.value) == (quality == "bad")
    assert plant.read(2).samples["flow"].quality == "good"


def test_source_times_that_are_none(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.no_source_time("level")
    assert plant.read(2).samples["level"].time_ns is None
    rig.faults.clear()
    for shift_s, expected in ((-3600.0, T0 - 3600 * 10**9), (-60e9, None), (200e9, None)):
        rig.faults.shift_source_time("level", shift_s)
        assert plant.read(2).samples["level"].time_ns == expected
    rig.faults.clear()
    rig.faults.stop_stamping("level")
    plant.read(2)
    rig.publish(time_ns=T0 + 10**9, level=5.0)
    sample = plant.read(2).samples["level"]
    assert (sample.value, sample.time_ns) == (5.0, T0)


def test_server_time_where_the_source_has_none(rig: Rig) -> None:
    plant = rig.plant(time="server")
    try:
        plant.connect(10)
        before = time.time_ns()
        rig.publish(level=1.0)
        rig.faults.no_source_time("level")
        stamp = plant.read(2).samples["level"].time_ns
        assert stamp is not None
        assert before - 10**6 <= stamp <= time.time_ns() + 10**6
        rig.faults.shift_clock(3600.0)
        shifted = plant.read(2).samples["level"].time_ns
        assert shifted == stamp + 3600 * 10**9
    finally:
        plant.close()


@pytest.mark.parametrize("value", ["4.5", [4.5], math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_bad(rig: Rig, plant: OpcUaPlant, value: Any) -> None:
    rig.faults.show("level", value)
    sample = plant.read(2).samples["level"]
    assert sample.quality == "bad"
    assert math.isnan(sample.value)


def test_values_out_of_range_are_left_to_the_graph(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.show("level", 1e30)
    assert plant.read(2).samples["level"].value == 1e30


def test_a_frozen_sensor_keeps_its_value_and_goes_on_stamping(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.freeze("level")
    plant.read(2)
    rig.publish(time_ns=T0 + 10**9, level=9.0)
    sample = plant.read(2).samples["level"]
    assert (sample.value, sample.time_ns, sample.quality) == (4.5, T0 + 10**9, "good")


def test_the_switch_fails_closed(rig: Rig, plant: OpcUaPlant) -> None:
    rig.loop.call(rig.server.publish({"#auto": False}, T0), 5)
    assert plant.read(2).auto is False
    rig.loop.call(rig.server.publish({"#auto": True}, T0), 5)
    for spoil in (
        lambda: rig.faults.status("#auto", ua.StatusCodes.UncertainLastUsableValue),
        lambda: rig.faults.show("#auto", "on"),
        lambda: rig.faults.show("#auto", 0.7),
        lambda: rig.faults.remove("#auto"),
    ):
        rig.faults.clear()
        spoil()
        assert plant.read(2).auto is None


def test_handshake_that_is_bad_or_of_another_type_is_unknown(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.show("#lease", 5.0)
    rig.faults.show("#heartbeat_plant", "x")
    reading = plant.read(2)
    assert (reading.lease, reading.heartbeat, reading.auto) == (None, None, True)


def test_an_unknown_node_is_bad_alone_and_noticed_when_it_comes_back(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.remove("level")
    rig.faults.remove("valve")
    reading = plant.read(2)
    assert reading.problem == ""
    assert (reading.samples["level"].quality, reading.samples["flow"].quality) == ("bad", "good")
    result = plant.write(WriteRequest(commands={"valve": 1.0, "pump": 2.0}), 2)
    assert list(result.refused) == ["valve"]
    assert result.problem == ""
    assert plant.read_back(2) == {"pump": 2.0, "heater": 0.0, "lamp": 0.0}
    rig.faults.clear()
    assert plant.read(2).samples["level"].value == 4.5
    until(lambda: plant.write(WriteRequest(commands={"valve": 1.0}), 2).refused == {})
    assert plant.read_back(2)["valve"] == 1.0
    assert plant.reconnects == 0


def test_another_server_is_told(rig: Rig) -> None:
    plant = OpcUaPlant(
        tank().model_copy(update={"name": "other"}), rig.address, security=INSECURE, handshake={"advice": None}
    )
    try:
        plant.connect(10)
        assert plant.read(2).problem == "the server knows none of the plant's nodes"
    finally:
        plant.close()


def test_values_go_out_in_the_nodes_own_types(rig: Rig, plant: OpcUaPlant) -> None:
    request = WriteRequest(
        commands={"valve": 1.25, "pump": 2.5, "heater": -3.0, "lamp": 1.0},
        advice={"valve": 0.5, "heater": 7.0},
        heartbeat=258,
        lease="edge 1",
    )
    assert plant.write(request, 2).refused == {}
    assert rig.writes == [
        ("valve", 1.25),
        ("pump", 2.5),
        ("heater", -3),
        ("lamp", True),
        ("#advice.valve", 0.5),
        ("#advice.heater", 7),
        ("#heartbeat_controller", 2),  # a Byte counts from 0 again
        ("#lease", "edge 1"),
    ]
    assert plant.read_back(2) == {"valve": 1.25, "pump": 2.5, "heater": -3.0, "lamp": 1.0}
    assert plant.read(2).lease == "edge 1"


def test_what_a_type_cannot_hold_is_refused_here(rig: Rig, plant: OpcUaPlant) -> None:
    request = WriteRequest(
        commands={"valve": math.nan, "pump": 1e300, "heater": 40_000.0, "lamp": 2.0}, advice={"heater": 99_999.0}
    )
    refused = plant.write(request, 2).refused
    assert set(refused) == {"valve", "pump", "heater", "lamp", "advice"}
    assert "does not fit into a Int16" in refused["heater"]
    assert rig.writes == []


def test_refusals_of_the_server_are_named_per_node(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.refuse("pump")
    rig.faults.refuse("#heartbeat_controller")
    rig.faults.refuse("#lease")
    request = WriteRequest(commands={"valve": 100.5, "pump": 1.0, "heater": 2.0}, heartbeat=1, lease="x")
    result = plant.write(request, 2)
    assert result.problem == ""
    assert result.refused == {
        "valve": "BadOutOfRange",
        "pump": "BadUserAccessDenied",
        "heartbeat": "BadUserAccessDenied",
        "lease": "BadUserAccessDenied",
    }
    assert plant.read_back(2)["heater"] == 2.0


def test_a_write_that_is_dropped_shows_when_it_is_read_back(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.drop_writes(1.0)
    assert plant.write(WriteRequest(commands={"valve": 3.0}), 2).refused == {}
    assert plant.read_back(2)["valve"] == 0.0


def test_nothing_to_write_asks_nothing(rig: Rig, plant: OpcUaPlant) -> None:
    rig.faults.hang()
    result, seconds = timed(lambda: plant.write(WriteRequest(), 2))
    assert result.refused == {}
    assert seconds < 1
    rig.faults.clear()


def test_a_plant_without_a_handshake(rig: Rig) -> None:
    none = dict.fromkeys(("auto", "heartbeat_plant", "heartbeat_controller", "lease", "advice"))
    plant = rig.plant(handshake=none)
    try:
        plant.connect(10)
        assert plant.handshake == frozenset()
        reading = plant.read(2)
        assert (reading.auto, reading.heartbeat, reading.lease, reading.problem) == (None, None, None, "")
        request = WriteRequest(commands={"valve": 1.0}, advice={"valve": 1.0}, heartbeat=1, lease="x")
        assert plant.write(request, 2).refused == {}
        assert rig.writes == [("valve", 1.0)]
    finally:
        plant.close()


def test_nodes_of_a_site_come_before_the_plant_files(rig: Rig) -> None:
    plant = rig.plant(nodes={"level": "ns=2;s=tank.flow"}, handshake={"lease": "ns=2;s=nowhere"})
    try:
        plant.connect(10)
        reading = plant.read(2)
        assert reading.samples["level"].value == START["flow"]
        assert reading.lease is None
        assert plant.handshake == {"auto", "heartbeat_plant", "heartbeat_controller", "lease", "advice"}
    finally:
        plant.close()


def test_a_server_that_hangs_costs_the_time_limit_and_no_more(rig: Rig, plant: OpcUaPlant) -> None:
    assert plant.read(2).problem == ""
    rig.faults.hang()
    for call, limit in (
        (lambda: plant.read(0.2).problem, 0.2),
        (lambda: plant.write(WriteRequest(commands={"valve": 9.0}), 0.2).problem, 0.2),
        (lambda: not plant.read_back(0.2), 0.2),
        (lambda: plant.read(0.0).problem, 0.0),
    ):
        result, seconds = timed(call)
        assert result
        assert seconds < limit + SLACK_S
    rig.publish(time_ns=T0 + 10**9, level=8.0)
    rig.faults.clear()
    # The answer to what was asked while it hung is not taken for an answer to this.
    reading = plant.read(5)
    assert (reading.problem, reading.samples["level"].value) == ("", 8.0)
    assert rig.writes == []  # nothing was queued behind the request that hung
    assert plant.reconnects == 0


def test_a_write_that_was_not_confirmed_says_so_of_every_part(rig: Rig, plant: OpcUaPlant) -> None:
    plant.write(WriteRequest(heartbeat=1), 2)
    rig.faults.hang()
    result = plant.write(WriteRequest(commands={"valve": 1.0}, heartbeat=2, lease="x"), 0.1)
    assert set(result.refused) == {"valve", "heartbeat", "lease"}
    assert "did not answer within 0.1 s" in result.problem
    rig.faults.clear()


def test_a_server_that_is_silent_for_long_is_connected_anew(rig: Rig) -> None:
    plant = rig.plant(silence_s=0.3)
    try:
        plant.connect(10)
        rig.faults.hang()
        assert plant.read(0.1).problem
        until(lambda: not plant.connected)
        rig.faults.clear()
        until(lambda: plant.read(1).problem == "")
        assert plant.reconnects >= 1
    finally:
        plant.close()


def test_a_server_that_restarts(rig: Rig, plant: OpcUaPlant) -> None:
    plant.write(WriteRequest(commands={"valve": 1.0}), 2)
    rig.loop.call(rig.server.stop_listening(), 10)
    reading, seconds = timed(lambda: plant.read(0.5))
    assert reading.problem
    assert reading.samples == {}
    assert seconds < 0.5 + SLACK_S
    until(lambda: plant.read(0.5).problem == "no server listens at this address")
    rig.loop.call(rig.server.listen_again(), 10)
    until(lambda: plant.read(1).problem == "")
    assert plant.reconnects == 1
    assert plant.write(WriteRequest(commands={"valve": 2.0}), 2).refused == {}
    assert plant.read_back(2)["valve"] == 2.0


def test_a_network_that_is_cut_and_one_that_hangs(rig: Rig) -> None:
    proxy = TcpProxy(rig.server.port)
    plant = rig.plant(f"opc.tcp://127.0.0.1:{proxy.port}", silence_s=0.5)
    try:
        plant.connect(10)
        assert plant.read(2).problem == ""
        proxy.cut()
        until(lambda: plant.read(0.2).problem)
        reading, seconds = timed(lambda: plant.read(0.2))
        assert reading.problem
        assert seconds < 0.2 + SLACK_S
        proxy.heal()
        until(lambda: plant.read(1).problem == "")
        assert plant.reconnects == 1
        proxy.hang()
        reading, seconds = timed(lambda: plant.read(0.2))
        assert reading.problem
        assert seconds < 0.2 + SLACK_S
        until(lambda: not plant.connected)
        proxy.heal()
        until(lambda: plant.read(1).problem == "")
    finally:
        plant.close()
        proxy.close()


def test_a_socket_that_accepts_and_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        plant = OpcUaPlant(tank(), f"opc.tcp://127.0.0.1:{mute.getsockname()[1]}", security=INSECURE, silence_s=0.3)
        try:
            with pytest.raises(ControlkitError, match=r"does not answer|not connected"):
                plant.connect(0.8)
            reading, seconds = timed(lambda: plant.read(0.2))
            assert reading.problem
            assert seconds < 0.2 + SLACK_S
            assert plant.write(WriteRequest(heartbeat=1), 0.1).problem
            _, seconds = timed(plant.close)
            assert seconds < 4
        finally:
            plant.close()


@pytest.mark.parametrize("answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\xff" * 64, b"ACKF\x08\x00\x00\x00" * 9])
def test_a_server_of_another_kind(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:

        def serve() -> None:
            while True:
                try:
                    client, _ = other.accept()
                    with client:
                        client.recv(100)
                        client.sendall(answer)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        plant = OpcUaPlant(tank(), f"opc.tcp://127.0.0.1:{other.getsockname()[1]}", security=INSECURE, silence_s=0.3)
        try:
            with pytest.raises(ControlkitError):
                plant.connect(1.0)
            assert plant.read(0.1).problem
        finally:
            plant.close()


def test_no_server_at_all() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    plant = OpcUaPlant(tank(), f"opc.tcp://127.0.0.1:{port}", security=INSECURE)
    try:
        with pytest.raises(ControlkitError, match="no server listens at this address"):
            plant.connect(0.5)
        reading, seconds = timed(lambda: plant.read(5))
        assert reading.problem
        assert seconds < SLACK_S  # there is nobody to wait for
    finally:
        plant.close()


def test_after_the_end_every_call_says_so(rig: Rig) -> None:
    plant = rig.plant()
    plant.connect(10)
    threads = threading.active_count()
    plant.close()
    plant.close()
    assert threading.active_count() < threads
    assert plant.read(1).problem == "the connection was closed"
    assert plant.write(WriteRequest(heartbeat=1), 1).problem == "the connection was closed"
    assert plant.read_back(1) == {}
    with pytest.raises(ControlkitError):
        plant.connect(1)


def test_many_threads_may_ask(plant: OpcUaPlant) -> None:
    problems: list[str] = []

    def ask() -> None:
        for _ in range(20):
            problems.append(plant.read(5).problem)
            problems.append(plant.write(WriteRequest(heartbeat=1), 5).problem)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [""] * 160


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sim:refrigerator", "is no OPC UA server"),
        ("http://host", "is no plant"),
        ("opc.tcp://", "names no server"),
        ("opc.tcp://host:port/x", "names no host and port"),
        ("opc.tcp://anna:secret@host/x", "holds a user or a password"),
    ],
)
def test_addresses_that_are_none(address: str, message: str) -> None:
    with pytest.raises(ControlkitError, match=message) as problem:
        OpcUaPlant(tank(), address, security=INSECURE)
    assert "secret" not in str(problem.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"nodes": {"levle": "ns=2;s=x"}}, "did you mean 'level'"),
        ({"nodes": {"level": "tank level"}}, "'tank level' is no node id"),
        ({"handshake": {"leese": None}}, "did you mean 'lease'"),
        ({"handshake": {"advice.door": None}}, "is no part of the handshake"),
    ],
)
def test_nodes_that_are_none(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OpcUaPlant(tank(), "opc.tcp://127.0.0.1:1", security=INSECURE, **settings)


def test_without_asyncua_the_cure_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "deploy.runtime.opcua_codec")
    monkeypatch.setitem(sys.modules, "asyncua", None)
    with pytest.raises(ControlkitError, match=r"Install controlkit\[opcua\]"):
        OpcUaPlant(tank(), "opc.tcp://127.0.0.1:1", security=INSECURE)


# Security.


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedPlant]:
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "password").write_text("geheim\n")
    with SimulatedPlant("refrigerator", folder, port=0, speed=20, users={"edge": "geheim"}) as plant:
        yield plant


def security_of(plant: SimulatedPlant, **changes: Any) -> Security:
    assert plant.client is not None
    assert plant.server_certificate is not None
    return Security(
        **{
            "certificate": plant.client.certificate,
            "private_key": plant.client.private_key,
            "trusted_server_certificate": plant.server_certificate,
            "user": "edge",
            "password_file": plant.server_certificate.with_name("password"),
        }
        | changes
    )


def connected(plant: SimulatedPlant, security: Any, address: str | None = None) -> OpcUaPlant:
    client = OpcUaPlant(plant.spec, address or plant.address, security=security, silence_s=2)
    try:
        client.connect(10)
    except ControlkitError:
        client.close()
        raise
    return client


class Tap(TcpProxy):
    """A proxy that notes what goes through."""

    heard = b""

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            self.heard += data
            writer.write(data)


@pytest.mark.parametrize("policy", ["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss"])
def test_a_secure_session_reads_and_writes_and_nobody_else_does(secure: SimulatedPlant, policy: str) -> None:
    tap = Tap(secure.port)
    client = connected(secure, security_of(secure, policy=policy), f"opc.tcp://127.0.0.1:{tap.port}")
    try:
        assert client.warning == ""
        assert client.read(2).samples["temperature"].quality == "good"
        assert client.write(WriteRequest(lease="edge 1", heartbeat=1), 2).refused == {}
        assert client.read(2).lease == "edge 1"
    finally:
        client.close()
        tap.close()
    assert len(tap.heard) > 2000
    assert b"refrigerator.temperature" not in tap.heard
    assert b"geheim" not in tap.heard


def test_without_security_a_secure_server_lets_nobody_in(secure: SimulatedPlant) -> None:
    assert "for tests only" in INSECURE.warning
    with pytest.raises(ConfigError, match="does not offer the security policy None"):
        connected(secure, INSECURE)


def test_another_server_certificate_is_refused_by_the_client(secure: SimulatedPlant, tmp_path: Path) -> None:
    other = ensure_identity(tmp_path, "simulated-plant", "server")
    with pytest.raises(ConfigError, match=r"shows another certificate .* than the trusted one"):
        connected(secure, security_of(secure, trusted_server_certificate=other.certificate))


def test_another_server_certificate_is_refused_without_the_look_ahead_too(
    secure: SimulatedPlant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plain words come from a look at the endpoints; the refusal does not rest on it."""
    from deploy.runtime.opcua_link import Link

    async def nothing(*_: object) -> None: ...

    monkeypatch.setattr(Link, "_check_server", nothing)
    other = ensure_identity(tmp_path, "simulated-plant", "server")
    client = OpcUaPlant(
        secure.spec,
        secure.address,
        security=security_of(secure, trusted_server_certificate=other.certificate),
        silence_s=0.5,
    )
    try:
        with pytest.raises(ControlkitError):
            client.connect(1.5)
        assert client.read(0.1).problem
    finally:
        client.close()


def test_another_client_certificate_is_refused_by_the_server(secure: SimulatedPlant, tmp_path: Path) -> None:
    other = ensure_identity(tmp_path, "controller", "client")
    with pytest.raises(ConfigError, match="does not trust this runtime's certificate"):
        connected(secure, security_of(secure, certificate=other.certificate, private_key=other.private_key))


def test_users(secure: SimulatedPlant, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("falsch")
    with pytest.raises(ConfigError, match="refuses this user or password") as problem:
        connected(secure, security_of(secure, password_file=wrong))
    assert "falsch" not in str(problem.value)
    with pytest.raises(ConfigError, match="refuses this user"):
        connected(secure, security_of(secure, user=None, password_file=None))


def test_files_of_the_security_are_checked_before_anything_is_connected(secure: SimulatedPlant, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    (tmp_path / "large").write_bytes(b"x" * 100_000)
    other = ensure_identity(tmp_path, "other", "client")
    for changes, message in (
        ({"certificate": tmp_path / "missing"}, "cannot be read"),
        ({"certificate": tmp_path / "text"}, "is no certificate"),
        ({"private_key": tmp_path / "large"}, "is too large"),
        ({"private_key": tmp_path / "text"}, "is no private key"),
        ({"private_key": other.private_key}, "do not belong together"),
        ({"password_file": tmp_path / "large"}, "is too large for a password"),
        ({"password_file": tmp_path / "missing"}, "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=message):
            OpcUaPlant(secure.spec, secure.address, security=security_of(secure, **changes))


def test_an_outdated_certificate_is_not_used(secure: SimulatedPlant, tmp_path: Path) -> None:
    import datetime

    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    old = ensure_identity(tmp_path, "old", "client", now=past)
    with pytest.raises(ConfigError, match="is valid from 2019-12-31 to 2020-12-31, not today"):
        security_of(secure, certificate=old.certificate, private_key=old.private_key).load()


@pytest.mark.parametrize(
    "changes",
    [{"policy": "None"}, {"mode": "Sign"}, {"user": None}, {"user_certificate": "x"}, {"polcy": "Basic256Sha256"}],
)
def test_security_that_cannot_be_right(secure: SimulatedPlant, changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        security_of(secure, **changes)
