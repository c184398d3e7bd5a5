"""Quality codes, units and time stamps, each against known answers."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.errors import DataError
from controlkit.ingest.columns import same_unit
from controlkit.ingest.sources import stamp_text
from controlkit.ingest.sources.codes import Codes, is_word
from controlkit.ingest.stage import Code
from controlkit.ingest.timestamps import NAIVE, epoch_unit_ns, to_utc

NS = 1_000_000_000


@pytest.mark.parametrize(
    ("codes", "worth", "unknown"),
    [
        (["good", " GOOD ", "Bad", "Uncertain", "Substituted", "", None], "ggbusbb", ()),
        (["192", "216", "0xC0", "64", "24", "0"], "gsgubb", ()),
        (["0", "2147483648", "1073741824"], "gbu", ()),
        (["192.0", "0.0", "12.5"], "gbb", ("12.5",)),
        (["ok", "0"], "gb", ()),
        (["good", "Guut"], "gb", ("guut",)),
    ],
)
def test_known_codes(codes, worth, unknown):
    found = Codes("log.csv")
    found.look(codes)
    letters = {Code.GOOD: "g", Code.UNCERTAIN: "u", Code.SUBSTITUTED: "s", Code.BAD: "b"}
    assert "".join(letters[found.worth(code)] for code in codes) == worth
    assert found.unknown == unknown


@pytest.mark.parametrize("codes", [["0"], ["0", "192", "2147483648"], ["0", "bad"]])
def test_a_zero_that_may_mean_either_is_an_error(codes):
    found = Codes("log.csv")
    found.look(codes)
    assert found.doubtful
    with pytest.raises(DataError, match=r"log\.csv: the quality code 0"):
        found.worth("0")


def test_words_of_a_quality_column_are_told_from_others():
    assert all(is_word(text) for text in ("Good", " bad ", "I/O Timeout", "Uncertain"))
    assert not any(is_word(text) for text in ("", "192", "Guut", "Manual"))


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("°C", "degC"),
        (" degC", "degC"),
        ("m³/h", "m^3/h"),
        ("µS/cm", "uS/cm"),
        ("", "1"),
        ("K", "K"),
        ("furlong", "furlong"),
    ],
)
def test_spellings_of_units(text, unit):
    assert same_unit(text) == unit


def parsed(text):
    stamps = stamp_text.parsed(pa.array([text]))
    if not stamps.readable[0]:
        return None
    return int(to_utc(stamps.local_ns, stamps.offset_min, "UTC")[0][0])


@given(
    st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)),
    st.integers(-14 * 60, 14 * 60),
    st.sampled_from(["{:%Y-%m-%dT%H:%M:%S.%f}{}", "{:%Y-%m-%d %H:%M:%S.%f} {}", "{:%Y-%m-%d %H:%M:%S.%f}{}"]),
    st.sampled_from([":", ""]),
)
def test_every_offset_is_applied(moment, minutes, form, colon):
    sign = "-" if minutes < 0 else "+"
    offset = f"{sign}{abs(minutes) // 60:02d}{colon}{abs(minutes) % 60:02d}"
    expected = datetime.fromisoformat(f"{moment.isoformat()}{sign}{abs(minutes) // 60:02d}:{abs(minutes) % 60:02d}")
    since = expected - datetime(1970, 1, 1, tzinfo=UTC)
    assert (
        parsed(form.format(moment, offset))
        == ((since.days * 86_400 + since.seconds) * 10**6 + since.microseconds) * 1000
    )


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kolkata"])
def test_local_time_agrees_with_the_time_zone_database_all_year(zone):
    seconds = np.arange(0, 366 * 86_400, 1_800) + 1_704_067_200
    times = [datetime.fromtimestamp(int(s), ZoneInfo(zone)) for s in seconds]
    local = np.array([int(t.replace(tzinfo=UTC).timestamp()) * NS for t in times])
    utc, wrong = to_utc(local, np.full(len(local), NAIVE), zone)
    # A clock shown twice cannot be told apart; both times of it are refused, and all others come back.
    shown, count = np.unique(local, return_counts=True)
    np.testing.assert_array_equal(wrong, np.isin(local, shown[count > 1]))
    np.testing.assert_array_equal(utc[~wrong], seconds[~wrong] * NS)


def test_a_clock_that_is_skipped_is_refused():
    spring = [f"2024-03-31T{clock}" for clock in ("01:59:59", "02:00:00", "02:59:59", "03:00:00")]
    local = np.array([int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * NS for text in spring])
    utc, wrong = to_utc(local, np.full(4, NAIVE), "Europe/Berlin")
    assert wrong.tolist() == [False, True, True, False]
    assert utc[3] - utc[0] == NS


def test_the_unit_of_a_number_follows_from_its_size():
    assert [epoch_unit_ns(1.7 * 10.0**k) for k in (9, 12, 15, 18)] == [NS, 1_000_000, 1_000, 1]
    assert epoch_unit_ns(0) == NS
    assert epoch_unit_ns(1e19) is None
