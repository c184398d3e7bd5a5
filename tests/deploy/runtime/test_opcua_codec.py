"""The lean codec against asyncua's own: the same bytes out, the same values in, and never a wrong answer."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asyncua import ua
from asyncua.common.utils import Buffer
from asyncua.ua.attribute_ids import AttributeIds
from asyncua.ua.ua_binary import nodeid_to_binary, struct_from_binary, struct_to_binary
from asyncua.ua.uaerrors import BadSessionIdInvalid, BadTooManyOperations, UaError
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.runtime.opcua_codec import (
    READ,
    WRITE,
    Value,
    packed,
    read_answer,
    read_parameters,
    request,
    value_of,
    write_answer,
    write_item,
    write_parameters,
)
from deploy.runtime.opcua_exchange import decoded_read, decoded_write

NOW = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
NOW_NS = 1_767_323_045_678_901_000
IDS = [ua.NodeId("tank.level", 2), ua.NodeId(7, 3), ua.NodeId(70_000, 3), ua.NodeId("Füllstand", 2)]
KINDS = ua.VariantType
WHOLE = {
    KINDS.SByte: (-(2**7), 2**7 - 1),
    KINDS.Byte: (0, 2**8 - 1),
    KINDS.Int16: (-(2**15), 2**15 - 1),
    KINDS.UInt16: (0, 2**16 - 1),
    KINDS.Int32: (-(2**31), 2**31 - 1),
    KINDS.UInt32: (0, 2**32 - 1),
    KINDS.Int64: (-(2**63), 2**63 - 1),
    KINDS.UInt64: (0, 2**64 - 1),
}
moments = st.one_of(
    st.none(),
    st.datetimes(datetime(1601, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
)
usual_variants = st.one_of(
    *(
        st.integers(*limits).map(lambda number, kind=kind: ua.Variant(number, kind))  # type: ignore[misc]
        for kind, limits in WHOLE.items()
    ),
    st.booleans().map(lambda switch: ua.Variant(switch, KINDS.Boolean)),
    st.floats(width=32).map(lambda number: ua.Variant(number, KINDS.Float)),
    st.floats().map(lambda number: ua.Variant(number, KINDS.Double)),
    st.one_of(st.none(), st.text(max_size=20)).map(lambda text: ua.Variant(text, KINDS.String)),
    st.datetimes(datetime(1601, 1, 2), timezones=st.just(UTC)).map(lambda moment: ua.Variant(moment, KINDS.DateTime)),
    st.just(ua.Variant()),
)
strange_variants = st.one_of(
    st.lists(st.floats(), max_size=3).map(lambda many: ua.Variant(many, KINDS.Double, is_array=True)),
    st.binary(max_size=5).map(lambda data: ua.Variant(data, KINDS.ByteString)),
    st.just(ua.Variant(ua.LocalizedText("x"), KINDS.LocalizedText)),
    st.just(ua.Variant(ua.NodeId(1, 1), KINDS.NodeId)),
    st.just(ua.Variant(["a"], KINDS.String, is_array=True)),
)


def data_values(variants: st.SearchStrategy[ua.Variant]) -> st.SearchStrategy[ua.DataValue]:
    codes = st.one_of(st.none(), st.integers(0, 2**32 - 1).map(lambda code: ua.StatusCode(ua.UInt32(code))))
    return st.builds(ua.DataValue, variants, codes, moments, moments)


def answer(values: list[ua.DataValue], **header: Any) -> bytes:
    made = ua.ReadResponse()
    made.Results = values
    for name, content in header.items():
        setattr(made.ResponseHeader, name, content)
    return struct_to_binary(made)


def by_asyncua(body: bytes) -> list[Value]:
    return [value_of(value) for value in struct_from_binary(ua.ReadResponse, Buffer(body)).Results]


def shown(values: list[Value]) -> str:
    return repr(values)  # NaN is not equal to itself, and True is equal to 1


@settings(max_examples=150, deadline=None)
@given(st.lists(data_values(usual_variants), max_size=6))
def test_usual_values_are_read_as_asyncua_reads_them(values: list[ua.DataValue]) -> None:
    body = answer(values)
    found = read_answer(body, len(values))
    assert found is not None
    assert shown(found) == shown(by_asyncua(body))


@settings(max_examples=60, deadline=None)
@given(st.lists(data_values(usual_variants), max_size=3), data_values(strange_variants))
def test_other_values_are_left_to_asyncua(values: list[ua.DataValue], strange: ua.DataValue) -> None:
    body = answer([*values, strange])
    assert read_answer(body, len(values) + 1) is None
    assert shown(decoded_read(body, len(values) + 1)) == shown(by_asyncua(body))


@settings(max_examples=150, deadline=None)
@given(st.lists(data_values(usual_variants), min_size=1, max_size=4), st.randoms(use_true_random=False))
def test_spoilt_answers_are_read_as_asyncua_reads_them_or_not_at_all(
    values: list[ua.DataValue], chance: random.Random
) -> None:
    body = bytearray(answer(values))
    for _ in range(chance.randint(1, 3)):
        body[chance.randrange(len(body))] = chance.randrange(256)
    spoilt = bytes(body)
    found = read_answer(spoilt, len(values))
    if found is not None:
        assert shown(found) == shown(by_asyncua(spoilt))
    for end in (0, 3, len(spoilt) // 2, len(spoilt) - 1):
        assert read_answer(spoilt[:end], len(values)) is None


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 5))
def test_noise_is_no_answer(noise: bytes, count: int) -> None:
    assert read_answer(noise, count) is None
    assert write_answer(noise, count) is None
    head = answer([])[:-8]
    tail = read_answer(head + count.to_bytes(4, "little") + noise, count)
    assert tail is None or len(tail) == count


def test_times_are_exact_to_the_microsecond_and_none_beyond_our_reach() -> None:
    for stamp, ns in (
        (NOW, NOW_NS),
        (NOW + timedelta(microseconds=1), NOW_NS + 1000),
        (datetime(1970, 1, 1, tzinfo=UTC), 0),
        (datetime(1969, 12, 31, tzinfo=UTC), None),
        (datetime(2263, 1, 1, tzinfo=UTC), None),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), None),
    ):
        body = answer([ua.DataValue(ua.Variant(1.0), SourceTimestamp=stamp, ServerTimestamp=NOW)])
        assert read_answer(body, 1) == [Value(KINDS.Double.value, 1.0, 0, ns, NOW_NS)]


def test_an_answer_for_more_or_fewer_nodes_is_not_taken_for_one() -> None:
    body = answer([ua.DataValue(ua.Variant(1.0))] * 3)
    assert [read_answer(body, count) is None for count in (2, 3, 4)] == [True, False, True]
    assert len(decoded_read(body, 4)) == 3
    assert read_answer(body + b"\0", 3) is None


@pytest.mark.parametrize(
    "header",
    [
        {"ServiceResult": ua.StatusCode(ua.UInt32(ua.StatusCodes.BadTooManyOperations))},
        {"StringTable": ["something"]},
        {"ServiceDiagnostics": ua.DiagnosticInfo(SymbolicId=1)},
    ],
)
def test_what_the_header_says_is_not_passed_over(header: dict[str, Any]) -> None:
    body = answer([ua.DataValue(ua.Variant(1.0))], **header)
    assert read_answer(body, 1) is None
    if "ServiceResult" in header:
        with pytest.raises(BadTooManyOperations):
            decoded_read(body, 1)
    else:
        assert decoded_read(body, 1)[0].content == 1.0


@pytest.mark.parametrize("decode", [decoded_read, decoded_write])
def test_a_fault_is_raised_as_the_fault_that_it_is(decode: Any) -> None:
    fault = ua.ServiceFault()
    fault.ResponseHeader.ServiceResult = ua.StatusCode(ua.UInt32(ua.StatusCodes.BadSessionIdInvalid))
    with pytest.raises(BadSessionIdInvalid):
        decode(struct_to_binary(fault), 2)
    with pytest.raises(UaError):
        decode(struct_to_binary(ua.ServiceFault()), 2)


def header_of(message: Any) -> Any:
    message.RequestHeader.AuthenticationToken = ua.NodeId(1234)
    message.RequestHeader.Timestamp = NOW
    message.RequestHeader.RequestHandle, message.RequestHeader.TimeoutHint = 99, 5000
    return message


def made(kind: int, parameters: bytes) -> bytes:
    token = nodeid_to_binary(ua.NodeId(1234))
    return request(kind, token, parameters, wall_ns=NOW_NS, handle=99, timeout_ms=5000)


@pytest.mark.parametrize("source", [True, False])
def test_a_read_has_the_bytes_that_asyncua_gives_it(source: bool) -> None:
    expected = header_of(ua.ReadRequest())
    stamps = ua.TimestampsToReturn
    expected.Parameters.TimestampsToReturn = stamps.Source if source else stamps.Server
    expected.Parameters.NodesToRead = [ua.ReadValueId(node, AttributeIds.Value) for node in IDS]
    assert made(READ, read_parameters(IDS, source)) == struct_to_binary(expected)


def test_a_write_has_the_bytes_that_asyncua_gives_it() -> None:
    contents: list[tuple[Any, ua.VariantType]] = [
        (limit, kind) for kind, limits in WHOLE.items() for limit in limits
    ] + [(True, KINDS.Boolean), (0.1, KINDS.Double), (0.5, KINDS.Float), ("edge 1 ü", KINDS.String), ("", KINDS.String)]
    expected, items = header_of(ua.WriteRequest()), []
    for number, (content, kind) in enumerate(contents):
        node = IDS[number % len(IDS)]
        value = ua.DataValue(Value=ua.Variant(content, kind), StatusCode=None)
        expected.Parameters.NodesToWrite.append(ua.WriteValue(node, AttributeIds.Value, Value=value))
        items.append(write_item(node, kind) + packed(content, kind))
    assert made(WRITE, write_parameters(items)) == struct_to_binary(expected)


def test_the_answer_to_a_write() -> None:
    codes = [0, ua.StatusCodes.BadOutOfRange, ua.StatusCodes.GoodClamped]
    response = ua.WriteResponse()
    response.Results = [ua.StatusCode(ua.UInt32(code)) for code in codes]
    body = struct_to_binary(response)
    assert write_answer(body, 3) == decoded_write(body, 3) == codes
    assert [write_answer(body, count) for count in (2, 4)] == [None, None]
    assert decoded_write(body, 4) == codes
    assert write_answer(body[:-1], 3) is None
    response.DiagnosticInfos = [ua.DiagnosticInfo(SymbolicId=1)]
    assert write_answer(struct_to_binary(response), 3) is None
    assert decoded_write(struct_to_binary(response), 3) == codes


def test_a_null_text_is_one_and_an_array_of_texts_is_not() -> None:
    assert value_of(ua.DataValue(ua.Variant(None, KINDS.String))) == Value(KINDS.String.value)
    assert value_of(ua.DataValue(ua.Variant(["a"], KINDS.String, is_array=True))) == Value()
    assert math.isnan(value_of(ua.DataValue(ua.Variant(math.nan))).content or 0.0)
