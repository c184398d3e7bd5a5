"""Alarms and events for people: what began when, whether it still holds; bounded, newest first."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import replace

from deploy.runtime.snapshot import Notice, Severity


class Notices:
    """Keeps one notice per name while it is active, and the last ones that are over.

    Args:
        tell: called with every notice that begins or ends, for the audit log.
        past: how many that are over are kept.
    """

    def __init__(self, tell: Callable[[Notice], None], past: int = 50) -> None:
        self._tell = tell
        self._active: OrderedDict[str, Notice] = OrderedDict()
        self._past: deque[Notice] = deque(maxlen=past)

    def hold(self, active: Mapping[str, tuple[Severity, str]], time_ns: int) -> None:
        """What holds in this cycle: name -> severity and text. What is no longer named is over."""
        for name, (severity, text) in active.items():
            if name in self._active:
                self._active[name] = replace(self._active[name], text=text, severity=severity)
                continue
            self._active[name] = notice = Notice(time_ns, severity, name, text, True)
            self._tell(notice)
        for name in [name for name in self._active if name not in active]:
            over = replace(self._active.pop(name), active=False)
            self._past.appendleft(over)
            self._tell(replace(over, time_ns=time_ns))

    def event(self, name: str, severity: Severity, text: str, time_ns: int) -> None:
        """Something that happened and does not last."""
        notice = Notice(time_ns, severity, name, text, False)
        self._past.appendleft(notice)
        self._tell(notice)

    def shown(self) -> tuple[Notice, ...]:
        """Active ones first, then what is over, newest first."""
        return (*reversed(self._active.values()), *self._past)
