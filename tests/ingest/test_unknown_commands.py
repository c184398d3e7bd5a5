"""A command or a mode that is not known is never replaced by the one before it: from the file to the data set."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest

from controlkit.errors import DataError
from controlkit.ingest import ingest
from controlkit.ingest.assess import assess
from controlkit.ingest.sources import stage_sources
from controlkit.ingest.stage import USABLE, Code, Stage
from controlkit.progress import Silent
from tests.ingest.staged import pairs

AUTO = {"auto": {"role": "mode", "unit": "1", "range": [0, 1], "accept": [1]}}
SECONDS = 40


def wide(rows: dict[int, dict[str, str]]) -> str:
    """A log of a row a second with some other cells."""
    lines = ["timestamp,TT-101,door,power,auto"]
    for k in range(SECONDS):
        cells = {"TT-101": str(k % 7), "door": str(k % 2), "power": str(k % 5), "auto": "1"} | rows.get(k, {})
        lines.append(f"2024-01-01T00:00:{k:02}Z," + ",".join(cells.values()))
    return "\n".join(lines) + "\n"


def long(rows: dict[int, dict[str, str]]) -> str:
    """The same log with a row a sample."""
    header, *lines = (line.split(",") for line in wide(rows).splitlines())
    found = [f"{line[0]},{tag},{cell}" for line in lines for tag, cell in zip(header[1:], line[1:], strict=True)]
    return "\n".join(["timestamp,tag,value", *found]) + "\n"


STRANGE = {5: {"power": "auto?"}, 7: {"auto": "MAN"}, 9: {"TT-101": "hot"}, 11: {"power": ""}, 12: {"door": "ajar"}}


@pytest.mark.parametrize("form", [wide, long])
def test_text_that_was_marked_good_leaves_a_command_and_a_mode_unknown(form, make_spec, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(form(STRANGE))
    spec = make_spec(AUTO)
    log = stage_sources(spec, [path], tmp_path / "read", progress=Silent())
    assert len(log.quarantine) == 4
    marks = {tag: int((log.stage.read(tag)["code"] == Code.UNREADABLE).sum()) for tag in log.stage.tags}
    assert marks == {"temperature": 0, "door": 0, "power": 1, "auto": 1}
    usable = Stage(tmp_path / "usable", log.stage.tags, USABLE)
    accounts = {tag: assess(spec, tag, log, usable).account for tag in log.stage.tags}
    unknown = {tag: [s for s, value in pairs(usable, tag) if np.isnan(value)] for tag in log.stage.tags}
    assert unknown == {"temperature": [], "door": [], "power": [5], "auto": [7]}
    assert {account.samples for account in accounts.values()} == {SECONDS - 1}  # one of each was unreadable
    assert all(sum(astuple(account)) == 2 * account.samples for account in accounts.values())
    assert sum(source.samples for source in log.sources) == sum(a.samples for a in accounts.values()) + 4


@pytest.mark.parametrize("form", [wide, long])
def test_rows_in_which_a_command_or_a_mode_is_unknown_are_not_learned_from(form, make_spec, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(form({5: {"power": "auto?"}, 15: {"auto": "MAN"}, 20: {"power": "11"}, 30: {"power": "Bad"}}))
    spec = make_spec(AUTO, log={"max_quarantined": 1})
    result = ingest(spec, [path], tmp_path / "data")
    data = result.dataset
    second = (data.time_ns - data.time_ns[0]) // 1_000_000_000
    learned = set(second[np.isfinite(data.rewards)].tolist())
    # The step after 14 s ends in an unknown mode, that after the others begins with an unknown command.
    assert set(range(SECONDS - 1)) - learned == {5, 14, 15, 20, 30}
    assert result.quality.unaccounted == 0


def test_an_empty_command_holds_the_last_one(make_spec, tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(wide({k: {"power": ""} for k in (5, 6, 7)}))
    data = ingest(make_spec(AUTO), [path], tmp_path / "data").dataset
    assert data.actions[4:9, 0].tolist() == [4, 4, 4, 4, 3]
    assert len(data.time_ns) == SECONDS


def test_a_mark_is_no_sample_of_a_tag_that_is_rubbish(spec, write_long, at):
    rows = [(at(k), tag, f"{k % 5}", "good") for k in range(2000) for tag in ("TT-101", "door")]
    rows += [(at(100 * k), "power", "auto?" if k % 2 else f"{k % 3}", "good") for k in range(22)]
    with pytest.raises(DataError, match=r"11 of 22 samples of tag 'power' \(50 %\)"):
        ingest(spec, [write_long(sorted(rows))], None)
