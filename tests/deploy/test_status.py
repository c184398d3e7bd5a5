"""What the board keeps, what the metrics say, and how the server treats whoever connects."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import math
import re
import socket
import threading
import time
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from controlkit.errors import ControlkitError
from deploy.runtime.metrics import EDGES_S, metrics_text
from deploy.runtime.snapshot import MODES, Snapshot
from deploy.runtime.status import StatusBoard, status_record
from deploy.runtime.status_server import StatusServer
from tests.deploy.status_plant import HOSTILE, NS, FakeClock, snapshot

TRENDED = ("trust", "score_observed", "score_predicted", "shortfall", "ewma", "cusum")


def no_number(text: str) -> float:
    raise AssertionError(f"{text} is no JSON")


def values_of(record: Snapshot) -> dict[tuple[str, str], float | None]:
    """Every trended number of a record."""
    out: dict[tuple[str, str], float | None] = {("value", tag.name): tag.value for tag in record.tags}
    for command in record.commands:
        out["in_force", command.name], out["action", command.name] = command.in_force, command.action
    return out | {(name, ""): getattr(record, name) for name in TRENDED}


def slow_trend(published: list[tuple[float, Snapshot]], began: float, width: float) -> list[list[Any]]:
    """The trend once more, obviously: every record is kept and sorted into its bucket."""
    buckets: dict[int, list[Snapshot]] = {}
    for moment, record in published:
        buckets.setdefault(int((moment - began) / width), []).append(record)
    rows = []
    for index, records in sorted(buckets.items()):
        lowest = min((record.mode for record in records), key=MODES.index)
        row: list[Any] = [index, records[-1].time_ns // 1_000_000, lowest, len(records)]
        for key in values_of(records[0]):
            seen = [values_of(record)[key] for record in records]
            fine = [value for value in seen if value is not None and math.isfinite(value)]
            row += [min(fine), sum(fine) / len(fine), max(fine)] if fine else [None, None, None]
        rows.append(row)
    return rows


def assert_same(found: list[list[Any]], expected: list[list[Any]]) -> None:
    assert [row[:4] for row in found] == [row[:4] for row in expected]
    for one, other in zip(found, expected, strict=True):
        assert [value is None for value in one] == [value is None for value in other]
        numbers = [(a, b) for a, b in zip(one[4:], other[4:], strict=True) if a is not None]
        assert [a for a, _ in numbers] == pytest.approx([b for _, b in numbers], rel=1e-6, abs=1e-12)


def test_trend_is_what_an_obvious_version_gives() -> None:
    clock, generator = FakeClock(), np.random.default_rng(0)
    board = StatusBoard(trend_s=600.0, points=60, clock=clock)
    published = []
    for cycle in range(700):
        record = snapshot(cycle, time_ns=1_700_000_000 * NS + round((clock.now - 1000.0) * NS))
        tags = list(record.tags)
        tags[0] = replace(tags[0], value=None if cycle % 3 else float("nan"))
        tags[1] = replace(tags[1], value=float("inf") if cycle == 5 else float(generator.normal()))
        tags[2] = replace(tags[2], value=float(generator.normal()) if cycle % 40 else None)
        mode = MODES[int(generator.integers(4))] if cycle % 50 == 7 else "ARMED"
        record = replace(record, tags=tuple(tags), mode=mode, ewma=None if cycle > 300 else 0.1)
        board.publish(record)
        published.append((clock.now, record))
        clock.now += float(generator.uniform(0.0, 1.5)) if cycle != 400 else 47.0  # a hole of several buckets
    assert published[-1][0] < 1600.0
    trend = board.trend()
    assert [tuple(pair) for pair in trend["series"]] == list(values_of(snapshot()))
    assert (trend["trend_s"], trend["width_s"]) == (600.0, 10.0)
    assert trend["now"] == pytest.approx((clock.now - 1000.0) / 10.0)
    assert_same(trend["rows"], slow_trend(published, 1000.0, 10.0))
    numbers = [row[0] for row in trend["rows"]]
    assert any(later - earlier > 3 for earlier, later in itertools.pairwise(numbers))
    assert [row[0] for row in board.trend(since=30)["rows"]] == [number for number in numbers if number >= 30]


def test_buckets_that_are_too_old_are_gone() -> None:
    clock = FakeClock()
    board = StatusBoard(trend_s=60.0, points=6, clock=clock)
    for cycle in range(200):
        board.publish(snapshot(cycle))
        clock.now += 1.0
    assert [row[0] for row in board.trend()["rows"]] == [15, 16, 17, 18, 19]
    clock.now += 25.0  # the runtime hangs: what is shown ages all the same
    assert [row[0] for row in board.trend()["rows"]] == [17, 18, 19]


@pytest.mark.parametrize("jump_s", [3600, -3600])
def test_a_wall_clock_that_jumps_loses_and_doubles_nothing(jump_s: int) -> None:
    clock = FakeClock()
    board = StatusBoard(trend_s=600.0, points=60, clock=clock)
    for cycle in range(300):
        wall = 1_700_000_000 * NS + cycle * NS + (jump_s * NS if cycle >= 155 else 0)
        board.publish(snapshot(cycle, time_ns=wall))
        clock.now += 1.0
    rows = board.trend()["rows"]
    assert [row[0] for row in rows] == list(range(30))
    assert [row[3] for row in rows] == [10] * 30
    assert rows[15][1] - rows[14][1] == (10 + jump_s) * 1000


def test_a_monotonic_clock_that_stands_or_steps_back_adds_to_the_same_bucket() -> None:
    clock = FakeClock()
    board = StatusBoard(trend_s=60.0, points=6, clock=clock)
    for now in (1000.0, 1015.0, 1009.0, 1015.0):
        clock.now = now
        board.publish(snapshot())
    assert [(row[0], row[3]) for row in board.trend()["rows"]] == [(0, 1), (1, 3)]


def test_other_tags_start_the_trend_anew() -> None:
    board = StatusBoard(clock=FakeClock())
    board.publish(snapshot(1))
    board.publish(replace(snapshot(2), tags=snapshot(2).tags[:3]))
    trend = board.trend()
    assert len(trend["rows"]) == 1
    assert trend["rows"][0][3] == 1
    assert len(trend["rows"][0]) == 4 + 3 * len(trend["series"])


def test_numbers_at_the_end_of_double_precision_have_a_mean() -> None:
    board = StatusBoard(clock=FakeClock())
    for value in (1.7e308, -1.7e308, 1.7e308, 1.7e308):
        first = replace(snapshot().tags[0], value=value)
        board.publish(replace(snapshot(), tags=(first,)))
    low, mean, high = board.trend()["rows"][0][4:7]
    assert (low, high) == (-1.7e308, 1.7e308)
    assert mean == pytest.approx(0.85e308, rel=1e-6)


def test_memory_stays_flat_whatever_the_rate() -> None:
    clock = FakeClock()
    board = StatusBoard(trend_s=4.0, points=20, clock=clock)
    record = snapshot()

    def feed(cycles: int) -> tuple[int, int]:
        for _ in range(cycles):
            board.publish(record)
            clock.now += 0.01
        return tracemalloc.get_traced_memory()[0], len(board.trend_json())

    tracemalloc.start()
    try:
        feed(500)  # more than the trend holds
        before, size = feed(10)
        after, size_later = feed(1500)
    finally:
        tracemalloc.stop()
    assert after - before < 20_000
    assert abs(size_later - size) < 1000
    assert len(board.trend()["rows"]) <= 20


def test_readers_and_the_loop_do_not_disturb_each_other() -> None:
    board = StatusBoard(trend_s=1.0, points=100)
    stop, failed = threading.Event(), []

    def look() -> None:
        while not stop.is_set():
            try:
                rows = board.trend()["rows"]
                assert [row[0] for row in rows] == sorted({row[0] for row in rows})
                metrics_text(board.read())
            except Exception as problem:  # noqa: BLE001 (told by the test below)
                failed.append(problem)

    readers = [threading.Thread(target=look) for _ in range(3)]
    for reader in readers:
        reader.start()
    for cycle in range(500):
        board.publish(snapshot(cycle))
    stop.set()
    for reader in readers:
        reader.join()
    assert failed == []
    assert board.latest() == snapshot(499)
    assert sum(board.read().cycle.counts) == 500


@pytest.mark.parametrize(("trend_s", "points"), [(0.0, 10), (-1.0, 10), (math.nan, 10), (60.0, 0), (60.0, 10**6)])
def test_a_trend_that_is_none_is_refused(trend_s: float, points: int) -> None:
    with pytest.raises(ControlkitError, match="are no trend"):
        StatusBoard(trend_s, points)


def broken(record: Snapshot) -> Snapshot:
    """Numbers that are none, and names made to break out of every format."""
    nasty = 'a"b\\c\nd} 1\n# TYPE x counter'
    tags = tuple(replace(tag, value=math.nan, age_s=math.inf, name=nasty + tag.name, unit=nasty) for tag in record.tags)
    return replace(
        record,
        plant=nasty,
        tags=tags,
        trust=math.nan,
        ewma=math.inf,
        limits={nasty: math.inf, "cusum": 4.0},
        flags={nasty: nasty, "\ud800": "half a character"},
        counters={"late-cycles": 3, "late.cycles": 4, "writes_total": 5, nasty: 6},
        cycle_ms=math.nan,
    )


def test_the_record_for_the_page_is_plain_json() -> None:
    board = StatusBoard(clock=FakeClock())
    assert status_record(board.read())["snapshot"] is None
    board.publish(broken(snapshot(4)))
    text = json.dumps(status_record(board.read()))
    plain = json.loads(text, parse_constant=no_number)
    shown = plain["snapshot"]
    assert (shown["trust"], shown["tags"][0]["value"], shown["tags"][0]["age_s"]) == (None, None, None)
    assert shown["time_ms"] == 1_700_000_000_000
    assert shown["slots"]["A"].endswith("(active)")
    assert plain["stale_after_s"] == 5.0
    json.loads(board.trend_json(), parse_constant=no_number)


def test_active_notices_come_first_and_are_never_cut_off() -> None:
    record = snapshot()
    ended = replace(record.notices[1], active=False)
    many = tuple(replace(ended, time_ns=n * NS) for n in range(500))
    board = StatusBoard(clock=FakeClock())
    board.publish(replace(record, notices=(*many, record.notices[0])))
    shown = status_record(board.read())["snapshot"]["notices"]
    assert len(shown) == 200
    assert shown[0]["name"] == "tag_stale"
    assert shown[1]["time_ms"] == 499_000


NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
SAMPLE = re.compile(rf"({NAME})(?:\{{({LABEL}(?:,{LABEL})*)\}})? (\S+)")


def parse(text: str) -> dict[str, dict[str, float]]:
    """Prometheus' text format, strictly: family -> labels as written -> value."""
    assert text.endswith("\n")
    kinds: dict[str, str] = {}
    families: dict[str, dict[str, float]] = {}
    family = ""
    lines = text.removesuffix("\n").split("\n")
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            family = line.split(" ")[2]
            assert re.fullmatch(NAME, family)
            assert family not in kinds, "a family comes once"
            assert lines[number + 1].startswith(f"# TYPE {family} ")
            continue
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            assert name == family
            assert kind in ("gauge", "counter", "histogram")
            assert (kind == "counter") == name.endswith("_total")
            kinds[name] = kind
            continue
        found = SAMPLE.fullmatch(line)
        assert found, line
        name, labels, value = found[1], found[2] or "", float(found[3])
        ends = ("_bucket", "_sum", "_count") if kinds[family] == "histogram" else ("",)
        assert name in [family + end for end in ends], "samples follow their family"
        samples = families.setdefault(name, {})
        assert labels not in samples, "a sample comes once"
        samples[labels] = value
    return families


