"""How much memory a process held."""

from __future__ import annotations

from pathlib import Path


def peak_mib() -> float:
    """The most memory that this process ever held, MiB (Linux).

    Its own: `getrusage` may show that of whoever began it, since a new program inherits the figure.
    """
    with Path("/proc/self/status").open() as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmHWM"].split()[0]) / 1024
