from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.steerability import (
    Dial,
    calibration,
    coverage,
    make_dial,
    orthogonality,
    rank_correlation,
    reached,
    section,
    side_effects,
)


def dial_of(strengths: list[float], *outcomes: list[float]) -> Dial:
    return Dial(np.array(strengths), np.array(outcomes))


LINEAR = dial_of([-1, 0, 0.5, 1], [0.1, 0.2, 0.25, 0.3], [0.3, 0.5, 0.6, 0.7])  # slopes 0.1 and 0.2


def test_a_dial_has_the_unsteered_texts_at_strength_0(make_record):
    records = [make_record(sea=0.2), make_record("lqr", 1.0, sea=0.6), make_record("lqr", -1.0, sea=0.1)]
    dial = make_dial(records, "lqr", "sea")
    np.testing.assert_array_equal(dial.strengths, [-1, 0, 1])
    np.testing.assert_allclose(dial.outcomes, [[0.1, 0.2, 0.6]])
    np.testing.assert_allclose(dial.response, [-0.1, 0, 0.4])


def test_coverage_is_the_range_between_the_ends_averaged_over_prompts():
    assert coverage(LINEAR).value == pytest.approx((0.2 + 0.4) / 2)


def test_a_dial_that_runs_backwards_covers_a_negative_share():
    assert coverage(dial_of([0, 1], [0.5, 0.2], [0.4, 0.5])).value == pytest.approx(-0.1)


def test_a_goal_is_reached_by_the_prompts_whose_ends_enclose_it():
    assert reached(LINEAR, 0.4).value == 0.5
    assert reached(LINEAR, 0.3).value == 1.0
    assert reached(LINEAR, 0.9).value == 0.0


def test_a_linear_dial_is_calibrated():
    found = calibration(LINEAR)
    assert found.rank_correlation.value == pytest.approx(1.0)
    assert found.slope.value == pytest.approx(0.15)
    assert found.r_squared == pytest.approx(1.0)
    assert found.slope_ratio == pytest.approx(1.0)
    assert found.largest_deviation == pytest.approx(0.0, abs=1e-12)
    assert found.miscalibration == pytest.approx(0.0, abs=1e-12)
    assert found.overshoot == pytest.approx(0.0, abs=1e-12)


def test_a_saturating_dial_overshoots_what_the_middle_asks_for():
    # 0.3 at half way where 0.2 was asked: half as much again; the far half adds 0.1 after 0.3
    found = calibration(dial_of([0, 0.5, 1], [0.0, 0.3, 0.4]))
    assert found.slope_ratio == pytest.approx(1 / 3)
    assert found.miscalibration == found.overshoot == pytest.approx(0.5)
    # least squares: y = 0.4 x + 1/30; the residuals are -1/30, 2/30, -1/30, the range 0.4
    assert found.largest_deviation == pytest.approx(2 / 30 / 0.4)


def test_a_dial_that_starts_late_is_off_without_overshoot():
    found = calibration(dial_of([0, 0.5, 1], [0.0, 0.1, 0.4]))
    assert found.slope_ratio == pytest.approx(3.0)
    assert found.miscalibration == pytest.approx(0.5)
    assert found.overshoot == 0.0


def test_the_slope_ratio_takes_the_side_that_reaches_furthest():
    found = calibration(dial_of([-2, -1, 0, 1], [0.1, 0.2, 0.5, 0.9]))
    assert found.slope_ratio == pytest.approx(0.1 / 0.3)


def test_a_dial_that_does_nothing_has_no_calibration():
    found = calibration(dial_of([0, 0.5, 1], [0.5, 0.5, 0.5], [0.2, 0.2, 0.2]))
    assert found.slope.value == 0
    assert math.isnan(found.rank_correlation.value)
    assert math.isnan(found.slope_ratio)
    assert math.isnan(found.miscalibration)


def test_the_rank_correlation_is_scipys_of_the_mean_response():
    outcomes = np.random.default_rng(1).random((9, 5))
    dial = Dial(np.array([-1.0, 0, 0.5, 1, 2]), outcomes)
    assert rank_correlation(dial).value == pytest.approx(stats.spearmanr(dial.strengths, outcomes.mean(axis=0))[0])


def test_the_interval_of_a_rank_correlation_is_a_point_where_every_prompt_says_the_same():
    found = rank_correlation(dial_of([0, 1, 2], [0, 0.1, 0.4], [0.1, 0.2, 0.3], [0, 0.5, 0.9]))
    assert found.low == found.value == found.high == pytest.approx(1.0)


def two_judges(make_record, sea: float, length: float):
    """Two prompts: the concept rises by `sea`, the other judge changes by `length`."""
    base = [make_record(prompt=prompt, sea=0.1, length=0.5) for prompt in "ab"]
    return base + [
        make_record("lqr", strength, prompt, sea=0.1 + strength * sea, length=0.5 + strength * length)
        for prompt in "ab"
        for strength in (0.5, 1.0)
    ]


def test_a_side_effect_is_told_beside_the_effect(make_record):
    (effect,) = side_effects(two_judges(make_record, 0.4, -0.3), "lqr", "sea", ["length"])
    assert effect.judge == "length"
    assert effect.change.value == pytest.approx(-0.3)
    assert effect.relative == pytest.approx(-0.75)


def test_orthogonality_is_the_sine_of_the_angle_to_the_asked_direction(make_record):
    assert orthogonality(two_judges(make_record, 0.4, -0.3), "lqr", "sea", ["length"]).value == pytest.approx(0.6)
    assert orthogonality(two_judges(make_record, 0.4, 0.0), "lqr", "sea", ["length"]).value == pytest.approx(0.0)


def test_side_effects_are_judged_together(make_record):
    rng = np.random.default_rng(2)
    names = [f"other{number}" for number in range(5)]
    records = []
    for prompt in map(str, range(20)):
        records.append(make_record(prompt=prompt, sea=0.0, **dict.fromkeys(names, 0.5)))
        moved = dict.fromkeys(names, float(rng.normal(0.5, 0.1)))
        records.append(make_record("lqr", 1.0, prompt, sea=0.5, **moved))
    (alone,) = side_effects(records, "lqr", "sea", names[:1])
    together = side_effects(records, "lqr", "sea", names)[0]
    assert together.change.low < alone.change.low < alone.change.high < together.change.high


def test_the_section_has_a_row_for_every_arm_with_a_dial(make_record):
    records = two_judges(make_record, 0.4, -0.3)
    records += [make_record("system-prompt", 0.0, prompt, sea=0.5, length=0.5) for prompt in "ab"]
    found = section(records, "sea")
    assert found.startswith("## Steerability\n")
    assert found.count("\n| lqr |") == 2  # the dial, and its one side effect
    assert "system-prompt" not in found
    assert "| lqr | length | -0.30 (-0.30 to -0.30) | -0.75 |" in found


def test_there_is_no_section_without_a_dial(make_record):
    assert section([make_record(sea=0.1), make_record("lqr", 1.0, sea=0.2)], "sea") == ""


def test_a_run_without_unsteered_texts_is_refused(make_record):
    with pytest.raises(EdgeSteerError, match="no unsteered texts"):
        section([make_record("lqr", 0.5, sea=0.1), make_record("lqr", 1.0, sea=0.2)], "sea")
