"""The loop's own choices, beside what the manifest and the site file say."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """See the module.

    Attributes:
        faulty_cycles: in a row, from which the mode falls back to SHADOW.
        settle_cycles: without a fault, before the mode may rise.
        read_share, compute_share, write_share: shares of the period, counted from its start, by which reading,
            computing and writing must be done.
        late_start: share of the period after which a cycle is left out.
        heartbeat_periods: after which the plant's counter must have moved.
        clock_jump_s: the wall clock's jump that counts as one.
        confirm: share of a command's span within which the plant's echo confirms it.
        require_trusted: whether only a bundle signed with the known key may be armed.
    """

    faulty_cycles: int = 3
    settle_cycles: int = 3
    read_share: float = 0.3
    compute_share: float = 0.5
    write_share: float = 0.9
    late_start: float = 0.5
    heartbeat_periods: int = 3
    clock_jump_s: float = 1.0
    confirm: float = 1e-3
    require_trusted: bool = True