def test_metrics_say_what_the_record_says() -> None:
    clock = FakeClock()
    board = StatusBoard(clock=clock)
    assert parse(metrics_text(board.read())) == {"controlkit_up": {"": 0.0}}
    board.publish(replace(snapshot(6), cycle_ms=17.0, compute_ms=0.4, tags=snapshot(6).tags[3:]))
    clock.now += 2.0
    board.publish(replace(snapshot(7), cycle_ms=80_000.0, compute_ms=0.5, wanted="SHADOW"))
    clock.now += 1.5
    found = parse(metrics_text(board.read()))
    record = snapshot(7)
    assert found["controlkit_up"] == {"": 1.0}
    assert found["controlkit_info"] == {'plant="column-7",controller="3f9a0c41d7be"': 1.0}
    assert found["controlkit_mode"] == {f'mode="{mode}"': float(mode == "ARMED") for mode in MODES}
    assert found["controlkit_wanted_mode"] == {f'mode="{mode}"': float(mode == "SHADOW") for mode in MODES}
    assert found["controlkit_cycle_age_seconds"] == {"": 1.5}
    assert found["controlkit_tag_value"]['tag="sump_level",unit="%"'] == record.tags[2].value
    assert found["controlkit_tag_usable"] == {f'tag="{tag.name}"': float(tag.usable) for tag in record.tags}
    assert found["controlkit_command_policy"]['command="reflux_flow",unit="m³/h"'] == record.commands[0].policy
    assert found["controlkit_trust_ratio"] == {"": record.trust}
    assert found["controlkit_limit"]['name="cusum"'] == 14.0
    assert found["controlkit_flag_raised"] == {'flag="input_bad_age"': 1.0}
    assert found["controlkit_fault_raised"] == {'fault="tag_stale"': 1.0}
    assert found["controlkit_notice_active"] == {'severity="alarm",name="tag_stale"': 1.0}
    assert found["controlkit_notices_active"]['severity="warning"'] == 0.0
    assert found["controlkit_late_total"] == {"": 2.0}
    assert found["controlkit_cycle_seconds_count"] == {"": 2.0}
    assert found["controlkit_cycle_seconds_sum"][""] == pytest.approx(80.017)
    buckets = found["controlkit_cycle_seconds_bucket"]
    assert list(buckets) == [*(f'le="{edge!r}"' for edge in EDGES_S), 'le="+Inf"']
    assert list(buckets.values()) == [float(edge >= 0.017) for edge in EDGES_S] + [2.0]
    # An edge belongs to the interval that ends there.
    assert found["controlkit_compute_seconds_bucket"]['le="0.0005"'] == 2.0
    clock.now += 4.0
    assert parse(metrics_text(board.read()))["controlkit_up"] == {"": 0.0}


