"""The server's quick way of serving Reads and Writes answers as asyncua's own does, and only what it may."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from asyncua import ua
from asyncua.client.client import Client
from asyncua.ua.attribute_ids import AttributeIds

from controlkit.background_loop import BackgroundLoop
from controlkit.spec import PlantSpec
from envs import opcua_service
from envs.opcua_address_space import PlantServer, variables_of
from envs.opcua_faults import Faults
from envs.opcua_service import NodeService

T0 = 1_700_000_000_123_456_000
CODES = ua.StatusCodes


def tank() -> PlantSpec:
    fallback = {"kind": "hold"}
    return PlantSpec.from_dict(
        {
            "name": "tank",
            "period_s": 1,
            "tags": {
                "level": {"role": "state", "unit": "m", "range": [0, 10]},
                "valve": {
                    "role": "action", "unit": "1", "range": [0, 10], "limits": [1, 9], "safe": 2, "fallback": fallback,
                },
            },
            "objective": [{"kind": "cost", "tag": "level"}],
        }
    )  # fmt: skip


class Rig:
    """A server, and what of its requests was served quickly."""

    def __init__(self) -> None:
        self.loop, self.variables = BackgroundLoop("rig"), variables_of(tank())
        self.faults = Faults(self.variables, np.random.default_rng(0))
        self.written: list[tuple[str, Any]] = []
        self.served: list[str] = []
        self.server = PlantServer(
            self.variables, None, self.faults, lambda name, value: self.written.append((name, value)), lambda: T0
        )
        self.loop.call(self.server.start("127.0.0.1", 0), 60)

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("read", "write"):
            serve = getattr(NodeService, name)

            async def noted(self_: NodeService, parameters: bytes, serve: Any = serve, name: str = name) -> Any:
                answer = await serve(self_, parameters)
                self.served += [name] if answer is not None else []
                return answer

            monkeypatch.setattr(opcua_service.NodeService, name, noted)

    def publish(self, **values: Any) -> None:
        self.loop.call(self.server.publish(values, T0), 5)

    def ask(self, work: Callable[[Client], Any]) -> Any:
        async def run() -> Any:
            async with Client(f"opc.tcp://127.0.0.1:{self.server.port}/controlkit") as client:
                self.served.clear()
                return await work(client)

        return asyncio.run(run())

    def read(self, client: Client, *names: str, attribute: int = AttributeIds.Value, **more: Any) -> Any:
        asked = ua.ReadParameters()
        asked.NodesToRead = [ua.ReadValueId(self.variables[name].node, attribute, **more) for name in names]
        return client.uaclient.read(asked)

    def write(self, client: Client, *values: tuple[str, Any], kind: Any = None, **more: Any) -> Any:
        asked = ua.WriteParameters()
        for name, value in values:
            variant = ua.Variant(value, kind or self.variables[name].kind)
            made = ua.DataValue(Value=variant, **({"StatusCode": None} | more))
            asked.NodesToWrite.append(ua.WriteValue(self.variables[name].node, AttributeIds.Value, Value=made))
        return client.uaclient.write(asked)


@pytest.fixture(scope="module")
def rig_of_all() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.loop.call(rig.server.stop(), 10)
    rig.loop.close()


@pytest.fixture
def rig(rig_of_all: Rig, monkeypatch: pytest.MonkeyPatch) -> Rig:
    rig_of_all.faults.clear()
    rig_of_all.publish(level=4.5, valve=2.0, **{"#lease": "", "#auto": True, "#heartbeat_controller": 0})
    rig_of_all.written.clear()
    rig_of_all.watch(monkeypatch)
    return rig_of_all


def test_a_read_is_answered_with_what_asyncua_answers(rig: Rig) -> None:
    async def work(client: Client) -> Any:
        names = ("level", "valve", "#auto", "#lease", "#heartbeat_plant", "level")
        quick = await rig.read(client, *names)
        assert rig.served == ["read"]
        slow = await rig.read(client, *names, DataEncoding=ua.QualifiedName("Default Binary", 0))
        assert rig.served == ["read"]
        return quick, slow

    quick, slow = rig.ask(work)
    assert quick == slow
    assert [value.Value.Value for value in quick] == [4.5, 2.0, True, "", 0, 4.5]
    assert quick[0].SourceTimestamp == slow[0].SourceTimestamp is not None


def test_a_value_that_changes_between_two_reads_is_seen(rig: Rig) -> None:
    async def work(client: Client) -> None:
        for level in (1.0, math.inf, -0.0, 5e-324):
            await asyncio.to_thread(rig.publish, level=level)
            (value,) = await rig.read(client, "level")
            assert math.copysign(1.0, value.Value.Value) == math.copysign(1.0, level)
            assert value.Value.Value == level
        await asyncio.to_thread(rig.publish, level=math.nan)
        assert math.isnan((await rig.read(client, "level"))[0].Value.Value)
        assert rig.served == ["read"] * 5

    rig.ask(work)


def test_what_is_not_plain_is_left_to_asyncua(rig: Rig) -> None:
    async def work(client: Client) -> None:
        assert (await rig.read(client, "level", attribute=AttributeIds.BrowseName))[0].Value.Value.Name == "level"
        unknown = ua.ReadParameters()
        unknown.NodesToRead = [ua.ReadValueId(ua.NodeId("nothing", 2), AttributeIds.Value)]
        assert (await client.uaclient.read(unknown))[0].StatusCode.value == CODES.BadNodeIdUnknown
        assert await client.get_node(ua.ObjectIds.Server_ServerStatus_State).read_value() == 0
        rig.faults.status("level", CODES.BadSensorFailure)
        assert (await rig.read(client, "level"))[0].StatusCode.value == CODES.BadSensorFailure
        assert rig.served == []
        rig.faults.clear()
        assert (await rig.read(client, "level"))[0].Value.Value == 4.5
        assert rig.served == ["read"]

    rig.ask(work)


def test_more_different_reads_than_are_remembered_are_all_answered(rig: Rig) -> None:
    async def work(client: Client) -> None:
        for count in [*range(1, 40), 1, 2]:
            assert [value.Value.Value for value in await rig.read(client, *["level"] * count)] == [4.5] * count
        assert rig.served == ["read"] * 41

    rig.ask(work)
    assert len(rig.server._service._plans) <= 16


def test_a_write_is_taken_and_stamped_with_the_plants_time(rig: Rig) -> None:
    values = [("valve", 3.25), ("#heartbeat_controller", -7), ("#lease", "edge ü 1"), ("#auto", False)]

    async def work(client: Client) -> Any:
        codes = await rig.write(client, *values)
        assert rig.served == ["write"]
        return [code.value for code in codes], await rig.read(client, *[name for name, _ in values])

    codes, seen = rig.ask(work)
    assert codes == [0, 0, 0, 0]
    assert rig.written == values
    assert [value.Value.Value for value in seen] == [value for _, value in values]
    assert {value.SourceTimestamp.isoformat() for value in seen} == {"2023-11-14T22:13:20.123456+00:00"}
    assert all(value.ServerTimestamp is not None for value in seen)


@pytest.mark.parametrize("stamped", [False, True])
def test_a_write_is_refused_for_the_same_reason_either_way(rig: Rig, stamped: bool) -> None:
    # A value with a status of its own goes asyncua's way.
    more = {"StatusCode": ua.StatusCode()} if stamped else {}
    rig.faults.refuse("#lease")

    async def work(client: Client) -> Any:
        wishes = [("valve", 9.5), ("valve", math.nan), ("level", 1.0), ("#lease", "x"), ("valve", 5.0)]
        codes = await rig.write(client, *wishes, **more)
        assert rig.served == ([] if stamped else ["write"])
        wrong = await rig.write(client, ("valve", 5), kind=ua.VariantType.Int32, **more)
        assert rig.served == ([] if stamped else ["write"])
        return [code.value for code in [*codes, *wrong]]

    assert rig.ask(work) == [
        CODES.BadOutOfRange,
        CODES.BadOutOfRange,
        CODES.BadUserAccessDenied,
        CODES.BadUserAccessDenied,
        CODES.Good,
        CODES.BadTypeMismatch,
    ]
    assert rig.written == [("valve", 5.0)]
    assert rig.server.value("level") == 4.5


def test_dropped_writes_are_dropped_quickly_too(rig: Rig) -> None:
    rig.faults.drop_writes(1.0)

    async def work(client: Client) -> None:
        assert (await rig.write(client, ("valve", 5.0)))[0].value == CODES.Good
        assert rig.served == ["write"]

    rig.ask(work)
    assert rig.written == []
    assert rig.server.value("valve") == 2.0


def test_nothing_is_served_before_a_session_is_activated(rig: Rig) -> None:
    async def run() -> None:
        client = Client(f"opc.tcp://127.0.0.1:{rig.server.port}/controlkit")
        await client.connect_socket()
        try:
            await client.send_hello()
            await client.open_secure_channel()
            for created in (False, True):
                if created:
                    await client.create_session()
                with pytest.raises(ua.UaError):
                    await rig.write(client, ("valve", 5.0))
                with pytest.raises(ua.UaError):
                    await rig.read(client, "valve")
        finally:
            client.disconnect_socket()

    rig.served.clear()
    asyncio.run(run())
    assert (rig.served, rig.written) == ([], [])


def test_bytes_that_are_no_request_are_not_served() -> None:
    class Nothing:
        def plain(self) -> bool:
            raise AssertionError

        held = take = answering = plain

    service = NodeService(variables_of(tank()), Nothing())  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    node = tank().name.encode()
    for size in [0, 1, 3, 4, 8, 40, 200]:
        for _ in range(50):
            noise = rng.bytes(size)
            for data in (noise, b"\1\0\0\0" + noise, b"\1\0\0\0\3\2\0\xff\xff\xff\x7f" + node + noise):
                assert asyncio.run(service.read(data)) is None
                assert asyncio.run(service.write(data)) is None
