"""Conversion of units, against numbers that can be looked up."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlkit.errors import DataError
from controlkit.ingest.units import convert, convertible
from controlkit.spec import UNITS

PAIRS = [(a, b) for a in sorted(UNITS) for b in sorted(UNITS) if a != b and convertible(a, b)]


@pytest.mark.parametrize(
    ("value", "from_unit", "to_unit", "expected"),
    [
        (100.0, "degC", "degF", 212.0),
        (-40.0, "degF", "degC", -40.0),
        (25.0, "degC", "K", 298.15),
        (0.0, "K", "degC", -273.15),
        (5.0, "delta_degC", "K", 5.0),
        (5.0, "K", "delta_degC", 5.0),
        (1.0, "psi", "kPa", 6.894757293168361),  # NIST SP 811: 6894.757 Pa
        (1013.25, "mbar", "bar", 1.01325),
        (1.0, "gal", "L", 3.785411784),  # the US liquid gallon of 231 cubic inches
        (1000.0, "gal/min", "m^3/h", 227.12470704),
        (36.0, "m^3/h", "L/s", 10.0),
        (1.0, "lb", "kg", 0.45359237),
        (3.6, "t/h", "kg/s", 1.0),
        (2.5, "%", "1", 0.025),
        (1.0, "%", "ppm", 10_000.0),
        (1.0, "MWh", "GJ", 3.6),
        (60.0, "rpm", "rad/s", 2 * np.pi),
        (180.0, "deg", "rad", np.pi),
        (120.0, "1/min", "Hz", 2.0),
        (1.0, "cP", "mPa*s", 1.0),
        (1.0, "mS/cm", "uS/cm", 1000.0),
        (1.0, "g/L", "kg/m^3", 1.0),
        (100.0, "mg/dL", "g/L", 1.0),
        (1.0, "d", "min", 1440.0),
    ],
)
def test_known_answers(value, from_unit, to_unit, expected):
    assert convertible(from_unit, to_unit)
    np.testing.assert_allclose(convert(np.array([value]), from_unit, to_unit), [expected], rtol=2e-16, atol=0)


@pytest.mark.parametrize(
    ("from_unit", "to_unit"),
    [
        ("bar", "degC"),
        ("delta_degC", "degC"),  # a difference is no temperature
        ("degF", "delta_degC"),
        ("rpm", "Hz"),  # would be out by 2 pi
        ("rpm", "1/min"),
        ("rad", "1"),
        ("N*m", "J"),  # a torque is no energy
        ("EUR", "USD"),
        ("EUR/MWh", "USD/MWh"),
        ("EUR/MWh", "EUR"),
        ("pH", "1"),
        ("dB", "1"),
        ("kg/h", "m^3/h"),
    ],
)
def test_what_is_not_the_same_is_refused_by_name(from_unit, to_unit):
    for one, other in ((from_unit, to_unit), (to_unit, from_unit)):
        assert not convertible(one, other)
        with pytest.raises(DataError, match="cannot be converted") as caught:
            convert(np.ones(2), one, other)
        assert f"'{one}' cannot be converted to '{other}'" in str(caught.value)


def test_an_unknown_unit_is_named_with_the_nearest():
    assert not convertible("mbarr", "bar")
    with pytest.raises(DataError, match=r"'mbarr' is not a known unit; did you mean 'mbar'\?$"):
        convert(np.ones(1), "mbarr", "bar")


def test_a_unit_is_itself_to_the_last_bit():
    values = np.array([0.1, -np.inf, np.nan])
    for unit in [*UNITS, "furlong"]:
        assert convertible(unit, unit)
        np.testing.assert_array_equal(convert(values, unit, unit), values)


def test_a_step_of_a_thousand_is_rounded_once():
    values = np.arange(1, 20_000, dtype=np.float64)
    np.testing.assert_array_equal(convert(values, "W", "kW"), values / 1000)
    np.testing.assert_array_equal(convert(values, "m", "mm"), values * 1000)


@given(st.sampled_from(PAIRS), st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20))
def test_there_and_back(pair, values):
    start = np.array(values)
    there = convert(start, *pair)
    assert there is not start
    np.testing.assert_allclose(convert(there, *pair[::-1]), start, rtol=1e-12, atol=1e-12)
    one_by_one = np.concatenate([convert(start[i : i + 1], *pair) for i in range(len(start))])
    np.testing.assert_array_equal(there, one_by_one)


def test_every_unit_that_is_not_opaque_is_one_of_pints():
    alone = {unit for unit in UNITS if not any(unit in pair for pair in PAIRS)}
    assert {unit for unit in alone if "EUR" in unit or "USD" in unit} | {"pH", "NTU", "dB"} <= alone
    assert len(UNITS) - len(alone) > 70  # far more than a misspelt name could hide
    assert all(convertible(b, a) for a, b in PAIRS)


def test_pint_is_read_only_when_something_is_converted():
    code = (
        "import sys, numpy as np; from controlkit.ingest.units import convert;"
        "convert(np.ones(1), 'bar', 'bar'); assert 'pint' not in sys.modules;"
        "convert(np.ones(1), 'bar', 'mbar'); assert 'pint' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
