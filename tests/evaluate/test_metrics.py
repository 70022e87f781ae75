"""Costs that a text shows by itself, counted by hand."""

from __future__ import annotations

import math

import pytest

from edgesteer.evaluate.metrics import distinct, is_broken, repetition, words


def test_words_are_runs_of_letters_and_single_characters_where_there_are_no_spaces() -> None:
    assert words("Hello, WÖRLD 42! 你好 ab") == ["hello", "wörld", "42", "你", "好", "ab"]


def test_distinct_n_by_hand() -> None:
    text = "a b a b a"
    assert distinct(text, 1) == pytest.approx(2 / 5)
    assert distinct(text, 2) == pytest.approx(2 / 4)  # ab ba ab ba
    assert distinct(text, 5) == 1.0
    assert distinct(text, 6) == 1.0


def test_repetition_is_the_share_of_repeated_4_grams() -> None:
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)  # abcd bcda cdab dabc abcd
    assert repetition("no such thing") == 0.0


@pytest.mark.parametrize(
    ("text", "nll", "broken"),
    [
        ("A plain text of several different words.", 3.9, False),
        ("A plain text of several different words.", 4.1, True),
        ("a b c d e " * 4, 2.0, True),  # repeats 12 of its 17 4-grams
        ("so so so so", 2.0, True),  # one word of four
        ("", math.nan, False),
    ],
)
def test_a_text_is_broken_by_repetition_monotony_or_unlikeliness(text: str, nll: float, broken: bool) -> None:
    assert is_broken(text, nll, unsteered_nll=2.0) is broken
