"""How much may lie in quarantine before an ingest stops, and what it says then."""

from __future__ import annotations

import numpy as np
import pytest

from controlkit.errors import DataError
from controlkit.ingest import ingest, quarantine
from controlkit.ingest.quarantine import Quarantine
from controlkit.ingest.sample_rules import BACKWARD, CONTRADICTION
from controlkit.ingest.stop_rule import require_few_of_each_tag, require_few_quarantined
from tests.ingest.staged import staged


def quarantined_log(folder, rows, *entries, files=1):
    """A log of so many rows a file; entries are (source, row, tag, text, reason)."""
    log = staged(folder, "temperature", *[[]] * files, rows=rows)
    for source, row, tag, text, reason in entries:
        log.quarantine.add(source, reason, [row], [text], [tag])
    return log


def test_up_to_the_share_nothing_happens(spec, tmp_path):
    require_few_quarantined(spec, quarantined_log(tmp_path, 0))
    entries = [(0, row, "door", "x", "no number") for row in range(10)]
    require_few_quarantined(spec, quarantined_log(tmp_path, 1000, *entries))
    with pytest.raises(DataError, match=r"10 of 999 rows \(1 %\) cannot be used"):
        require_few_quarantined(spec, quarantined_log(tmp_path, 999, *entries))


def test_the_message_tells_reasons_first_examples_and_cures(make_spec, tmp_path):
    log = quarantined_log(
        tmp_path, 50,
        (1, 7, "door", "3", CONTRADICTION),
        (0, 9, "door", "ajar", "no number"),
        (0, 4, "power", "full", "no number"),
        (1, 1, "", "2024-13-01", "no time stamp"),
        (0, 5, "door", "2024-01-01T00:00:00Z", BACKWARD),
        files=5,
    )  # fmt: skip
    with pytest.raises(DataError) as caught:
        require_few_quarantined(make_spec(), log)
    assert str(caught.value) == (
        "log0.csv, log1.csv, log2.csv and 2 more: 5 of 250 rows (2 %) cannot be used, more than the 1 % of "
        "'log.max_quarantined': 2 times 'no number', first 'full' of tag 'power' in log0.csv, line 6; "
        "1 times 'another value at the same time stamp', first '3' of tag 'door' in log1.csv, line 9; "
        "1 times 'no time stamp', first '2024-13-01' in log1.csv, line 3; "
        "1 times 'time stamp goes back', first '2024-01-01T00:00:00Z' of tag 'door' in log0.csv, line 7. "
        "Keep one value of each stamp or set 'log.on_duplicate', sort the log or set 'log.on_backward: sort', mend the "
        "log, or raise 'log.max_quarantined' if these rows can be spared."
    )
    require_few_quarantined(make_spec(log={"max_quarantined": 0.02}), log)


def test_cells_of_one_row_count_once(spec, tmp_path):
    entries = [(0, row, f"t{i}", "2024", BACKWARD) for row in range(4) for i in range(50)]
    require_few_quarantined(spec, quarantined_log(tmp_path, 400, *entries))
    with pytest.raises(DataError, match="4 of 399 rows"):
        require_few_quarantined(spec, quarantined_log(tmp_path, 399, *entries))


def test_a_row_counts_once_whatever_is_listed(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "LISTED", 20)
    log = staged(tmp_path, "temperature", [], rows=1000)
    for tag in ("door", "power"):
        log.quarantine.add(0, BACKWARD, list(range(40)), ["2024"] * 20, [tag] * 40)
    log.quarantine.add(0, CONTRADICTION, np.arange(30, 50), ["1"] * 20, ["door"] * 20)
    # of BACKWARD also the first of the other tag
    assert (len(log.quarantine.listed), len(log.quarantine), log.quarantine.rows) == (41, 100, 50)
    with pytest.raises(DataError, match="50 of 1000 rows"):
        require_few_quarantined(spec, log)


def test_rows_of_ignored_tags_do_not_dilute(make_spec, rows, write_long, tmp_path):
    spec = make_spec({"chatter": {"role": "ignore", "unit": "1", "range": [0, 1]}})
    rows[7] = (*rows[7][:2], "broken", "good")
    chatter = [(rows[0][0], "chatter", "1", "good")] * 5000
    with pytest.raises(DataError, match="1 of 60 rows"):
        ingest(spec, [write_long([*rows, *chatter])], None)
    wide = tmp_path / "wide.csv"
    wide.write_text("timestamp,chatter\n" + "2024-01-01 00:00:00,1\n" * 5000)
    with pytest.raises(DataError, match="1 of 60 rows"):
        ingest(spec, [write_long(rows), wide], None)


