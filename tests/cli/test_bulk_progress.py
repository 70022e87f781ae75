"""How far a run is."""

from __future__ import annotations

import pytest

from edgesteer.cli.bulk_progress import BulkProgress


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_status_counts_texts_speed_share_and_time_left(clock: Clock) -> None:
    progress = BulkProgress(1000, clock)
    progress.texts, progress.tokens = 3, 80
    progress.advance(200)
    clock.seconds += 40
    assert progress.status() == "3 texts, 2.0 tokens/s, 20%, 0:02:40 left"


def test_failed_and_skipped_texts_are_counted(clock: Clock) -> None:
    progress = BulkProgress(None, clock)
    progress.texts, progress.failed, progress.skipped = 3, 1, 2
    assert str(progress) == progress.status() == "3 texts, 1 failed, 2 done before, 0.0 tokens/s"


def test_lines_that_took_no_time_do_not_shorten_what_is_left(clock: Clock) -> None:
    progress = BulkProgress(1000, clock)
    progress.advance(500, fresh=False)
    assert progress.status().endswith(" tokens/s, 50%")
    progress.advance(100)
    clock.seconds += 10
    assert progress.status().endswith("60%, 0:00:40 left")


def test_in_a_pipe_a_line_comes_every_ten_seconds_and_one_at_the_end(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with BulkProgress(None, clock) as progress:
        for seconds in (1, 8, 1, 1, 9):
            clock.seconds += seconds
            progress.texts += 1
            progress.show()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert [line.split(",")[0] for line in shown.err.splitlines()] == ["3 texts", "5 texts", "5 texts"]


def test_in_a_terminal_a_bar_is_drawn(
    clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with BulkProgress(100, clock) as progress:
        progress.texts = 1
        progress.advance(50)
        progress.show()
        progress._bar.refresh()  # type: ignore[union-attr]  # else the test would have to wait for its thread
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "1 text," in shown.err
    assert "━" in shown.err
