"""What long work shows where no bar can move."""

from __future__ import annotations

import pytest

from controlkit.progress import LINE_EVERY_S, Lines, progress_bar


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_file_gets_a_line_now_and_then_and_one_when_a_stage_is_done():
    lines: list[str] = []
    clock = Clock()
    progress = Lines(lines.append, clock)
    progress.start("runs", 3)
    progress.advance(note="score 1.0")
    assert lines == []  # it has only begun
    clock.now += LINE_EVERY_S
    progress.advance()
    assert lines == [f"{'runs':<24} 2/3 0:00:30 score 1.0"]
    progress.message("a warning")
    progress.advance(note="score 2.0")
    progress.start("table", 2)
    clock.now += LINE_EVERY_S - 1.0
    progress.advance()
    assert lines[1:] == ["a warning", f"{'runs':<24} 3/3 0:00:30 score 2.0"]
    progress.advance()
    assert lines[3:] == [f"{'table':<24} 2/2 0:00:29"]


def test_a_stage_that_stops_early_is_told_of_once():
    lines: list[str] = []
    progress = Lines(lines.append, Clock())
    progress.start("world model", 20)
    progress.advance(3, note="hold-out 0.1")
    progress.start("policy", 40)
    assert lines == [f"{'world model':<24} 3/20 0:00:00 hold-out 0.1"]
    progress.tell()  # nothing of it is done
    assert len(lines) == 1


def failing_work() -> None:
    with progress_bar() as progress:
        progress.start("runs", 2)
        progress.advance()
        raise ValueError("no")


def test_work_that_fails_says_how_far_it_came(capsys):
    with pytest.raises(ValueError, match="no"):
        failing_work()
    assert capsys.readouterr().err == f"{'runs':<24} 1/2 0:00:00\n"


def test_a_line_is_there_before_the_work_is_over(capsys):
    with progress_bar() as progress:
        progress.start("runs", 1)
        progress.advance()
        assert "runs" in capsys.readouterr().err
        progress.message("[not] markup: /a/path")
    assert capsys.readouterr().err == "[not] markup: /a/path\n"
