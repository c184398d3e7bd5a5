"""Conversion of engineering units, by pint behind the spellings that a plant file may use (`controlkit.spec.UNITS`).

pint is stricter than a plant in some things and laxer in others. What it would convert and no plant means is refused
here: a temperature difference is no temperature, a shaft's speed is no mains frequency (its factor of 2 pi would be
silent), a torque is no energy. Money, pH, turbidity and decibels are only themselves: no factor leads to another unit.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from controlkit.errors import DataError, nearest
from controlkit.spec import UNITS

# Only themselves. A euro is no dollar, and a scale such as pH has no unit to it.
_OPAQUE = frozenset(unit for unit in UNITS if "EUR" in unit or "USD" in unit) | {"pH", "NTU", "dB"}
# Where our spelling is not pint's.
_PINT = {"1": "dimensionless", "%": "percent", "gal": "US_liquid_gallon", "gal/min": "US_liquid_gallon / minute"}
_ANGLES = frozenset({"rad", "deg", "rad/s", "rpm"})
_TORQUES = frozenset({"N*m"})


def convertible(from_unit: str, to_unit: str) -> bool:
    """Whether values in one unit of `UNITS` can be told in another; a unit that is not in `UNITS` is only itself."""
    if from_unit == to_unit:
        return True
    if not {from_unit, to_unit} <= UNITS - _OPAQUE:
        return False
    if "delta_degC" in (from_unit, to_unit):  # a kelvin is a step of 1 degC as well as a temperature
        return {from_unit, to_unit} == {"delta_degC", "K"}
    for kind in (_ANGLES, _TORQUES):
        if (from_unit in kind) != (to_unit in kind):
            return False
    registry = _registry()
    return bool(registry.Unit(_name(from_unit)).dimensionality == registry.Unit(_name(to_unit)).dimensionality)


def convert(values: npt.NDArray[np.float64], from_unit: str, to_unit: str) -> npt.NDArray[np.float64]:
    """Values (K,) of one unit of `UNITS` in another: a new array, or the same one where the units are the same.

    Each value is converted on its own, so that a log gives the same numbers in blocks of any size.

    Raises:
        DataError: one cannot be converted into the other; names both.
    """
    values = np.asarray(values, dtype=np.float64)
    if from_unit == to_unit:
        return values
    if not convertible(from_unit, to_unit):
        raise DataError(f"'{from_unit}' cannot be converted to '{to_unit}'", cure=_cure(from_unit, to_unit))
    numerator, denominator, offset = _affine(from_unit, to_unit)
    converted = values * numerator
    converted /= denominator  # a division by 1000 rounds once and right, a multiplication by 0.001 twice
    if offset:
        converted += offset
    return converted


@lru_cache(maxsize=256)
def _affine(from_unit: str, to_unit: str) -> tuple[float, float, float]:
    """(n, d, offset) such that value * n / d + offset is the value in the other unit."""
    from_name, to_name = _name(from_unit), _name(to_unit)
    if "delta_degC" in (from_unit, to_unit):  # pint would take the kelvin for a temperature
        from_name = to_name = "delta_degC"
    quantity = _registry().Quantity
    offset = quantity(Fraction(0), from_name).to(to_name).magnitude
    factor = Fraction(quantity(Fraction(1), from_name).to(to_name).magnitude - offset)
    if max(factor.numerator, factor.denominator) > 2**53:  # no longer exact as floats: one rounded factor
        factor = Fraction(float(factor))
        return float(factor), 1.0, float(offset)
    return float(factor.numerator), float(factor.denominator), float(offset)


@lru_cache(maxsize=1)
def _registry() -> Any:
    """pint's own definitions in exact fractions, read once and only when needed: that takes half a second."""
    import pint

    return pint.UnitRegistry(non_int_type=Fraction)


def _name(unit: str) -> str:
    return _PINT.get(unit, unit)


def _cure(from_unit: str, to_unit: str) -> str:
    for unit in (from_unit, to_unit):
        if unit not in UNITS:
            hint = nearest(unit, UNITS)
            return f"'{unit}' is not a known unit; {hint}" + ("" if hint.endswith("?") else ".")
    return "Mend the unit in the plant file ('unit', 'log_unit'), or convert the log."
