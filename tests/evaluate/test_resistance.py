from __future__ import annotations

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.resistance import (
    Levels,
    acts_fully,
    corrections,
    course,
    resistance,
    section,
    smooth,
    split_at_correction,
    towards,
)

PLAIN = Levels(high=0.75, low=0.5, window=1, skip=0, rest=3)
AWAY, BACK = [0.9] * 10, [0.1] * 10


def report(alpha, strength=1.0, effort=1.0):
    return {"alpha": list(alpha), "strength": strength, "effort": [effort] * len(alpha)}


def test_smoothing_averages_neighbours():
    np.testing.assert_allclose(smooth([0, 3, 6, 0], 3), [3, 3])


def test_too_few_tokens_for_the_window_give_nothing():
    assert len(smooth([1, 2], 3)) == 0


def test_a_negative_strength_is_seen_from_the_other_pole():
    np.testing.assert_allclose(towards([0.2], -1.0), [0.8])
    np.testing.assert_allclose(towards([0.2], 1.0), [0.2])


def test_alpha_that_rises_and_falls_for_good_is_a_recovery():
    found = course([*AWAY, *BACK], 1.0, PLAIN)
    assert found.away
    assert found.recovered
    assert not found.late


def test_alpha_that_stays_high_is_none():
    found = course([*AWAY, *AWAY], 1.0, PLAIN)
    assert found.away
    assert not found.recovered


def test_alpha_that_was_never_high_cannot_recover():
    found = course([*[0.7] * 10, *BACK], 1.0, PLAIN)
    assert not found.away
    assert not found.recovered


def test_alpha_that_returns_to_the_concept_has_not_recovered():
    assert not course([*AWAY, *BACK, 0.6], 1.0, PLAIN).recovered


def test_a_last_dip_is_too_short_for_a_recovery():
    assert not course([*AWAY, 0.1, 0.1], 1.0, PLAIN).recovered
    assert course([*AWAY, 0.1, 0.1, 0.1], 1.0, PLAIN).recovered


def test_between_the_levels_is_not_low_enough():
    assert not course([*AWAY, *[0.6] * 10], 1.0, PLAIN).recovered


def test_alpha_that_only_becomes_high_is_late():
    found = course([*BACK, *AWAY], 1.0, PLAIN)
    assert found.late
    assert not found.recovered


def test_the_first_tokens_do_not_count():
    levels = Levels(window=1, skip=10, rest=3)
    assert not course([*AWAY, *BACK], 1.0, levels).away


def test_a_single_outlier_is_smoothed_away():
    levels = Levels(window=5, skip=0, rest=3)
    assert not course([0.1, 0.1, 0.1, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1], 1.0, levels).away


def test_a_recovery_from_the_negative_pole_is_one_too():
    assert course([1 - value for value in (*AWAY, *BACK)], -1.0, PLAIN).recovered


def test_a_text_without_tokens_shows_nothing():
    found = course([], 1.0)
    assert not found.away
    assert not found.recovered


def test_levels_that_cannot_be_are_refused():
    with pytest.raises(EdgeSteerError, match="low < high"):
        Levels(high=0.3, low=0.5)


def test_a_controller_that_let_go_did_not_act_fully():
    assert acts_fully(report(AWAY))
    assert not acts_fully(report(AWAY, effort=0.5))
    assert not acts_fully(report(AWAY, strength=0.0))
    assert not acts_fully(report([]))


def test_shares_are_of_texts_that_were_steered_away_and_of_all(make_record):
    low = [0.1] * 20
    alphas = [[*AWAY, *BACK], [*AWAY, *AWAY], [*AWAY, *AWAY], low, low]
    found = resistance([make_record("static", 1.0, steering=[report(alpha)]) for alpha in alphas], PLAIN)
    assert (found.n, found.away) == (5, 3)
    assert found.recovered.value == pytest.approx(1 / 3)
    assert found.of_all.value == pytest.approx(1 / 5)
    assert found.late.value == 0
    assert found.p_value == 0.5  # one coin


def test_many_recoveries_without_the_reverse_are_significant(make_record):
    records = [make_record("static", 1.0, steering=[report([*AWAY, *BACK])]) for _ in range(6)]
    assert resistance(records, PLAIN).p_value == pytest.approx(0.5**6)


def test_texts_of_a_closed_loop_do_not_count(make_record):
    assert resistance([make_record("lqr", 1.0, steering=[report([*AWAY, *BACK], effort=0.4)])], PLAIN).n == 0


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("The sea is blue. Wait, that's not right. You asked about bread.", "Wait,"),
        ("The sea is blue. Actually, you asked about bread.", "Actually,"),
        ("Take a boat. Let me start over. Take some flour.", "Let me start over"),
        ("First the waves, I mean, the flour.", "I mean,"),
        ("Waves! Oh no, wait! Flour.", "Oh no, wait"),
        ("Waves. I got sidetracked. Flour.", "I got sidetracked"),
    ],
)
def test_an_explicit_self_correction_splits_the_text(text, begins):
    found = split_at_correction(text)
    assert found is not None
    before, after = found
    assert after.startswith(begins)
    assert text.startswith(before)


@pytest.mark.parametrize(
    "text",
    [
        "We wait for the train. Wait for me there.",
        "It is actually good. Actually the sea is cold.",
        "I mean it. That is what I mean.",
        "Let me start with the flour.",
        "It turned out that that's wrong.",
        "Wait, what did you ask?",
        "",
    ],
)
def test_the_same_words_in_ordinary_use_correct_nothing(text):
    assert split_at_correction(text) is None


def test_self_corrections_are_compared_with_the_same_seeds_unsteered(make_record):
    says, silent = "Waves. Wait, no. Flour.", "Flour and water."
    base = [make_record(prompt=prompt, text=text) for prompt, text in zip("abc", (silent, silent, says), strict=True)]
    steered = [make_record("static", 1.0, prompt, text=says) for prompt in "abcd"]
    found = corrections(steered, base)
    assert found.steered.value == 1.0
    assert found.unsteered.value == pytest.approx(1 / 3)
    assert found.p_value == 0.25  # two pairs differ, both in one way


def test_the_section_tells_of_arms_at_full_effort_only(make_record):
    records = [
        make_record(),
        make_record("static", 1.0, steering=[report([*AWAY, *AWAY, *BACK])]),
        make_record("lqr", 1.0, steering=[report([*AWAY, *BACK], effort=0.5)]),
    ]
    found = section(records)
    assert "| static | 1 | 1 | 1 | 100 %" in found
    assert "lqr" not in found


def test_there_is_no_section_when_every_arm_lets_go(make_record):
    assert section([make_record(), make_record("lqr", 1.0, steering=[report(AWAY, effort=0.5)])]) == ""
