"""What long work shows where no bar can move."""

from __future__ import annotations

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


def test_a_line_is_there_before_the_work_is_over(capsys):
    with progress_bar() as progress:
        progress.start("runs", 1)
        progress.advance()
        assert "runs" in capsys.readouterr().err
        progress.message("[not] markup: /a/path")
    assert capsys.readouterr().err == "[not] markup: /a/path\n"
