"""How much may lie in quarantine before an ingest stops, and what it says then."""

from __future__ import annotations

import pytest

from controlkit.errors import DataError
from controlkit.ingest import quarantine
from controlkit.ingest.sample_rules import BACKWARD, CONTRADICTION
from controlkit.ingest.stop_rule import require_few_quarantined
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


def test_what_is_not_listed_counts_in_proportion(spec, tmp_path, monkeypatch):
    monkeypatch.setattr(quarantine, "LISTED", 20)
    entries = [(0, row, f"t{i}", "2024", BACKWARD) for row in range(40) for i in range(2)]
    log = quarantined_log(tmp_path, 1000, *entries)
    assert (len(log.quarantine.listed), len(log.quarantine)) == (20, 80)
    with pytest.raises(DataError, match="40 of 1000 rows"):
        require_few_quarantined(spec, log)
