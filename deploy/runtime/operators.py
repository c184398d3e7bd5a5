"""Who may raise the mode: operators with a token each. Only hashes are stored; tokens are 32 random bytes."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping

from controlkit.errors import ControlkitError
from deploy.runtime.clock import NS, Clock

HASH = re.compile(r"sha256:[0-9a-f]{64}")
CHANGE_RECORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:-]{0,79}")
MAX_TOKEN = 200


def new_token() -> tuple[str, str]:
    """A token for an operator, and its hash for the site file."""
    token = secrets.token_urlsafe(32)
    return token, token_hash(token)


def token_hash(token: str) -> str:
    """What the site file keeps. A plain hash will do: 256 random bits cannot be guessed from it."""
    return f"sha256:{hashlib.sha256(token.encode()).hexdigest()}"


class Operators:
    """Checks tokens; after `tries` wrong ones nobody is let in for `pause_s` seconds.

    Args:
        hashes: hash by the operator's name.
        clock: for the pause.
    """

    def __init__(self, hashes: Mapping[str, str], clock: Clock, tries: int = 5, pause_s: float = 60.0) -> None:
        self._hashes, self._clock, self._tries, self._pause_ns = dict(hashes), clock, tries, round(pause_s * NS)
        self._wrong, self._until_ns = 0, 0

    def identify(self, token: str) -> str:
        """The operator whose token this is.

        Raises:
            ControlkitError: nobody's, or too many were wrong lately.
        """
        where = "operator's token"
        if not self._hashes:
            raise ControlkitError(
                "no operator is named", where="site file", cure="Add one: controlkit operate --new-token NAME."
            )
        if self._clock.monotonic_ns() < self._until_ns:
            raise ControlkitError("too many wrong tokens", where=where, cure="Wait a minute, then try again.")
        found = ""
        given = token_hash(token[:MAX_TOKEN])
        for name, stored in self._hashes.items():  # all of them, so that time tells nothing
            if hmac.compare_digest(given, stored):
                found = name
        if found:
            self._wrong = 0
            return found
        self._wrong += 1
        if self._wrong >= self._tries:
            self._wrong, self._until_ns = 0, self._clock.monotonic_ns() + self._pause_ns
        raise ControlkitError("is nobody's", where=where, cure="Use the token that belongs to a name in the site file.")


def require_change_record(text: str) -> str:
    """The id of a change record, for the audit log.

    Raises:
        ControlkitError: none is given, or it is no id.
    """
    if not CHANGE_RECORD.fullmatch(text):
        raise ControlkitError(
            "arming needs the id of a change record" if not text else f"'{text[:80]}' is no id of a change record",
            where="--change-record",
            cure="Give the plant's own id, such as MOC-2026-017.",
        )
    return text
