"""The page of the shadow evaluation in a browser: sections, plots, no request, no error, wide and narrow."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from deploy.shadow import shadow_report
from tests.deploy.shadow_log import EVIL, NS, bundle, story

SECTIONS = [
    "verdict",
    "coverage",
    "commands",
    "baseline",
    "prediction",
    "drift",
    "sensors",
    "runtime",
    "next",
    "reproducibility",
]
# Coverage, trust, agreement, drift, sensors, latency, baseline, prediction, and one a command.
PLOTS = 8 + 2
BROWSER = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--allow-file-access-from-files",
    "--virtual-time-budget=10000",
    "--enable-logging=stderr",
    "--window-size=1400,1000",
]
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")


class Elements(HTMLParser):
    """Collects start tags with their attributes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report with something to show in every section, and hostile texts."""
    folder = tmp_path_factory.mktemp("shadow")
    told = story(bundle(folder / "bundle"), 1500)
    told.time_ns[700:] += 3 * 3600 * NS
    told.numbers["policy"][300:330, 0] += 2.0
    told.numbers["shortfall"] += np.linspace(0, 2, 1500)
    told.numbers["trust"][1000:1100] = 0.0
    told.numbers["ok"][1200:1250, 1] = 0
    told.mode[1450:] = ["ADVISORY"] * 50
    for i in range(1000, 1100):
        told.flags[i] = ["spread_high", "fallback_active"]
    told.faults[3] = {EVIL: EVIL}
    told.events = {
        2: [("mode", {"from": "OFF", "to": "SHADOW", "why": EVIL, "operator": EVIL, "change_record": ""})],
        4: [("alarm", {"name": EVIL, "severity": "alarm", "text": EVIL, "active": True})],
    }
    told.write(folder / "audit")
    shadow_report(folder / "audit", folder / "bundle", folder / "out")
    return folder / "out" / "shadow.html"


def test_every_section_and_plot_has_its_place(written: Path) -> None:
    page = Elements(written.read_text())
    assert [attrs["id"] for tag, attrs in page.found if tag == "section"] == SECTIONS
    links = [attrs["href"] for tag, attrs in page.found if tag == "a"]
    assert links[1:] == [f"#{name}" for name in SECTIONS]
    plots = [attrs for _, attrs in page.found if attrs.get("class") == "plot"]
    assert len(plots) == PLOTS
    assert all(plot["aria-label"] for plot in plots)
    ids = [attrs["id"] for _, attrs in page.found if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_nothing_is_fetched(written: Path) -> None:
    raw = written.read_text()
    page = Elements(raw)
    assert not [tag for tag, _ in page.found if tag in ("link", "iframe", "object", "embed", "img", "base")]
    assert all(not {"src", "srcset", "data", "action"} & set(attrs) for _, attrs in page.found)
    policy = next(attrs["content"] for _, attrs in page.found if attrs.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)
    assert "http" not in str(policy)
    assert written.stat().st_size < 6_000_000


@needs_chromium
def test_a_browser_draws_every_plot_without_an_error_or_a_request(written: Path, tmp_path: Path) -> None:
    log = tmp_path / "net.json"
    command = [*BROWSER, f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}"]
    done = subprocess.run(
        [*command, "--dump-dom", written.as_uri()], capture_output=True, text=True, timeout=120, check=True
    )
    drawn = re.search(r'data-drawn="(\d+)"', done.stdout)
    assert drawn is not None
    assert int(drawn[1]) == PLOTS
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "example.org" not in log.read_text()


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_wide_and_narrow_windows(written: Path, tmp_path: Path, width: int) -> None:
    # A frame of the width asked for: headless windows do not get as narrow as a phone.
    frame = tmp_path / "frame.html"
    shutil.copy(written, tmp_path / "shadow.html")
    frame.write_text(
        f"<iframe id='f' src='shadow.html' style='border:0;width:{width}px;height:900px'></iframe><script>"
        "document.getElementById('f').onload = e => { const d = e.target.contentDocument;"
        "document.title = 'width ' + d.documentElement.scrollWidth + ' drawn ' + d.documentElement.dataset.drawn +"
        "' thin ' + [...d.querySelectorAll('.plot')].filter(p => p.clientWidth < 300).length; }</script>"
    )
    command = [*BROWSER, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", frame.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    seen = re.search(r"<title>width (\d+) drawn (\d+) thin (\d+)</title>", done.stdout)
    assert seen, done.stderr[-500:]
    assert int(seen[1]) <= width
    assert int(seen[2]) == PLOTS
    assert int(seen[3]) == 0
