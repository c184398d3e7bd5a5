"""Shadow evaluation: what the policy would have done beside what was done, from the runtime's audit log.

The names below are loaded when they are first asked for, so that importing the package stays light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deploy.shadow.report import ShadowReport, shadow_report
    from deploy.shadow.verdict import EXIT_CODES, Rules

__all__ = ["EXIT_CODES", "Rules", "ShadowReport", "shadow_report"]

_HOMES = {
    "EXIT_CODES": "deploy.shadow.verdict",
    "Rules": "deploy.shadow.verdict",
    "ShadowReport": "deploy.shadow.report",
    "shadow_report": "deploy.shadow.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'deploy.shadow' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
