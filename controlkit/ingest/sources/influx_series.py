"""Names of the tags that InfluxDB's series stand for.

A sample of InfluxDB belongs to a measurement, a field and any number of keys with values, which it calls tags; a plant
file has one name. `log.columns.tag` says how it is made: the name of a key (`sensor`), or a pattern of keys such as
`{site}/{_measurement}.{_field}`. Without it the field is the name, and the measurement where the field is just `value`.
"""

from __future__ import annotations

from collections.abc import Mapping
from string import Formatter

from controlkit.errors import DataError

MEASUREMENT, FIELD = "_measurement", "_field"
_PLAIN = "value"


class Naming:
    """Makes names of series, and refuses two series of one name.

    Args:
        pattern: `log.columns.tag` of the plant file.
        where: the source, for messages.

    Attributes:
        keys: that the pattern asks for.

    Raises:
        DataError: the pattern is none.
    """

    def __init__(self, pattern: str | None, where: str) -> None:
        self._where, self._seen = where, dict[str, tuple[tuple[str, str], ...]]()
        self._pattern = pattern if pattern is None or "{" in pattern else f"{{{pattern}}}"
        self.keys: tuple[str, ...] = (MEASUREMENT, FIELD)
        if self._pattern is not None:
            try:
                parts = list(Formatter().parse(self._pattern))
            except ValueError as problem:
                raise DataError(
                    f"'{pattern}' is no pattern of keys ({problem})", where="log.columns.tag of the plant file",
                    cure="Write such as '{_measurement}.{_field}'.",
                ) from None  # fmt: skip
            self.keys = tuple(key for _, key, _, _ in parts if key)

    def name(self, series: Mapping[str, str], place: str) -> str:
        """The name of a series, from its keys with their values.

        Raises:
            DataError: it lacks a key of the pattern, or another series has the same name.
        """
        if self._pattern is None:
            made = series[MEASUREMENT] if series[FIELD] == _PLAIN else series[FIELD]
        else:
            lacks = [key for key in self.keys if key not in series]
            if lacks:
                found = ", ".join(f"'{key}'" for key in series)
                cure = f"Mend 'log.columns.tag' in the plant file. It has {found}."
                raise DataError(f"a series without '{lacks[0]}'", where=place, cure=cure)
            made = "".join(text + (series[key] if key else "") for text, key, _, _ in Formatter().parse(self._pattern))
        whole = tuple(sorted(series.items()))
        before = self._seen.setdefault(made, whole)
        if before != whole:
            differ = sorted({key for key, _ in set(before) ^ set(whole)})
            raise DataError(
                f"two series of the name '{made}', which differ in {', '.join(differ)}", where=place,
                cure=f"Tell them apart by 'log.columns.tag' in the plant file, such as '{{{differ[0]}}}.{{_field}}'.",
            )  # fmt: skip
        return made
