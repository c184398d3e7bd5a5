"""A task as an OPC UA server: nodes, time, who commands, what may be written, faults, certificates."""

from __future__ import annotations

import asyncio
import datetime
import itertools
import math
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.uaerrors import BadCertificateUntrusted, BadSessionNotActivated, BadUserAccessDenied, UaStatusCodeError

from controlkit import certificates
from controlkit.certificates import ensure_identity, load_certificate
from controlkit.errors import ConfigError, ControlkitError
from deploy.runtime.opcua import OpcUaPlant
from deploy.runtime.opcua_security import Security
from deploy.runtime.plant import PlantReading, WriteRequest
from envs.opcua_server import PlantRecord, SimulatedPlant, serve
from envs.simulation import spawned_seeds
from envs.tasks import get_task

PERIOD_NS = 10**9
SPEED = 20.0


@pytest.fixture(scope="module")
def plant() -> Iterator[SimulatedPlant]:
    with SimulatedPlant("refrigerator", port=0, speed=SPEED, insecure=True, options={"horizon": 60}) as plant:
        yield plant


@pytest.fixture
def client(plant: SimulatedPlant) -> Iterator[OpcUaPlant]:
    plant.faults.clear()
    plant.set_auto(True)
    plant.set_lease("")
    client = connect(plant)
    yield client
    client.close()


def connect(plant: SimulatedPlant) -> OpcUaPlant:
    client = OpcUaPlant(plant.spec, plant.address, security=Security.insecure_for_tests())
    client.connect(10)
    return client


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come true in time"
        time.sleep(0.01)


def raw(plant: SimulatedPlant, work: Callable[[Client], Any]) -> Any:
    """Something done with asyncua alone."""

    async def run() -> Any:
        async with Client(plant.address) as client:
            return await work(client)

    return asyncio.run(run())


class Controller:
    """Keeps the lease and the heartbeat going, and commands."""

    def __init__(self, client: OpcUaPlant) -> None:
        self._client, self._beats = client, itertools.count(int(time.time()) % 10_000)

    def cycle(self, power: float | None) -> PlantReading:
        beat = next(self._beats)
        commands = {} if power is None else {"power": power}
        assert not self._client.write(WriteRequest(commands, heartbeat=beat, lease=f"edge {beat}"), 5).refused
        return self._client.read(5)


def test_the_operators_closed_loop_is_the_one_of_the_task_itself() -> None:
    task, seed = get_task("refrigerator"), 3
    with SimulatedPlant(task, port=0, speed=100.0, seed=seed, insecure=True, options={"horizon": 25}) as plant:
        client = connect(plant)
        until(lambda: plant.describe().steps >= 60)
        reading = client.read(5)
        client.close()
        record = plant.describe()
    env = task.make(horizon=25)
    operator = task.controller(task.behaviour, np.random.default_rng(spawned_seeds(seed, 2)[0]))
    low, high = plant.spec.limits("power")
    frame, _ = env.reset(seed=seed)
    operator.reset(1)
    rewards, frames, episodes = [], {0: frame}, 0
    for step in range(record.steps):
        command = np.clip(operator.act(frame[None].astype(np.float64))[0], low, high)
        frame, reward, terminated, truncated, _ = env.step(command)
        rewards.append(reward)
        if terminated or truncated:
            frame, _ = env.reset()
            operator.reset(1)
            episodes += 1
        frames[step + 1] = frame
    assert record.reward_sum == sum(rewards)
    assert record.last_command == {"power": command[0]}
    assert (record.episodes, record.controlled_steps, record.controlled_share) == (episodes, 0, 0.0)
    assert episodes >= 2
    # What a client saw is the frame of that very step, and its time goes on over the ends of episodes.
    assert reading.heartbeat is not None
    assert reading.samples["temperature"].value == float(frames[reading.heartbeat][0])
    assert reading.samples["temperature"].time_ns is not None
    assert (record.time_ns - reading.samples["temperature"].time_ns) % PERIOD_NS == 0
    assert record.time_ns % PERIOD_NS == 0.75 * PERIOD_NS


def test_nodes_have_units_descriptions_and_access(plant: SimulatedPlant) -> None:
    async def look(client: Client) -> None:
        temperature = client.get_node("ns=2;s=refrigerator.temperature")
        assert (await temperature.read_description()).Text == "air temperature [degC]"
        unit = await temperature.get_child("2:EngineeringUnits")
        assert await unit.read_value() == "degC"
        with pytest.raises(BadUserAccessDenied):
            await temperature.write_value(1.0)
        with pytest.raises(BadUserAccessDenied):
            await client.get_node("ns=2;s=refrigerator.controlkit.heartbeat_plant").write_value(
                ua.Variant(1, ua.VariantType.Int64)
            )
        with pytest.raises(UaStatusCodeError):
            await client.get_node("ns=2;s=refrigerator.power").write_attribute(
                ua.AttributeIds.DisplayName, ua.DataValue(ua.Variant(ua.LocalizedText("x")))
            )
        names = {(await node.read_browse_name()).Name for node in await client.nodes.objects.get_children()}
        assert {"temperature", "door", "power", "advice.power", "auto", "lease"} <= names
        assert await client.get_namespace_index("urn:controlkit:plant") == 2

    raw(plant, look)


