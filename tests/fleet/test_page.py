"""The index page: all of it in text, sortable without a network, whole on a phone, hostile names inert."""

from __future__ import annotations

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from controlkit.fleet.page import POLICY, render
from controlkit.fleet.record import PlantRecord, Record, write_record
from controlkit.runs.reported import Gain

HOSTILE = "<img src=x onerror=alert(1)>\"'</script>"
PLANTS = (
    PlantRecord("boiler-2", "boiler", "done", "", "not exported: NO-GO", "NO-GO", Gain(-0.5, -0.8, -0.2, "m³/h")),
    PlantRecord("column-10", "column", "done", "", "", "GO TO SHADOW", Gain(0.0423, 0.01, 0.08, "(degC)²"),
                report="plants/column-10/run/report.html", quality="plants/column-10/data/quality.html",
                bundle="plants/column-10/bundle"),
    PlantRecord("column-9", "", "failed", "check", "column-9.yaml, line 3: flow: unknown key. Did you mean 'low'?"),
    PlantRecord("dryer", "dryer", "done", "", "not exported: NO VERDICT", "NO VERDICT", Gain(None, None, None, "m")),
    PlantRecord("kiln", "", "lost", "train", "its worker process died or its machine was lost, at each of 3 tries"),
    PlantRecord("mill", "", "waiting"),
)  # fmt: skip


def plants_of(document: str) -> list[str]:
    """Names of the rows, in their order."""
    return re.findall(r'data-label="plant" data-sort="([^"]*)"', document)


def test_what_needs_a_look_comes_first_and_all_is_said() -> None:
    page = render(Record("fleet.yaml", PLANTS).to_dict())
    assert plants_of(page) == ["column-9", "kiln", "column-10", "boiler-2", "dryer", "mill"]
    text = html.unescape(re.sub(r"<[^>]+>", " ", page))
    assert "Did you mean 'low'?" in text
    assert "✗ failed in check" in text
    assert "✗ lost in train" in text
    assert re.search(r"\+0\.0423\s+\+0\.01 to \+0\.08\s+\(degC\)²", text)
    assert re.search(r"−0\.5\s+−0\.8 to −0\.2\s+m³/h", text)
    for count in ("6  plants", "1  failed", "1  lost", "1  GO TO SHADOW", "1  bundles exported"):
        assert count in text
    assert re.findall(r'href="([^"]*)"', page) == [
        "plants/column-10/run/report.html",
        "plants/column-10/data/quality.html",
        "plants/column-10/bundle/manifest.json",
    ]
    assert POLICY in page
    assert "http" not in page.replace("http-equiv", "")


def test_names_and_messages_are_text() -> None:
    record = PlantRecord(HOSTILE, HOSTILE, "failed", "train", HOSTILE, None, Gain(1.0, 0.0, 2.0, HOSTILE),
                         report=f"plants/{HOSTILE}/run/report.html")  # fmt: skip
    page = render(Record(HOSTILE, (record,)).to_dict())
    assert "<img" not in page
    assert page.count("<script>") == 1
    assert page.count("</script>") == 1
    assert 'href="plants/%3Cimg' in page


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_it_sorts_and_fits_a_phone(tmp_path: Path) -> None:
    write_record(Record("fleet.yaml", PLANTS), tmp_path)
    # Headless windows do not get as narrow as a phone, so the page is shown in a frame.
    script = """onload = () => {
      const d = f.contentDocument, press = (n) => d.querySelectorAll("th button")[n].click();
      const order = () => [...d.querySelectorAll("tbody tr")].map((row) => row.cells[0].dataset.sort).join(" ");
      press(0); const up = order(); press(0); const down = order(); press(2); const gain = order(); press(2);
      document.title = [d.documentElement.scrollWidth, up, down, gain, order()].join("|");
    }"""
    frame = '<iframe id="f" src="index.html" style="border:0;width:390px;height:900px"></iframe>'
    (tmp_path / "frame.html").write_text(f"<title>?</title>{frame}<script>{script}</script>")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    command += [f"--user-data-dir={tmp_path / 'profile'}", "--enable-logging=stderr", "--virtual-time-budget=3000"]
    command += ["--disable-background-networking", "--dump-dom", (tmp_path / "frame.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []
    title = re.search(r"<title>(.*?)</title>", done.stdout)
    assert title
    width, up, down, gain, falling = title[1].split("|")
    assert 0 < int(width) <= 390
    assert up == "boiler-2 column-9 column-10 dryer kiln mill"
    assert down == "mill kiln dryer column-10 column-9 boiler-2"
    assert gain.split()[:2] == ["boiler-2", "column-10"]
    assert falling.split()[:2] == ["column-10", "boiler-2"]
