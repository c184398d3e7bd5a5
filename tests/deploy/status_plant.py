"""Records of a plant with six tags, as the runtime would publish them, for the tests of the status page."""

from __future__ import annotations

import math
from dataclasses import replace

from deploy.runtime.snapshot import CommandView, Notice, Snapshot, TagView
from deploy.runtime.status import StatusBoard

NS = 1_000_000_000
HOSTILE = "<img src=x onerror=alert(1)>"


class FakeClock:
    """Seconds that pass when a test says so."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def snapshot(cycle: int = 0, *, time_ns: int = 1_700_000_000 * NS, period_s: float = 1.0) -> Snapshot:
    """Cycle `cycle` of a distillation column that is ARMED, with one alarm since ten minutes."""
    t = cycle * period_s
    wave, slow = math.sin(t / 240.0), math.sin(t / 600.0)
    noise = math.sin(12.9898 * cycle) * 0.5 + math.sin(78.233 * cycle) * 0.5
    reflux = 41.0 + 3.0 * slow + 0.8 * wave
    duty = 612.0 + 25.0 * math.sin(t / 400.0 + 1.0)
    tags = (
        ("top_temperature", "degC", 78.4 + 0.9 * wave + 0.3 * noise, 60.0, 110.0, "tray 3"),
        ("bottom_temperature", "degC", 103.2 + 1.4 * slow + 0.4 * noise, 60.0, 140.0, "sump"),
        ("sump_level", "%", 52.0 + 9.0 * slow + 1.5 * noise, 0.0, 100.0, "differential pressure"),
        ("column_pressure", "bar", 1.013 + 0.004 * wave + 0.001 * noise, 0.8, 1.4, ""),
        ("feed_flow", "m³/h", 12.0 + (2.0 if (t // 900) % 2 else 0.0) + 0.1 * noise, 0.0, 25.0, "from tank farm"),
        ("feed_purity", "1", 0.94, 0.5, 1.0, "analyser, every 10 minutes"),
    )
    alarm = Notice(
        time_ns - 600 * NS,
        "alarm",
        "tag_stale",
        "feed_purity: no new value for longer than 600 s. Check the analyser; the last value is not used.",
        True,
    )
    past = (
        Notice(time_ns - 2400 * NS, "info", "armed", "armed by m.keller under change record MOC-2231", False),
        Notice(time_ns - 2700 * NS, "warning", "write_refused", "the plant refused one write of reflux_flow", False),
    )
    return Snapshot(
        plant="column-7",
        controller="3f9a0c41d7be",
        mode="ARMED",
        wanted="ARMED",
        why="",
        mode_since_ns=time_ns - 2400 * NS,
        time_ns=time_ns,
        cycle=cycle,
        period_s=period_s,
        tags=tuple(
            TagView(name, unit, value, name != "feed_purity", 0.4 + 640.0 * (name == "feed_purity"), low, high, about)
            for name, unit, value, low, high, about in tags
        ),
        commands=(
            CommandView(
                "reflux_flow", "m³/h", reflux, reflux + 0.2 * wave, reflux + 0.9, 40.0, 20.0, 60.0, "to tray 1"
            ),
            CommandView("reboiler_duty", "kW", duty, duty + 4.0 * wave, duty + 11.0, 600.0, 0.0, 900.0),
        ),
        trust=max(0.0, min(1.0, 0.82 + 0.3 * slow)),
        score_observed=1.9 + 0.4 * noise,
        score_predicted=1.7 + 0.3 * wave,
        spread=0.021 + 0.004 * wave,
        shortfall=0.8 * noise,
        ewma=0.22 + 0.1 * slow,
        cusum=max(0.0, 3.1 + 3.0 * slow),
        limits={"shortfall": 6.4, "ewma": 0.9, "cusum": 14.0, "spread": 0.05, "score_predicted": -0.5},
        flags={"input_bad_age": "a sample is older than its tag allows, or its age is no age"},
        faults={"tag_stale": "feed_purity: 640 s old, at most 600 s are allowed"},
        notices=(alarm, *past),
        counters={"cycles": cycle, "late": 2, "faulty": 0, "writes": cycle, "refused": 1, "reconnects": 1},
        compute_ms=0.41,
        cycle_ms=17.3 + noise,
        calibration="done: 300 of 300 steps",
        lease="edge-2, renewed 0.4 s ago",
        slots={"A": "3f9a0c41d7be (active)", "B": "91c2e07755aa (previous, ready for rollback)"},
        change_record="MOC-2231",
        operator="m.keller",
    )


def board_after_an_hour(now_ns: int = 1_700_000_000 * NS, seconds: int = 3590) -> StatusBoard:
    """A board that was fed one record a second, the last one at `now_ns` and just now; SHADOW before it was ARMED."""
    clock = FakeClock()
    board = StatusBoard(clock=clock)
    for cycle in range(seconds):
        time_ns = now_ns - (seconds - 1 - cycle) * NS
        record = snapshot(cycle, time_ns=time_ns)
        if cycle < seconds - 2400:
            record = replace(record, mode="ADVISORY" if cycle > 600 else "SHADOW")
        clock.now += 1.0
        board.publish(record)
    return board
