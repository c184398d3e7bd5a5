"""The data-quality report: its sums, its advice, what it stores, and its page in a browser."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from controlkit.align import AlignedLog
from controlkit.dataset import TransitionDataset
from controlkit.errors import ArtifactError
from controlkit.ingest.assess import TagAssessment
from controlkit.ingest.episodes import Gap, Rules
from controlkit.ingest.flags import Flagged
from controlkit.ingest.grid import Kept
from controlkit.ingest.quality_report import QualityReport, summarise
from controlkit.ingest.quality_report.drawing import buckets
from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.sample_rules import Account
from controlkit.ingest.sources.staged import StagedSource
from controlkit.ingest.statistics import LogStatistics
from controlkit.spec import PlantSpec

NS = 1_000_000_000
START = 1_704_067_200 * NS
PERIOD = 60
DEAD = 4


def source(log: AlignedLog, samples: int, ignored: int = 0, codes: tuple[str, ...] = ()) -> StagedSource:
    ends = int(log.time_ns[0]), int(log.time_ns[-1])
    return StagedSource("log <1>.csv", "/plant/log <1>.csv", "ab" * 32, "long", samples, samples, ignored, *ends, codes)


def plant(more: int = 0, **valve: object) -> PlantSpec:
    tags = {
        "temperature": {"role": "state", "unit": "degC", "range": [0, 120], "history": 2},
        "level": {"role": "state", "unit": "%", "range": [0, 100]},
        "feed": {"role": "exogenous", "unit": "t/h", "range": [0, 50]},
        "valve": {
            "role": "action", "unit": "%", "range": [0, 100], "safe": 0, "fallback": {"kind": "hold"}, "history": 6,
            **valve,
        },
    }  # fmt: skip
    tags |= {f"spare_{i}": {"role": "exogenous", "unit": "bar", "range": [0, 10]} for i in range(more)}
    objective = [{"kind": "track", "tag": "temperature", "setpoint": 60}]
    described = {"name": "heater", "description": "A heater <b>.", "period_s": PERIOD, "tags": tags}
    return PlantSpec.from_dict({**described, "objective": objective})


def log_of(spec: PlantSpec, rows: int, seed: int = 0) -> tuple[AlignedLog, np.ndarray]:
    """Rows with a gap of a day after the first half, the valve's effect on the temperature, and what is kept."""
    rng = np.random.default_rng(seed)
    steps = rng.uniform(5, 95, rows // 30 + 1)
    valve = np.repeat(steps, 30)[:rows] + rng.normal(0, 1, rows)
    feed = np.clip(np.cumsum(rng.normal(0, 0.2, rows)) % 40, 0, 50)
    temperature = np.full(rows, 50.0)
    for t in range(rows - 1):
        moved = valve[t - DEAD] if t >= DEAD else 50
        temperature[t + 1] = 0.95 * temperature[t] + 0.05 * (20 + 0.8 * moved) + rng.normal(0, 0.1)
    columns = {"temperature": temperature, "level": 50 + np.cumsum(rng.normal(0, 0.1, rows)) % 20, "feed": feed}
    frames = np.column_stack([columns.get(tag, rng.uniform(2, 3, rows)) for tag in spec.frame_tags]).astype(np.float32)
    time_ns = START + NS * PERIOD * np.arange(rows)
    time_ns[rows // 2 :] += 86_400 * NS
    mask = np.ones(frames.shape, dtype=bool)
    mask[rows // 4 : rows // 4 + rows // 50, 1] = False
    log = AlignedLog(
        time_ns, frames, mask, np.zeros_like(frames), valve[:, None].astype(np.float32),
        np.zeros((rows, 1), dtype=bool), np.ones((rows, 1), dtype=bool),
    )  # fmt: skip
    return log, mask.all(axis=1)


def report_on(spec: PlantSpec, rows: int = 6000, **changes: object) -> QualityReport:
    log, kept = log_of(spec, rows)
    statistics = LogStatistics(spec, int(log.time_ns[0]), int(log.time_ns[-1]))
    for start in range(0, rows, 1000):
        part = slice(start, start + 1000)
        statistics.add(AlignedLog(*(column[part] for column in vars(log).values())), kept[part])
    follows = np.append(False, (np.diff(log.time_ns) == PERIOD * NS) & kept[1:] & kept[:-1])
    episode = (np.cumsum(~follows[kept]) - 1).astype(np.int64)
    data = TransitionDataset.from_frames(
        spec, frames=log.frames[kept], actions=log.actions[kept], episode=episode, time_ns=log.time_ns[kept]
    )
    half = rows // 2
    rules = Rules(
        rows=rows, rows_kept=int(kept.sum()), rows_removed={"measurement unknown": int((~kept).sum())},
        cuts={"gap": 1, "trip": 0}, unusable={"level": int((~kept).sum()), "feed": 0},
        gaps=(Gap(int(log.time_ns[half - 1]), int(log.time_ns[half])),), longest=half, needed=9,
    )  # fmt: skip
    flags = (
        Flagged("frozen", int(log.time_ns[rows // 4]), int(log.time_ns[rows // 4 + rows // 50]), rows // 50),
        Flagged("spike", int(log.time_ns[100]), int(log.time_ns[100]), 1),
    )
    assessments = {}
    for name in (*spec.frame_tags, *spec.action_tags):
        bad = rows // 50 if name == "level" else 0
        account = Account(samples=rows, used=rows - bad - 3, frozen=bad, quarantined=1, merged=2)
        assessments[name] = TagAssessment(
            name, account, 1.0, 2.0, 1.5, 0.1, flags if bad else (), (f"{name}: looks odd",) if bad else ()
        )
    quarantine = Quarantine()
    quarantine.add(0, "no number", [3, 9], ["<script>alert(1)</script>", "12,3,4"], ["level", ""])
    quarantine.add(
        0, "second value of a stamp", list(range(len(assessments))), ["1"] * len(assessments), list(assessments)
    )
    # Two rows were quarantined before they became samples of a tag.
    sources = [source(log, rows * len(assessments) + 2 + 7, ignored=7, codes=("wobbly",))]
    examples = [("log <1>.csv, line 4", "level", "<script>alert(1)</script>", "no number")]
    arguments = {
        "sources": sources, "assessments": assessments, "rules": rules, "statistics": statistics,
        "kept": Kept.whole(data), "quarantine": quarantine, "examples": examples,
    } | changes  # fmt: skip
    return summarise(spec, **arguments)


@pytest.fixture(scope="module")
def report() -> QualityReport:
    return report_on(plant())


def texts(report: QualityReport, level: str) -> str:
    return "\n".join(advice.text for advice in report.advice if advice.level == level)


def test_every_sample_is_in_the_sum(report):
    totals = report.totals()
    assert totals["in"] == 4 * 6000 + 2 + 7
    assert totals["in"] == sum(value for name, value in totals.items() if name != "in")
    assert totals["quarantined"] == 6
    assert report.unaccounted == 0
    assert f"samples in {totals['in']} = used" in report.to_text()


def test_a_sample_that_is_lost_shows(report):
    tag = report.tags["level"]
    lost = replace(report, tags={**report.tags, "level": replace(tag, counts=replace(tag.counts, used=5000))})
    assert lost.unaccounted == 6000 - 120 - 3 - 5000
    assert "877 samples are unaccounted for" in lost.to_html()
    assert "unaccounted 877" in lost.to_text()
    assert "unaccounted" not in report.to_html()


def test_it_comes_back_from_json_as_it_was(report):
    stored = json.dumps(report.to_dict(), allow_nan=False)
    again = QualityReport.from_dict(json.loads(stored))
    assert again == report
    assert again.to_html() == report.to_html()


def test_another_version_or_a_damaged_report_is_refused_in_one_line(report):
    with pytest.raises(ArtifactError, match="has schema 1, this version reads 2"):
        QualityReport.from_dict({"schema": 1}, "quality.json")
    content = report.to_dict()
    del content["time_line"]
    with pytest.raises(ArtifactError, match=r"quality\.json.*damaged.*time_line"):
        QualityReport.from_dict(content, "quality.json")


def test_the_dead_time_is_found_and_the_history_that_is_missing_is_asked_for(report):
    found = report.response("valve", "temperature")
    assert (found.dead_periods, found.raises) == (DEAD, True)
    assert not report.response("valve", "level").seen
    assert "valve: raises temperature after 4 min" in report.to_text()
    assert "↑ 4 min" in report.to_html()
    assert "Set its 'history'" not in texts(report, "look")
    short = report_on(plant(history=1))
    assert "valve: commands from 4 min back still matter. Set its 'history' to 4; the plant file asks for 1." in texts(
        short, "look"
    )


def test_a_valve_that_never_moves_or_moves_nothing_stops_it():
    spec = plant()
    log, _ = log_of(spec, 4000)
    whole = {"episode": np.zeros(4000, dtype=np.int64), "time_ns": START + NS * PERIOD * np.arange(4000)}
    still = TransitionDataset.from_frames(spec, frames=log.frames, actions=np.full((4000, 1), 30, np.float32), **whole)
    found = report_on(spec, kept=Kept.whole(still))
    assert found.verdict == "not usable yet"
    assert "valve: never moves, it stays at 30 %" in texts(found, "stop")
    other = np.random.default_rng(5).uniform(0, 100, (4000, 1)).astype(np.float32)
    noise = np.cumsum(np.random.default_rng(6).normal(size=log.frames.shape), axis=0).astype(np.float32)
    deaf = TransitionDataset.from_frames(spec, frames=noise, actions=other, **whole)
    found = report_on(spec, kept=Kept.whole(deaf))
    assert "valve: no effect on any state seen within 1 h" in texts(found, "stop")
    assert found.headline.endswith("1 thing must be mended before training.")


def test_a_closed_loop_that_hides_the_effect_is_told():
    spec = plant()
    rng, rows = np.random.default_rng(3), 5000
    temperature, valve = np.full(rows, 60.0), np.zeros(rows)
    for t in range(rows):
        valve[t] = np.clip(50 - 2 * (temperature[t] - 60), 0, 100)
        if t + 1 < rows:
            temperature[t + 1] = temperature[t] + 0.02 * (valve[t] - 50) + rng.normal(0, 0.3)
    frames = np.column_stack([temperature, rng.normal(50, 1, rows), rng.normal(20, 1, rows)]).astype(np.float32)
    data = TransitionDataset.from_frames(
        spec, frames=frames, actions=valve[:, None].astype(np.float32), episode=np.zeros(rows, dtype=np.int64),
        time_ns=START + NS * PERIOD * np.arange(rows),
    )  # fmt: skip
    found = report_on(spec, kept=Kept.whole(data))
    assert found.analysis.excitation[0].feedback_share > 0.99
    assert "100.0 % of its moves follow from the measurements, so that cause and effect cannot be told apart" in texts(
        found, "stop"
    )


def test_nothing_to_look_at_is_said_as_plainly():
    clean = report_on(plant(), assessments={})
    assert [advice.level for advice in clean.advice] == ["look"]  # the unknown quality word of the source
    sources = [source(log_of(plant(), 6000)[0], 0)]
    clean = report_on(plant(), assessments={}, sources=sources)
    assert clean.verdict == "usable"
    assert clean.headline.endswith("Nothing stands against training on it.")
    assert "Nothing to mend or to look at." in clean.to_html()


def test_warnings_of_the_parts_become_advice(report):
    assert "level: looks odd." in texts(report, "look")
    assert "log <1>.csv: unknown quality words count as not good: wobbly" in texts(report, "look")
    further = report_on(plant(), warnings=["feed: was renamed"])
    assert "feed: was renamed." in texts(further, "look")


class Page(HTMLParser):
    """Checks that elements nest, and collects links, ids and text."""

    VOID = ("meta", "br", "path", "rect", "link", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.links: list[str] = []
        self.names: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.names.append(tag)
        self.ids += [str(found["id"])] if "id" in found else []
        self.links += [str(found[name]) for name in ("href", "src") if name in found]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_closed_to_the_outside_and_nests(report):
    html = report.to_html()
    page = Page(html)
    assert page.open == []
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert len(page.ids) == len(set(page.ids))
    assert "script" not in page.names
    assert not re.search(r"https?:|url\(|@import|javascript:", html)
    assert "default-src 'none'" in html
    assert html.count("&lt;script&gt;") >= 1
    assert all('role="img"' in svg and 'aria-label="' in svg for svg in re.findall(r"<svg[^>]*>", html))


def test_flagged_stretches_lie_where_they_were(report):
    line = report.time_line
    (spike,) = [flag for flag in report.tags["level"].flags if flag.reason == "spike"]
    ((first, last),) = buckets([spike], line)
    assert last == first + 1
    assert line.start_ns + first * line.width_ns <= START + 100 * PERIOD * NS < line.start_ns + last * line.width_ns
    assert "frozen 1 stretch; spike 1 stretch" in report.to_html()


def test_a_year_of_fifty_tags_stays_below_three_megabytes():
    html = report_on(plant(more=46), rows=30_000).to_html()
    assert html.count('<article class="tag">') == 50
    assert len(html.encode()) < 3e6


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_browser_shows_it_without_scrolling_sideways(report, width, tmp_path):
    # A frame of the width asked for: headless windows do not get as narrow as a phone.
    path, frame = tmp_path / "quality.html", tmp_path / "frame.html"
    path.write_text(report.to_html(), encoding="utf-8")
    probe = (
        f"<iframe id='f' src='quality.html' style='border:0;width:{width}px;height:900px'></iframe><script>"
        "document.getElementById('f').onload = e => { const d = e.target.contentDocument;"
        "document.title = 'width ' + d.documentElement.scrollWidth + ' plots ' + d.querySelectorAll('svg').length +"
        "' thin ' + [...d.querySelectorAll('section > svg, .strip svg')].filter(s => s.clientWidth < 200).length; }"
        "</script>"
    )
    frame.write_text(probe, encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += [
        "--allow-file-access-from-files",
        f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=5000",
    ]
    done = subprocess.run(
        [*command, "--window-size=1400,1000", "--dump-dom", frame.as_uri()], capture_output=True, text=True, timeout=120
    )
    seen = re.search(r"<title>width (\d+) plots (\d+) thin (\d+)</title>", done.stdout)
    assert seen, done.stderr[-500:]
    assert int(seen[1]) <= width
    assert int(seen[2]) >= 8
    assert int(seen[3]) == 0
