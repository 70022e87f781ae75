"""Gauges and coloured tokens."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from edgesteer.cli.chat_screen import (
    GAUGE_WIDTH,
    colour,
    coloured_tokens,
    dial_lines,
    gauge,
    numbered_tokens,
    visible,
)
from edgesteer.cli.conversation import Token


def reading(alpha: float) -> Any:
    return SimpleNamespace(alpha=alpha, setpoint=1.0, running_mean=math.nan, effort=0.75)


def test_gauge_has_zero_in_the_middle_the_tuned_marks_and_the_dial() -> None:
    # From -1.25 to 1.25 in 40 steps of 0.0625; safe from -0.5 (cell 12) to 1 (cell 36).
    assert gauge(0.5, (-0.5, 1.0)) == "....+.......--------|-------o-------+...."


@pytest.mark.parametrize(("strength", "cell"), [(0.0, 20), (1.0, 36), (-1.0, 4), (3.0, 36), (-40.0, 4)])
def test_dial_is_always_on_the_gauge(strength: float, cell: int) -> None:
    scale = gauge(strength, (-1.0, 1.0))
    assert (len(scale), scale.index("o"), scale.count("o")) == (GAUGE_WIDTH, cell, 1)


def test_a_dial_shows_poles_strength_safe_range_and_what_was_measured() -> None:
    controller: Any = SimpleNamespace(name="warm", positive="warm", negative="cold", safe_range=(-1.5, 2.0))
    assert dial_lines(controller, 0.5, reading(0.25)) == [
        "warm 0.5, safe -1.5 to 2",
        f"  cold {gauge(0.5, (-1.5, 2.0))} warm",
        "  alpha 0.25, setpoint 1.00, effort 0.75",
    ]
    assert len(dial_lines(controller, 0.5, None)) == 2


def test_colours_go_from_one_pole_to_the_other_and_stay_there() -> None:
    assert colour(0.0) == colour(-3.0) == "rgb(64,128,255)"
    assert colour(0.5) == "rgb(160,160,160)"
    assert colour(1.0) == colour(9.0) == "rgb(64,200,96)"
    assert colour(0.75) == "rgb(112,180,128)"
    assert colour(math.nan) == ""


def test_tokens_are_coloured_or_numbered_by_their_own_alpha() -> None:
    tokens = [Token("the", {"warm": reading(1.0)}), Token(" sea", {"formal": reading(0.0)}), Token("\x1b", {})]
    text = coloured_tokens(tokens, "warm")
    assert text.plain == "the sea\ufffd"
    assert [(span.start, span.end, span.style) for span in text.spans] == [(0, 3, colour(1.0))]
    assert numbered_tokens(tokens, "warm") == "the[1.00] sea\ufffd"


def test_codes_that_a_terminal_obeys_are_not_shown() -> None:
    assert visible("a\x1b[2Jb\r\n\tc\x07\x9b1mé") == "a\ufffd[2Jb\ufffd\n\tc\ufffd\ufffd1mé"
