"""The report: whole or absent, offline, escaped, without NaN."""

from __future__ import annotations

import copy
import errno
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from matplotlib import image

from controlkit.artifacts import RunFolder
from controlkit.errors import ArtifactError, ControlkitError
from controlkit.evaluation import EXIT_CODES, Report, evaluate, write_report
from controlkit.evaluation.candidates import of_run
from controlkit.evaluation.page import render
from controlkit.evaluation.pictures import WIDTH, picture
from controlkit.evaluation.report import FIGURES
from controlkit.progress import Silent
from tests.evaluation.conftest import LinearPlant

EVIL = '<script>alert("x")</script><img src=http://example.org/a.png>'
SECTIONS = [
    "verdict",
    "estimates",
    "back-test",
    "support",
    "limits",
    "regimes",
    "trajectories",
    "actuators",
    "risks",
    "next",
    "reproducibility",
]


@pytest.fixture(scope="module")
def report(plant: LinearPlant, make_run: Callable[..., RunFolder], tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Two candidates with random weights, on a plant whose texts are hostile."""
    spec = plant.spec(
        description=EVIL,
        tags={
            "x": {"description": EVIL, "limits": [-5, 5]},
            "d.oor": {"role": "exogenous", "unit": "1", "range": [0, 1]},
        },
    )
    base = plant.log(rows=2000)
    import numpy as np

    from controlkit.dataset import TransitionDataset

    door = (np.arange(2000) // 50 % 2).astype(np.float32)[:, None]
    data = TransitionDataset.from_frames(
        spec,
        frames=np.concatenate([base.frames, door], axis=1),
        actions=base.actions,
        episode=base.episode,
        time_ns=base.time_ns,
        sources={EVIL: "0" * 64},
    )
    folder = tmp_path_factory.mktemp("runs")
    runs = [make_run(folder / "one", data), make_run(folder / "two", data, seed=3)]
    return evaluate([of_run(run) for run in runs], data, quick=True, progress=Silent())


@pytest.fixture(scope="module")
def written(report: Report, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write_report(report, folder)
    return folder


class Elements(HTMLParser):
    """Collects start tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.text.append(data)


@pytest.fixture(scope="module")
def page(written: Path) -> Elements:
    return Elements((written / "report.html").read_text(encoding="utf-8"))


def no_number(name: str) -> Any:
    raise AssertionError(f"{name} in JSON")


def test_every_section_is_there_once_and_in_order(page: Elements) -> None:
    assert [attrs["id"] for tag, attrs in page.found if tag == "section"] == SECTIONS


def test_the_verdict_and_its_words_come_first(page: Elements, report: Report) -> None:
    text = " ".join(page.text)
    assert report.verdict in EXIT_CODES
    assert report.verdict in text
    assert all(" ".join(reason.split()) in " ".join(text.split()) for reason in report.reasons)
    assert text.index(report.verdict) < text.index("Do the estimators agree?")


def test_nothing_is_fetched(page: Elements, written: Path) -> None:
    for tag, attrs in page.found:
        for name in ("src", "srcset", "data", "action", "poster"):
            assert name not in attrs, (tag, attrs)
        if "href" in attrs:
            assert str(attrs["href"]).startswith("#")
    assert not [tag for tag, _ in page.found if tag in ("link", "iframe", "object", "embed", "img", "base")]
    style = (written / "report.html").read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in style
    assert "@import" not in style
    policy = next(a["content"] for t, a in page.found if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in str(policy)
    assert "http" not in str(policy)


def test_hostile_text_stays_text(page: Elements, written: Path) -> None:
    assert EVIL in " ".join(page.text)
    assert not [tag for tag, _ in page.found if tag == "img"]
    scripts = [attrs for tag, attrs in page.found if tag == "script"]
    assert len(scripts) == 3  # figures, Plotly, ours
    raw = (written / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in raw
    figures = raw.split('id="figures">')[1].split("</script>")[0]
    assert "<" not in figures


def test_figures_are_drawn_from_the_report_alone(page: Elements, written: Path) -> None:
    raw = (written / "report.html").read_text(encoding="utf-8")
    figures = json.loads(raw.split('id="figures">')[1].split("</script>")[0], parse_constant=no_number)
    places = {attrs["id"] for _, attrs in page.found if attrs.get("class") == "plot"}
    assert set(figures) == places
    assert all(figure["data"] for figure in figures.values())


def test_every_plot_has_a_name_and_every_chooser_a_label(page: Elements) -> None:
    assert all(attrs.get("aria-label") for _, attrs in page.found if attrs.get("class") == "plot")
    labelled = {attrs["for"] for tag, attrs in page.found if tag == "label"}
    assert {attrs["id"] for tag, attrs in page.found if tag == "select"} == labelled


def test_json_is_plain_and_versioned(written: Path, report: Report) -> None:
    content = json.loads((written / "report.json").read_text(encoding="utf-8"), parse_constant=no_number)
    assert content["schema"] == 2
    assert content["verdict"] == report.verdict
    assert content["reasons"] == list(report.reasons)
    assert [candidate["name"] for candidate in content["candidates"]] == ["one", "two"]
    assert content["best"] in ("one", "two")
    # Several candidates: each interval is wider than it would be alone.
    assert content["candidates"][0]["gain"]["level"] == pytest.approx(0.975)


def test_a_gain_that_was_shrunk_is_said_to_be(report: Report) -> None:
    content = copy.deepcopy(dict(report.content))
    for candidate, ridge in zip(content["candidates"], (0.0, 3.0), strict=True):
        candidate["fqe_ridge"] = ridge
    text = " ".join(Elements(render(content, {})).text)
    assert re.findall(r"FQE( for \w+) was too noisy .*?(\(ridge [\d.]+\))", text) == [(" for two", "(ridge 3)")]


def test_size(written: Path) -> None:
    assert (written / "report.html").stat().st_size < 6_000_000


def test_a_full_disk_leaves_the_earlier_report(report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report.html").write_text("earlier")
    (tmp_path / "report.json").write_text("{}")
    calls = []

    def full(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("controlkit.evaluation.pictures.picture", lambda figure: b"picture")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ControlkitError, match="No space left"):
        write_report(report, tmp_path)
    assert len(calls) == 2
    assert (tmp_path / "report.html").read_text() == "earlier"
    assert (tmp_path / "report.json").read_text() == "{}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]


def test_every_plot_is_a_picture_too_and_none_is_empty(page: Elements, written: Path) -> None:
    places = {attrs["id"] for _, attrs in page.found if attrs.get("class") == "plot"}
    pictures = sorted((written / FIGURES).iterdir())
    assert {path.stem for path in pictures} == places
    for path in pictures:
        pixels = image.imread(path)[..., :3]
        assert pixels.shape[1] == WIDTH
        drawn = (pixels < 0.95).any(axis=2)
        assert drawn.any(axis=0).mean() > 0.5  # from left to right
        assert drawn.any(axis=1).mean() > 0.3  # from top to bottom


def test_a_picture_takes_texts_that_are_markup_elsewhere() -> None:
    axis = {"title": {"text": "$x_{&lt;b&gt; y"}}
    trace = {
        "x": [0, 1, 2],
        "y": [0.0, None, 1.0],
        "mode": "lines",
        "name": r"$\frac",
        "line": {"color": "#000", "dash": "dot"},
    }
    drawn = picture({"data": [trace], "layout": {"height": 200, "xaxis": axis, "yaxis": axis}})
    assert drawn.startswith(b"\x89PNG")
    assert drawn == picture({"data": [trace], "layout": {"height": 200, "xaxis": axis, "yaxis": axis}})


def test_a_new_report_replaces_the_pictures_and_another_folder_of_figures_stays(
    report: Report, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controlkit.evaluation.pictures.picture", lambda figure: b"picture")
    (tmp_path / FIGURES).mkdir()
    (tmp_path / FIGURES / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"holds no plot-gain\.png"):
        write_report(report, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FIGURES]
    (tmp_path / FIGURES / "plot-gain.png").write_text("of an earlier report")
    (tmp_path / FIGURES / "plot-limits-7.png").write_text("of an earlier report")
    write_report(report, tmp_path)
    assert (tmp_path / FIGURES / "plot-gain.png").read_text() == "picture"
    assert not (tmp_path / FIGURES / "plot-limits-7.png").exists()


def test_regimes_risks_and_envelope_of_every_candidate_are_in_the_json(report: Report) -> None:
    content = report.content
    names = [regime["name"] for regime in content["regimes"]["members"]]
    assert sum(regime["share"] for regime in content["regimes"]["members"]) == pytest.approx(1.0, abs=1e-4)
    for candidate in content["candidates"]:
        assert [regime["name"] for regime in candidate["regimes"]] == names
        assert [each["tag"] for each in candidate["envelope"]["ranges"]] == ["x", "d.oor", "u"]
        assert candidate["risks"]
        assert all(risk["evidence"] and risk["mitigation"] for risk in candidate["risks"])
        assert set(candidate["term_values"]) == set(candidate["terms"]) == set(content["operator"]["terms"])
        for each in (candidate["distributions"][0], content["operator"]["distributions"][0]):
            assert sum(each["share"]) == pytest.approx(1.0, abs=1e-4)
            assert each["rates"] == sorted(each["rates"])


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_a_browser_draws_every_plot_without_an_error(written: Path, tmp_path: Path) -> None:
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
    command += ["--virtual-time-budget=10000", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run(
        [*command, "--dump-dom", (written / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    drawn = re.search(r'data-drawn="(\d+)"', done.stdout)
    assert drawn is not None
    places = re.findall(r'class="plot[^"]*" id="(plot-[a-z]+-?\d*)"', done.stdout)
    assert int(drawn.group(1)) == len(places) == len(list((written / FIGURES).iterdir()))
    assert len(places) >= 18  # four for all, seven or eight for each of two candidates
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]