def test_metrics_survive_hostile_names_and_numbers_that_are_none() -> None:
    board = StatusBoard(clock=FakeClock())
    board.publish(broken(snapshot()))
    found = parse(metrics_text(board.read()))
    assert "controlkit_trust_ratio" not in found
    assert "controlkit_tag_value" not in found
    assert found["controlkit_limit"] == {'name="cusum"': 4.0}
    assert found["controlkit_late_cycles_total"] == {"": 7.0}
    assert found["controlkit_writes_total"] == {"": 5.0}
    (flag, _) = found["controlkit_flag_raised"]
    assert flag == r'flag="a\"b\\c\nd} 1\n# TYPE x counter"'
    assert found["controlkit_cycle_seconds_count"] == {"": 0.0}


# ------------------------------------------------------------------------------------------------------- the server


@pytest.fixture(scope="module")
def served() -> Iterator[StatusServer]:
    board = StatusBoard()
    board.publish(broken(replace(snapshot(5), operator=HOSTILE)))
    with StatusServer(board, timeout_s=0.5, max_requests=4) as server:
        yield server


def port_of(server: StatusServer) -> int:
    return int(server.address.rsplit(":", 1)[1].strip("/"))


def ask(server: StatusServer, path: str, method: str = "GET", **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port_of(server), timeout=10)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    out = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    connection.close()
    return out