def test_a_tag_that_is_rubbish_is_not_hidden_by_the_others(spec, write_long, at):
    many = [
        (at(k), tag, value, "good")
        for k in range(2000)
        for tag, value in (("TT-101", f"{k % 9}"), ("power", f"{k % 5}"))
    ]
    doors = [(at(100 * k), "door", "ajar" if k % 2 else "1", "good") for k in range(22)]
    log = write_long(sorted([*many, *doors]))
    with pytest.raises(DataError) as caught:
        ingest(spec, [log], None)
    text = str(caught.value)
    assert "11 of 22 samples of tag 'door' (50 %) cannot be used, more than the 1 % of 'log.max_quarantined'" in text
    assert "11 times 'no number in a good sample', first 'ajar' of tag 'door' in " in text
    assert "\n" not in text
    # Ten are an accident; they are told.
    log = write_long(sorted([*many, *doors[:20], (at(1999), "door", "1", "good")]))
    quality = ingest(spec, [log], None).quality
    told = "door: 10 samples (47.6 %) could not be read and are in quarantine."
    assert told in [advice.text for advice in quality.advice]


def test_what_the_assessment_finds_of_a_tag_counts_as_what_the_reading_found(spec, write_long, at):
    rows = [(at(k), tag, f"{k % 5}", "good") for k in range(2000) for tag in ("TT-101", "power")]
    rows += [(at(100 * k), "door", "1", "good") for k in range(20)]
    twice = [(at(100 * k), "door", "0", "good") for k in range(11)]
    with pytest.raises(DataError) as caught:
        ingest(spec, [write_long(sorted([*rows, *twice], key=lambda row: row[:2]))], None)
    assert "11 of 31 samples of tag 'door' (35.5 %) cannot be used" in str(caught.value)
    assert "set 'log.on_duplicate'" in str(caught.value)


def test_a_tag_may_lose_as_much_as_the_plant_file_allows(make_spec, tmp_path):
    log = staged(tmp_path, "temperature", [(k, 1.0) for k in range(1980)])
    log.quarantine.add(0, "no number", list(range(20)), ["x"] * 20, ["temperature"] * 20)
    require_few_of_each_tag(make_spec(), log)
    log.quarantine.add(0, "no number", [20], ["x"], ["temperature"])
    with pytest.raises(DataError, match=r"21 of 2001 samples of tag 'temperature' \(1.05 %\)"):
        require_few_of_each_tag(make_spec(), log)
    require_few_of_each_tag(make_spec(log={"max_quarantined": 0.02}), log)


def test_of_much_rubbish_the_first_of_each_reason_source_and_tag_is_kept(monkeypatch):
    monkeypatch.setattr(quarantine, "MOST", 50)
    found = Quarantine()
    found.add(0, "a", list(range(100)), ["x"] * 100, ["door"] * 100)
    for source in range(1, 4):
        for reason in "ab":
            found.add(source, reason, list(range(9, 200_000)), ["y"] * 100, ["door"] * 199_991)
    found.add(0, "a", [3, 4], ["z", "z"], ["door", "power"])
    assert [(one.source, one.reason, one.row, one.tag) for one in found.listed[51:]] == [
        *((source, reason, 9, "door") for source in range(1, 4) for reason in "ab")
    ]
    assert [(one.row, one.tag) for one in found.listed[:51] if one.tag == "power"] == [(4, "power")]
    assert len(found.listed) == 57
    assert found.counts() == {"a": 100 + 2 + 3 * 199_991, "b": 3 * 199_991}
    assert found.counts("power") == {"a": 1}
    assert found.rows == 100 + 3 * 199_991


def test_rows_are_counted_as_sets_are():
    rng, found = np.random.default_rng(3), Quarantine()
    seen = set()
    for _ in range(50):
        source, rows = int(rng.integers(3)), np.sort(rng.integers(0, 300_000, size=200))
        found.add(source, "r", rows, [], [""] * 200)
        seen |= {(source, row) for row in rows.tolist()}
    assert found.rows == len(seen)
