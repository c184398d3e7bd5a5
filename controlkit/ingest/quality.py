"""Which quality codes of a historian mean that a sample may be used.

Good are the words in `GOOD_WORDS`, OPC DA codes whose quality bits are 11 (192 .. 255, 0xC0), and OPC UA status codes
whose severity is 00 (0, and 0x100 .. 0x3FFFFFFF). Everything else is not good: uncertain, bad, substituted, an empty
cell, a word nobody here knows. The code 0 is bad in OPC DA and good in OPC UA; the other codes of the same log tell
which it is, and where they do not, that is an error rather than a guess.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlkit.errors import DataError

GOOD_WORDS = frozenset({"good", "ok", "g", "valid", "true", "good, non-specific", "good (non-specific)"})
KNOWN_BAD_WORDS = frozenset(
    {
        "",
        "bad",
        "b",
        "uncertain",
        "u",
        "substituted",
        "questionable",
        "invalid",
        "false",
        "stale",
        "not good",
        "no data",
    }
)
_DA_GOOD, _DA_LAST = 0xC0, 0xFF
_UA_SEVERITY = 0xC0000000


def good_codes(codes: Iterable[str | None], where: str) -> tuple[frozenset[str], tuple[str, ...]]:
    """The codes of a log that are good, and those that are words nobody here knows (not good).

    Raises:
        DataError: a code 0 that may mean good or bad.
    """
    found = {code for code in codes if code is not None}
    numbers = {code: number for code in found if (number := _number(code)) is not None}
    words = {code.strip().lower() for code in found if code not in numbers}
    da = any(0 < number <= _DA_LAST for number in numbers.values())
    ua = any(number > _DA_LAST for number in numbers.values())
    if 0 in numbers.values() and (da == ua) and not (words & GOOD_WORDS):
        raise DataError(
            "the quality code 0 is bad in OPC DA and good in OPC UA, and the other codes do not tell which is meant",
            where=where,
            cure="Write good or bad in words, or leave the quality column out if every sample is good.",
        )
    good = {code for code in found if code not in numbers and code.strip().lower() in GOOD_WORDS}
    for code, number in numbers.items():
        if _DA_GOOD <= number <= _DA_LAST or (number > _DA_LAST and not number & _UA_SEVERITY) or (number == 0 and ua):
            good.add(code)
    return frozenset(good), tuple(sorted(words - GOOD_WORDS - KNOWN_BAD_WORDS))


def _number(code: str) -> int | None:
    text = code.strip().lower()
    try:
        if text.startswith("0x"):
            return int(text, 16)
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() and number >= 0 else None