def send(server: StatusServer, raw: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port_of(server)), timeout=10) as client:
        client.sendall(raw)
        out = b""
        while more := client.recv(65536):
            out += more
    return out


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "text/html; charset=utf-8"),
        ("/status.css", "text/css; charset=utf-8"),
        ("/status.js", "text/javascript; charset=utf-8"),
        ("/plots.js", "text/javascript; charset=utf-8"),
        ("/icon.svg", "image/svg+xml"),
        ("/status.json", "application/json"),
        ("/trend.json?since=0", "application/json"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
        ("/healthz", "text/plain; charset=utf-8"),
    ],
)
def test_routes_and_their_headers(served: StatusServer, path: str, kind: str) -> None:
    status, headers, body = ask(served, path)
    assert (status, headers["content-type"]) == (200, kind)
    assert int(headers["content-length"]) == len(body) > 0
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers
    policy = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == policy["script-src"] == policy["style-src"] == "'self'"
    head_status, head_headers, nothing = ask(served, path, "HEAD")
    assert (head_status, head_headers["content-type"], nothing) == (200, kind, b"")
    assert int(head_headers["content-length"]) > 0


def test_json_over_the_wire_has_no_nan(served: StatusServer) -> None:
    for path in ("/status.json", "/trend.json"):
        json.loads(ask(served, path)[2], parse_constant=no_number)
    parse(ask(served, "/metrics")[2].decode())


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "CONNECT", "BREW"])
def test_other_methods_are_refused(served: StatusServer, method: str) -> None:
    status, headers, _ = ask(served, "/status.json", method)
    assert (status, headers["allow"]) == (405, "GET, HEAD")