def test_samples_come_once_a_period_and_the_pulse_counts(plant: SimulatedPlant, client: OpcUaPlant) -> None:
    first = client.read(5)
    until(lambda: (client.read(5).heartbeat or 0) >= (first.heartbeat or 0) + 5)
    second = client.read(5)
    assert first.heartbeat is not None
    assert second.heartbeat is not None
    stamps = [reading.samples["temperature"].time_ns for reading in (first, second)]
    assert stamps[0] is not None
    assert stamps[1] is not None
    missed = plant.describe().missed
    assert 0 <= (stamps[1] - stamps[0]) // PERIOD_NS - (second.heartbeat - first.heartbeat) <= missed


def test_a_controller_takes_command_and_the_operator_takes_over_again(
    plant: SimulatedPlant, client: OpcUaPlant
) -> None:
    controller = Controller(client)
    assert not plant.controlled

    def commanded(power: float) -> None:
        controller.cycle(power)
        before = plant.describe()

        def driven() -> bool:
            controller.cycle(power)
            record = plant.describe()
            return record.controlled_steps > before.controlled_steps and record.last_command["power"] == power

        until(driven)

    commanded(5.0)
    assert plant.controlled
    assert client.read_back(5) == {"power": 5.0}
    # The heartbeat stops: the operator commands again, within some periods, from where the controller left off.
    until(lambda: not plant.controlled)
    seen = [5.0]

    def taken_over() -> bool:
        value = client.read_back(5)["power"]
        if value != seen[-1]:
            seen.append(value)
        return len(seen) > 12

    until(taken_over)
    steps = np.abs(np.diff(seen))
    assert steps[0] < 1.0  # the operator wishes for about 0.35
    assert min(seen) < 1.5
    held = plant.describe().controlled_steps
    time.sleep(5 / SPEED)
    assert plant.describe().controlled_steps == held
    commanded(4.0)
    assert plant.controlled


@pytest.mark.parametrize("taken", ["auto", "lease"])
def test_without_switch_or_lease_nobody_but_the_operator_commands(
    plant: SimulatedPlant, client: OpcUaPlant, taken: str
) -> None:
    controller = Controller(client)
    until(lambda: controller.cycle(6.0) and plant.controlled)
    if taken == "auto":
        plant.set_auto(False)
        assert client.read(5).auto is False
        until(lambda: controller.cycle(6.0) and not plant.controlled)
    else:
        plant.set_lease("")
        assert client.read(5).lease == ""
    assert not plant.controlled
    steps = plant.describe().steps
    until(lambda: plant.describe().steps > steps + 15)
    until(lambda: client.read_back(5)["power"] < 3.0)


def test_another_master_is_seen_on_the_lease(plant: SimulatedPlant, client: OpcUaPlant) -> None:
    plant.set_lease("other 7")
    assert client.read(5).lease == "other 7"


def test_commands_that_cannot_be_are_refused_node_by_node(plant: SimulatedPlant) -> None:
    async def write(client: Client) -> list[str]:
        power, advice = ua.NodeId("refrigerator.power", 2), ua.NodeId("refrigerator.controlkit.advice.power", 2)
        kinds = ua.VariantType
        values = [
            (power, ua.Variant(10.5, kinds.Double)),
            (power, ua.Variant(-0.1, kinds.Double)),
            (power, ua.Variant(math.nan, kinds.Double)),
            (power, ua.Variant(1.0, kinds.Float)),
            (power, ua.Variant("1", kinds.String)),
            (power, ua.Variant([1.0], kinds.Double, is_array=True)),
            (power, ua.Variant(None, kinds.Null)),
            (advice, ua.Variant(99.0, kinds.Double)),
            (power, ua.Variant(2.0, kinds.Double)),
        ]
        nodes, contents = zip(*values, strict=True)
        codes = await client.uaclient.write_attributes(list(nodes), [ua.DataValue(content) for content in contents])
        return [code.name for code in codes]

    assert raw(plant, write) == ["BadOutOfRange"] * 3 + ["BadTypeMismatch"] * 4 + ["Good"] * 2


def test_the_plant_goes_on_while_its_server_is_down(plant: SimulatedPlant, client: OpcUaPlant) -> None:
    plant.stop_server()
    steps = plant.describe().steps
    assert client.read(0.5).problem
    until(lambda: plant.describe().steps > steps + 2)
    plant.restart_server()
    until(lambda: client.read(1).problem == "")
    assert client.reconnects == 1


