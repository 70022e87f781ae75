"""How results are shown."""

from __future__ import annotations

import json
import math
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgesteer.cli.console import format_bytes, print_json, print_table, progress_bars, summarize
from edgesteer.errors import EdgeSteerError
from edgesteer.fingerprint import Fingerprint


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (168_800, "169 kB"), (999_700, "1 MB"), (98_400_000, "98.4 MB"),
     (4_370_000_000, "4.37 GB"), (5e12, "5e+03 GB")],
)  # fmt: skip
def test_sizes_are_in_decimal_units(count: float, text: str) -> None:
    assert format_bytes(int(count)) == text


def test_json_has_null_for_numbers_that_are_not_finite(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [math.nan, 1.5], "b": (math.inf,), "c": Path("x"), "d": Fingerprint("llama", 1, 2, "", "", "é")})
    shown = json.loads(capsys.readouterr().out)
    assert (shown["a"], shown["b"], shown["c"]) == ([None, 1.5], [None], "x")
    assert (shown["d"]["width"], shown["d"]["model_name"]) == (2, "é")


def test_table_in_a_pipe_is_aligned_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "size"), [("a", "1"), ("longer [b]", "")])
    assert capsys.readouterr().out == "name        size\na           1\nlonger [b]\n"


def test_summary_leaves_out_what_was_not_measured() -> None:
    report: Any = SimpleNamespace(
        alpha=[0.25, 0.75], running_mean=[0.1, 0.2], effort=[1.0, 0.5], error_before=2.0, error_after=0.5,
        error_bound=math.nan, violations=[0, 0], checks=[0, 0],
    )  # fmt: skip
    assert str(summarize(report)) == ("alpha mean 0.50, running mean 0.20, effort 0.75, tracking error 2.00 -> 0.50")
    report.running_mean, report.alpha, report.effort = [math.nan], [], []
    assert str(summarize(report)) == "tracking error 2.00 -> 0.50"


def test_summary_shows_the_bound_beside_the_error() -> None:
    report: Any = SimpleNamespace(
        alpha=[], running_mean=[], effort=[], error_before=2.0, error_after=0.5, error_bound=0.75, violations=[1, 2],
        checks=[20, 10],
    )  # fmt: skip
    assert str(summarize(report)) == "tracking error 2.00 -> 0.50, bound 0.75 exceeded 3 times in 30"


def test_progress_in_a_pipe_is_a_line_a_stage_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as progress:
        advance = progress.stage("Jacobians", 2)
        advance()
    assert tuple(capsys.readouterr()) == ("", "Jacobians (2 steps)\n")


def test_quiet_progress_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars(quiet=True) as progress:
        progress.stage("Jacobians", 2)()
    assert tuple(capsys.readouterr()) == ("", "")


def test_progress_in_a_terminal_draws_a_bar_that_counts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bars() as progress:
        advance = progress.stage("Jacobians", 2)
        advance()
        advance()
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "Jacobians" in shown.err
    assert "2/2" in shown.err


def drawing_threads() -> set[threading.Thread]:
    """Those of rich; one of an earlier test may still be about to end."""
    return {thread for thread in threading.enumerate() if type(thread).__module__.startswith("rich.")}


def test_still_progress_is_drawn_at_each_step_and_never_between(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    before = drawing_threads()
    with progress_bars(animated=False) as progress:
        assert drawing_threads() <= before
        advance = progress.stage("rounds", 2)
        assert "0/2" in capsys.readouterr().err
        advance()
        assert "1/2" in capsys.readouterr().err
    with progress_bars() as progress:
        assert drawing_threads() - before


def test_progress_lets_errors_through() -> None:
    with pytest.raises(EdgeSteerError, match="inside"), progress_bars():
        raise EdgeSteerError("inside")
