"""What the quality codes of a log are worth.

OPC DA: the two highest bits of the low byte (11 good, 01 uncertain, 00 bad). OPC UA (OPC 10000-4, "StatusCode"): the
two highest bits of the 32 (00 good, 01 uncertain, 10 and 11 bad). The code 0 is bad in the one and good in the other;
other codes of the same log tell which it is, and where they do not, that is an error rather than a guess. A preset's
codes come first. A word nobody here knows counts as bad and is reported.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from controlkit.errors import DataError
from controlkit.ingest.stage import Code

_WORDS = {
    **dict.fromkeys(
        ("good", "ok", "g", "valid", "true", "good, non-specific", "good (non-specific)", "goodnonspecific", "normal"),
        Code.GOOD,
    ),
    **dict.fromkeys(("uncertain", "u", "questionable", "suspect", "doubtful"), Code.UNCERTAIN),
    **dict.fromkeys(
        ("substituted", "s", "manual", "good, local override", "good (local override)", "uncertain, substituted",
         "goodlocaloverride", "uncertainsubstitutevalue", "uncertain (substituted)", "estimated", "interpolated"),
        Code.SUBSTITUTED,
    ),
    **dict.fromkeys(
        ("", "bad", "b", "invalid", "false", "stale", "not good", "no data", "fail", "failed", "error", "comm fail",
         "i/o timeout", "shutdown", "badnonspecific", "bad, non-specific"),
        Code.BAD,
    ),
}  # fmt: skip
_DA_LAST = 0xFF
# Good with a local override (OPC DA 0xD8, OPC UA 0x00960000): somebody has put the value in by hand.
_DA_OVERRIDE, _UA_OVERRIDE, _UA_SUBSTITUTE = 0xD8, 0x0096, 0x4091


def is_word(text: str) -> bool:
    """Whether a cell is a word that stands in columns of qualities, and not as well in one of modes."""
    return _plain(text) in _WORDS.keys() - {"", "manual", "shutdown"}


class Codes:
    """The quality codes of one source: what they are worth, and which of them nobody here knows.

    Args:
        where: the source, for messages.
        preset: what a historian's own code is worth; None where it has no such code.
    """

    def __init__(self, where: str, preset: Callable[[str], Code | None] | None = None) -> None:
        self._where, self._preset = where, preset
        self._da = self._ua = self._good_word = self._zero = False
        self._unknown: dict[str, None] = {}

    @property
    def unknown(self) -> tuple[str, ...]:
        """Words that nobody here knows, in small letters."""
        return tuple(sorted(self._unknown))

    @property
    def doubtful(self) -> bool:
        """Whether a 0 was seen, and nothing that tells what it means."""
        return self._zero and self._da == self._ua and not self._good_word

    @property
    def zero_means(self) -> tuple[bool, bool, bool]:
        """What was seen that tells what a 0 means."""
        return self._da, self._ua, self._good_word

    @property
    def zero_seen(self) -> bool:
        """Whether a 0 was seen."""
        return self._zero

    def take_unknown(self, words: Iterable[str]) -> None:
        """Takes over unknown words that were met elsewhere in the source."""
        self._unknown |= dict.fromkeys(words)

    def look(self, texts: Iterable[str | None]) -> None:
        """Takes note of codes that tell what a 0 means."""
        for text in texts:
            if text is None or self._own(text) is not None:
                continue
            number = _number(text)
            if number is None:
                self._good_word |= _WORDS.get(_plain(text)) is Code.GOOD
            else:
                self._zero |= number == 0
                self._da |= 0 < number <= _DA_LAST
                self._ua |= number > _DA_LAST

    def learn(self, others: Iterable[Codes]) -> None:
        """Takes from the other sources of the log what a 0 means, where this one does not tell."""
        if self.doubtful:
            told = [other for other in others if not other.doubtful]
            self._da = any(other._da for other in told)
            self._ua = any(other._ua for other in told)
            self._good_word = any(other._good_word for other in told)

    def worth(self, text: str | None) -> Code:
        """What a code is worth.

        Raises:
            DataError: a 0 that may mean good or bad.
        """
        if text is None:
            return Code.BAD
        own = self._own(text)
        if own is not None:
            return own
        number = _number(text)
        if number is None:
            word = _plain(text)
            if word not in _WORDS:
                self._unknown[word] = None
            return _WORDS.get(word, Code.BAD)
        if number == 0:
            self._zero = True
            if self.doubtful:
                raise DataError(
                    "the quality code 0 is bad in OPC DA and good in OPC UA, and the other codes do not tell which is "
                    "meant",
                    where=self._where,
                    cure="Write good or bad in words, name the historian (log.preset), or leave the quality column "
                    "out if every sample is good.",
                )
            return Code.GOOD if self._ua and not self._da else Code.BAD
        return _of_da(number) if number <= _DA_LAST else _of_ua(number)

    def _own(self, text: str) -> Code | None:
        return self._preset(text) if self._preset is not None else None


def _of_da(code: int) -> Code:
    if code & 0xFC == _DA_OVERRIDE:
        return Code.SUBSTITUTED
    return (Code.BAD, Code.UNCERTAIN, Code.BAD, Code.GOOD)[code >> 6]


def _of_ua(code: int) -> Code:
    if code >> 16 in (_UA_OVERRIDE, _UA_SUBSTITUTE):
        return Code.SUBSTITUTED
    return (Code.GOOD, Code.UNCERTAIN, Code.BAD, Code.BAD)[code >> 30 & 3]


def _plain(text: str) -> str:
    return text.strip().lower()


def _number(text: str) -> int | None:
    text = _plain(text)
    try:
        if text.startswith("0x"):
            return int(text, 16)
        number = float(text)
    except ValueError:
        return None
    return int(number) if number.is_integer() and number >= 0 else None