def test_names_of_faults_are_checked(plant: SimulatedPlant) -> None:
    with pytest.raises(ControlkitError, match="did you mean 'temperature'"):
        plant.faults.freeze("temprature")


def test_a_share_of_the_writes_is_dropped(plant: SimulatedPlant, client: OpcUaPlant) -> None:
    plant.faults.drop_writes(0.5)
    kept = 0
    for number in range(60):
        assert client.write(WriteRequest(lease=f"edge {number}"), 5).refused == {}
        kept += client.read(5).lease == f"edge {number}"
    assert 15 <= kept <= 45


def test_what_it_says_of_itself_without_a_step() -> None:
    assert PlantRecord().controlled_share == 0.0


def test_a_port_that_is_taken(plant: SimulatedPlant) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        other = SimulatedPlant("refrigerator", port=taken.getsockname()[1], insecure=True)
        with pytest.raises(ControlkitError, match=r"cannot listen on port .* Choose another port"):
            other.start()
        other.stop()


def test_arguments_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ControlkitError, match="did you mean 'refrigerator'"):
        SimulatedPlant("refigerator", insecure=True)
    with pytest.raises(ControlkitError, match="a secure server needs certificates"):
        SimulatedPlant("refrigerator")
    for settings in ({"speed": 0.0}, {"speed": math.nan}, {"phase": 1.0}, {"watchdog_periods": 0}):
        with pytest.raises(ControlkitError, match="cannot be right"):
            SimulatedPlant("refrigerator", insecure=True, **settings)
    hidden = SimulatedPlant("refrigerator", port=0, insecure=True, options={"door": "hidden"})
    with pytest.raises(ControlkitError, match="shows 1 tags, the plant file has 2"):
        hidden.start()
    monkeypatch.delitem(sys.modules, "envs.opcua_address_space")
    monkeypatch.setitem(sys.modules, "asyncua", None)
    with pytest.raises(ControlkitError, match=r"Install controlkit\[opcua\]"):
        serve("refrigerator", insecure=True)


def test_an_environment_that_fails_ends_the_plant_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    plant = SimulatedPlant("refrigerator", port=0, speed=50, insecure=True)
    step = plant._env.step

    def fail(command: Any) -> Any:
        if plant.describe().steps == 3:
            raise ControlkitError("the compressor has burst")
        return step(command)

    monkeypatch.setattr(plant._env, "step", fail)
    with plant, pytest.raises(ControlkitError, match="the compressor has burst"):
        plant.wait(20)


def test_a_secure_server_lets_no_session_be_used_on_an_open_channel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncua opens an unencrypted channel for discovery whatever the policies; it must end there."""
    with SimulatedPlant("refrigerator", tmp_path, port=0) as plant:

        async def sneak() -> list[UaStatusCodeError]:
            client = Client(plant.address)
            await client.connect_socket()
            await client.send_hello()
            await client.open_secure_channel()
            endpoints = await client.get_endpoints()
            assert {end.SecurityMode for end in endpoints} == {ua.MessageSecurityMode.SignAndEncrypt}
            # The client itself would not go on from here.
            monkeypatch.setattr(Client, "find_endpoint", staticmethod(lambda *_: endpoints[0]))
            await client.create_session()
            problems = []
            for attempt in (client.activate_session, client.get_node("ns=2;s=refrigerator.power").read_value):
                with pytest.raises(UaStatusCodeError) as problem:
                    await attempt()
                problems.append(problem.value)
            client.disconnect_socket()
            return problems

        refused, unread = asyncio.run(sneak())
        assert isinstance(refused, BadCertificateUntrusted)
        assert isinstance(unread, BadSessionNotActivated)


def test_certificates_are_made_once_and_renewed_in_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(certificates, "KEY_BITS", 2048)
    now = datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)
    identity = ensure_identity(tmp_path / "new", "box", "client", now=now)
    assert stat.S_IMODE(identity.private_key.stat().st_mode) == 0o600
    first = identity.certificate.read_bytes()
    assert certificates.application_uri(load_certificate(identity.certificate)) == "urn:controlkit:box"
    later = now + datetime.timedelta(days=certificates.VALID_DAYS - certificates.RENEW_DAYS - 1)
    assert ensure_identity(tmp_path / "new", "box", "client", now=later) == identity
    assert identity.certificate.read_bytes() == first
    ensure_identity(tmp_path / "new", "box", "client", now=later + datetime.timedelta(days=2))
    assert identity.certificate.read_bytes() != first
    other = ensure_identity(tmp_path / "other", "box", "client", now=now)
    identity.private_key.write_bytes(other.private_key.read_bytes())
    with pytest.raises(ConfigError, match="do not belong together"):
        ensure_identity(tmp_path / "new", "box", "client", now=later)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ControlkitError, match="cannot be written"):
        ensure_identity(tmp_path / "file", "box", "client", now=now)
