"""Offline policy evaluation: may this policy go on the plant? `evaluate` computes, `write_report` writes.

The names below are loaded when they are first asked for, so that importing the package stays light; `EXIT_CODES` and
the verdicts need no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from controlkit.evaluation.verdict import EXIT_CODES, Verdict

if TYPE_CHECKING:
    from controlkit.evaluation.assessment import evaluate
    from controlkit.evaluation.report import Report, write_report

__all__ = ["EXIT_CODES", "Report", "Verdict", "evaluate", "write_report"]

_HOMES = {
    "evaluate": "controlkit.evaluation.assessment",
    "Report": "controlkit.evaluation.report",
    "write_report": "controlkit.evaluation.report",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'controlkit.evaluation' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
