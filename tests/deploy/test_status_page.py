"""The status page in a real browser: what an operator sees, what a hostile name cannot do, what silence looks like."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.runtime.snapshot import Snapshot
from deploy.runtime.status import Reading, StatusBoard
from deploy.runtime.status_server import StatusServer
from tests.deploy.status_plant import HOSTILE, FakeClock, board_after_an_hour, snapshot

pytestmark = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")

SECTIONS = ("alarms", "values", "commands", "scores", "flags", "trend", "counters", "about")


def browse(url: str, folder: Path, budget_ms: int = 4000) -> tuple[str, list[str]]:
    """The document after that much of the browser's own time, and what it wrote to its console."""
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [f"--virtual-time-budget={budget_ms}", "--enable-logging=stderr", "--window-size=1280,1000"]
    command += [f"--user-data-dir={folder / 'profile'}", "--dump-dom", url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def part(document: str, name: str) -> str:
    """The text of the element of that id and of what follows in it up to the next id, without tags."""
    found = re.search(rf'id="{name}"[^>]*>(.*?)(?=<[a-z0-9]+[^>]* id="|</body>)', document, re.DOTALL)
    assert found, name
    return html.unescape(re.sub(r"<[^>]+>", " ", found[1]))


@contextmanager
def framed(server: StatusServer, script: str) -> Iterator[str]:
    """A page that shows the served one in a frame 390 wide and runs a script when it has loaded.

    Headless windows do not get as narrow as a phone, and the page refuses to be framed: it is passed on without that.
    """
    frame = "<iframe id=f src=/ style='border:0;width:390px;height:900px'></iframe>"
    page = f"<title>?</title>{frame}<script>{script}</script>"

    class Passing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content, kind, policy = 200, page.encode(), "text/html", ""
            if self.path != "/frame":
                try:
                    with urllib.request.urlopen(server.address + self.path[1:]) as answer:
                        content, kind = answer.read(), answer.headers["Content-Type"]
                        policy = answer.headers["Content-Security-Policy"].replace(
                            "ancestors 'none'", "ancestors 'self'"
                        )
                except urllib.error.HTTPError:
                    status, content = 404, b""
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if policy:
                self.send_header("Content-Security-Policy", policy)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    passing = ThreadingHTTPServer(("127.0.0.1", 0), Passing)
    thread = threading.Thread(target=passing.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{passing.server_port}/frame"
    passing.shutdown()
    thread.join()
    passing.server_close()


@pytest.fixture(scope="module")
def armed() -> StatusBoard:
    return board_after_an_hour(time.time_ns())


@pytest.fixture(scope="module")
def seen(armed: StatusBoard, tmp_path_factory: pytest.TempPathFactory) -> str:
    with StatusServer(armed) as server:
        document, console = browse(server.address, tmp_path_factory.mktemp("browser"))
    assert console == []
    return document


def test_every_section_is_filled(seen: str) -> None:
    for name in SECTIONS:
        assert f'<section id="{name}"' in seen
    assert part(seen, "badge-word").strip() == "ARMED"
    assert 'data-mode="ARMED"' in seen
    assert re.search(r'<svg id="badge-shape"[^>]*><path', seen)
    assert "column-7" in part(seen, "plant")
    assert "in this mode since" in part(seen, "since")
    assert "3f9a0c41d7be" in part(seen, "since")
    assert re.search(r"data \d\.\d s old", part(seen, "fresh-word"))
    assert "no new value for longer than 600 s" in part(seen, "notices-active")
    assert "ALARM" in part(seen, "notices-active")
    assert "2 events" in part(seen, "past-summary")
    assert part(seen, "values-rows").count("✓ usable") == 5
    assert "✕ NOT USED" in part(seen, "values-rows")
    assert "m³/h" in part(seen, "commands-rows")
    assert "is written to the plant" in part(seen, "commands-note")
    assert part(seen, "scores-rows").count("✓ within") == 5
    assert "its age is no age" in part(seen, "flags-list")
    assert "% of the period" in part(seen, "latency-list")
    assert "reconnects" in part(seen, "counters-list")
    assert all(word in part(seen, "about-list") for word in ("MOC-2231", "m.keller", "ready for rollback", "edge-2"))
    assert "<title>(1) ARMED · column-7</title>" in seen
    assert re.search(r'id="stale"[^>]* hidden', seen)
    assert re.search(r'id="wait"[^>]* hidden', seen)


def test_plots_are_drawn_with_units_ticks_and_bands(seen: str) -> None:
    figures = re.findall(r"<figure>.*?</figure>", seen, re.DOTALL)
    assert len(figures) == 6 + 2 + 6  # tags, commands, mode, trust, rewards, three sums
    captions = [html.unescape(re.sub(r"<[^>]+>", " ", figure)) for figure in figures]
    assert "top_temperature, degC" in captions[0]
    for figure in figures:
        means = re.findall(r'<path class="mean \w+" d="([^"]*)"', figure)
        assert means
        assert all(len(re.findall(r"[MLHV]", path)) > (2 if "mode" in figure else 600) for path in means)
        assert "now</text>" in figure
        assert "−20 min</text>" in figure
        assert "NaN" not in figure
        assert "Infinity" not in figure
    # The tags are noisy within a bucket: the band has an area.
    band = re.search(r'<path class="band one" d="M([\d.]+) ([\d.]+)L.*L[\d.]+ ([\d.]+)Z"', figures[2])
    assert band
    assert float(band[2]) > float(band[3])
    assert "limit 14" in figures[-1]


def test_it_has_no_controls_and_inlines_nothing(seen: str) -> None:
    assert not re.search(r"<(button|input|select|form|textarea)\b", seen)
    assert "<style" not in seen
    assert not re.search(r" on[a-z]+=", seen)
    assert re.findall(r"<script[^>]*>", seen) == ['<script type="module" src="/status.js">']


def hostile(record: Snapshot) -> Snapshot:
    """Every text that comes from outside tries to become an element."""
    return replace(
        record,
        plant=HOSTILE,
        controller=HOSTILE,
        wanted="ARMED",
        mode="SHADOW",
        why=HOSTILE,
        tags=tuple(replace(tag, name=HOSTILE + tag.name, unit=HOSTILE, description=HOSTILE) for tag in record.tags),
        commands=tuple(replace(one, name=HOSTILE + one.name, unit=HOSTILE) for one in record.commands),
        flags={HOSTILE: HOSTILE},
        faults={"__proto__": HOSTILE, HOSTILE: HOSTILE},
        limits={**record.limits, HOSTILE: 1.0},
        notices=tuple(replace(notice, name=HOSTILE, text=HOSTILE) for notice in record.notices),
        counters={HOSTILE: 1, "</script><script>alert(1)</script>": 2},
        calibration=HOSTILE,
        lease=HOSTILE,
        slots={HOSTILE: HOSTILE},
        change_record=HOSTILE,
        operator=HOSTILE,
    )


def test_hostile_names_are_shown_as_text(tmp_path: Path) -> None:
    board = StatusBoard()
    board.publish(hostile(snapshot(3, time_ns=time.time_ns())))
    with StatusServer(board) as server:
        document, console = browse(server.address, tmp_path)
    assert console == []
    assert "<img" not in document
    assert document.count("<script") == 1
    marked = document.replace(html.escape(HOSTILE, quote=False), "\0")
    for name in ("plant", "since", "wait", "notices-active", "values-rows", "commands-rows", "scores-rows"):
        assert "\0" in part(marked, name), name
    for name in ("flags-list", "plots", "counters-list", "about-list"):
        assert "\0" in part(marked, name), name
    assert part(document, "badge-word").strip() == "SHADOW"
    assert "NOT written to the plant" in part(document, "commands-note")


class Counting(StatusBoard):
    """Counts how often it is read, and calls something at one of these times. Its time stands still."""

    def __init__(self, at: int = 0, then: Callable[[], None] = lambda: None, clock: FakeClock | None = None) -> None:
        super().__init__(clock=clock or FakeClock())
        self.reads = 0
        self._at, self._then = at, then

    def read(self) -> Reading:
        self.reads += 1
        if self.reads == self._at:
            self._then()
        return super().read()


def test_it_says_stale_after_the_server_stops(tmp_path: Path) -> None:
    board = Counting(3, lambda: threading.Thread(target=server.close).start())
    board.publish(snapshot(9, time_ns=time.time_ns()))
    server = StatusServer(board)
    server.start()
    document, _ = browse(server.address, tmp_path, budget_ms=20_000)
    assert part(document, "stale").startswith("STALE: the runtime does not answer.")
    assert not re.search(r'id="stale"[^>]* hidden', document)
    assert "STALE: data" in part(document, "fresh-word")
    assert "<title>STALE · column-7</title>" in document
    assert 'class="old"' in document
    assert "column-7" in part(document, "plant")


def test_it_says_stale_where_only_the_loop_hangs_and_asks_once_a_second(tmp_path: Path) -> None:
    clock = FakeClock()
    board = Counting(clock=clock)
    board.publish(snapshot(9, time_ns=time.time_ns()))
    clock.now += 60.2
    with StatusServer(board) as server:
        document, console = browse(server.address, tmp_path, budget_ms=8000)
    assert console == []
    assert re.search(r"has finished no cycle for 6\d s", part(document, "stale"))
    assert 'class="old"' in document
    assert 3 <= board.reads <= 9


def test_it_goes_on_after_a_restart_on_the_same_port(tmp_path: Path) -> None:
    second = board_after_an_hour(time.time_ns(), seconds=300)
    servers: list[StatusServer] = []

    def restart() -> None:
        servers[0].close()
        servers.append(StatusServer(second, port=int(servers[0].address.split(":")[2].strip("/"))))
        servers[1].start()

    first = Counting(4, lambda: threading.Thread(target=restart).start())
    first.publish(replace(snapshot(9, time_ns=time.time_ns()), plant="before"))
    servers.append(StatusServer(first))
    servers[0].start()
    document, _ = browse(servers[0].address, tmp_path, budget_ms=20_000)
    servers[1].close()
    assert "column-7" in part(document, "plant")
    assert 'class="old"' not in document
    assert re.search(r'id="plots" data-rows="6[01]"', document)


def test_before_the_first_cycle(tmp_path: Path) -> None:
    with StatusServer(StatusBoard()) as server:
        document, console = browse(server.address, tmp_path)
    assert console == []
    assert "Waiting for the runtime" in part(document, "plant")
    assert "no data yet" in part(document, "fresh-word")


def test_a_narrow_screen_shows_it_whole_and_a_keyboard_reads_values(armed: StatusBoard, tmp_path: Path) -> None:
    script = """setTimeout(() => {
      const d = document.getElementById("f").contentDocument, plots = [...d.querySelectorAll("svg.plot")];
      const press = (key) => plots[0].dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
      const read = () => d.getElementById("cursor-time").textContent;
      plots[0].focus();
      press("Home");
      const first = read();
      press("PageDown");
      const small = plots.filter((plot) => plot.clientWidth < 250).length, focused = d.activeElement === plots[0];
      document.title = `${d.documentElement.scrollWidth} wide, ${small} small, ${focused}, ${first} | ${read()}`;
    }, 3000);"""
    with StatusServer(armed) as server, framed(server, script) as url:
        document, _ = browse(url, tmp_path, budget_ms=6000)
    title = re.search(r"<title>(.*?)</title>", document)
    assert title
    expected = r"(\d+) wide, 0 small, true, ([\d:]+) · mode SHADOW · \d cycles \| ([\d:]+) · mode SHADOW · 5 cycles"
    found = re.fullmatch(expected, title[1])
    assert found, title[1]
    assert int(found[1]) <= 390
    assert found[2] != found[3]