def test_a_body_does_not_take_the_answer_away(served: StatusServer) -> None:
    request = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000
    assert send(served, request).startswith(b"HTTP/1.1 405 ")


@pytest.mark.parametrize(
    "path", ["/status", "/status.jso", "/../status.html", "/page/status.html", "//", "/%2e%2e/x", "/favicon.ico"]
)
def test_unknown_paths(served: StatusServer, path: str) -> None:
    assert ask(served, path)[0] == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:1", "LOCALHOST", "[::1]:8080", "127.0.0.1:65000"])
def test_names_of_this_machine(served: StatusServer, host: str) -> None:
    assert ask(served, "/healthz", Host=host)[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "127.0.0.1.nip.io", "10.0.0.1", "localhost:x", "", "a@localhost"]
)
def test_other_names_are_refused(served: StatusServer, host: str) -> None:
    assert ask(served, "/status.json", Host=host)[0] == 421


HOST = b"Host: localhost\r\n"


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n" + HOST + b"Host: evil.example\r\n\r\n", 400),
        (b"GET /\r\n" + HOST + b"\r\n", 400),
        (b"GET / HTTP/2.0\r\n" + HOST + b"\r\n", 400),
        (b"GET http://evil.example/ HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"get / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"GET /a\x00b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
        (b"\xff\xfe\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00 a TLS client \r\n\r\n", 400),
        (b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
        (b"GET /" + b"a" * 100_000, 414),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: " + b"a" * 100_000, 431),
        (b"GET / HTTP/1.1\r\n" + HOST + b"X: y\r\n" * 20_000 + b"\r\n", 431),
    ],
)
def test_malformed_and_overlong_requests(
    served: StatusServer, raw: bytes, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert send(served, raw).startswith(b"HTTP/1.1 %d " % status)
    assert ask(served, "/healthz")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_a_slow_client_is_sent_away_and_holds_nobody_up(served: StatusServer) -> None:
    began = time.monotonic()
    with socket.create_connection(("127.0.0.1", port_of(served)), timeout=10) as slow:
        slow.sendall(b"GET / HT")
        assert ask(served, "/healthz")[0] == 200
        answer = b""
        while not answer and time.monotonic() - began < 5.0:
            try:
                slow.sendall(b"x")  # a byte now and then does not buy time
            except OSError:
                break
            slow.settimeout(0.1)
            try:
                answer = slow.recv(4096)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - began < 3.0


def test_a_client_that_does_not_read_is_dropped() -> None:
    board = StatusBoard()
    board.publish(replace(snapshot(), why="x" * 12_000_000))  # more than the buffers on its way hold
    with StatusServer(board, timeout_s=1.0, max_requests=1) as server, socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", port_of(server)))
        deaf.sendall(b"GET /status.json HTTP/1.1\r\n" + HOST + b"\r\n")
        seen: list[int] = []
        until = time.monotonic() + 10.0
        while 200 not in seen and time.monotonic() < until:
            # Who is turned away may find the connection closed before it has sent all of its request.
            with contextlib.suppress(ConnectionError):
                seen.append(ask(server, "/healthz")[0])
            time.sleep(0.02)
    assert seen[0] == 503
    assert seen[-1] == 200


def test_no_more_than_a_few_at_a_time(served: StatusServer) -> None:
    before = threading.active_count()
    waiting = [socket.create_connection(("127.0.0.1", port_of(served)), timeout=10) for _ in range(40)]
    answers = []
    for client in waiting[4:]:
        answers.append(client.recv(4096))
    assert threading.active_count() - before <= 4
    assert all(answer.startswith(b"HTTP/1.1 503 ") and b"Retry-After: 1" in answer for answer in answers)
    for client in waiting:
        client.close()
    until = time.monotonic() + 5.0
    while threading.active_count() > before and time.monotonic() < until:
        time.sleep(0.02)
    assert ask(served, "/healthz")[0] == 200


def test_a_crash_in_a_handler_ends_with_the_request(capfd: pytest.CaptureFixture[str]) -> None:
    class Crashing(StatusBoard):
        def trend_json(self, since: int = 0) -> str:
            raise RuntimeError("the secret inner life")

    board = Crashing()
    board.publish(snapshot())
    with StatusServer(board) as server:
        for _ in range(40):
            status, headers, body = ask(server, "/trend.json")
            assert (status, body) == (500, b"Internal Server Error\n")
            assert "content-security-policy" in headers
        assert ask(server, "/status.json")[0] == 200
    assert capfd.readouterr() == ("", "")


def test_health() -> None:
    clock = FakeClock()
    board = StatusBoard(clock=clock)
    with StatusServer(board) as server:
        assert ask(server, "/healthz")[0] == 503
        board.publish(snapshot(period_s=10.0))
        clock.now += 30.0
        assert ask(server, "/healthz")[0] == 200
        clock.now += 0.1
        assert ask(server, "/healthz")[::2] == (503, b"the newest cycle is 30 s old\n")


def test_a_busy_port_is_told_with_a_cure(served: StatusServer) -> None:
    with pytest.raises(ControlkitError, match=rf"port {port_of(served)} cannot be used .*another port"):
        StatusServer(StatusBoard(), port=port_of(served))


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_is_none_is_refused(port: int) -> None:
    with pytest.raises(ControlkitError, match="is no port"):
        StatusServer(StatusBoard(), port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.5", "example.com"])
def test_it_is_served_on_this_machine_only(host: str) -> None:
    with pytest.raises(ControlkitError, match="only on this machine"):
        StatusServer(StatusBoard(), host=host)


def test_closing_frees_the_port_and_may_be_repeated() -> None:
    server = StatusServer(StatusBoard())
    port = port_of(server)
    assert server.address == f"http://127.0.0.1:{port}/"
    server.start()
    server.start()
    assert ask(server, "/")[0] == 200
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        ask(server, "/")
    again = StatusServer(StatusBoard(), port=port)
    again.close()
