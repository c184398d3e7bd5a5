"""The errors a user can cause: one clear line that says what is wrong, where, and what to do.

The command line prints the message of a `ControlkitError` instead of a traceback and exits with its `exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ControlkitError(Exception):
    """Something a user can mend.

    Args:
        what: what is wrong, in one clause.
        where: file, line, tag or time stamp.
        cure: what to do about it.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", cure: str = "") -> None:
        self.what, self.where, self.cure = what, where, cure
        line = f"{where}: {what}" if where else what
        super().__init__(f"{line}. {cure}" if cure else line)

    def __reduce__(self) -> tuple[object, ...]:
        # Exceptions with keyword arguments do not pickle by default; worker processes must be able to send this one.
        return (_rebuild, (type(self), self.what, self.where, self.cure))


def _rebuild(kind: type[ControlkitError], what: str, where: str, cure: str) -> ControlkitError:
    return kind(what, where=where, cure=cure)


class SpecError(ControlkitError):
    """A plant description (YAML) that cannot be right."""


class ConfigError(ControlkitError):
    """A run configuration that cannot be right."""


class DataError(ControlkitError):
    """A log or a data set that cannot be used as it is."""


class ArtifactError(ControlkitError):
    """A run folder, report or bundle that is missing, damaged or of another version."""


class TrainingError(ControlkitError):
    """Training that cannot go on: a NaN loss, a threshold that ends every rollout."""


class GateError(ControlkitError):
    """An export gate that failed; no bundle is written."""


def nearest(name: str, valid: Iterable[str]) -> str:
    """A hint such as `did you mean 'door'?` for a misspelled name, or the list of valid names when none is near."""
    names = sorted(set(valid))
    close = [valid_name for valid_name in names if valid_name.lower() == name.lower()]
    close = close or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if close:
        return f"did you mean '{close[0]}'?"
    return f"valid names: {', '.join(names)}" if names else ""
