"""Effect against cost, on curves whose answers can be computed by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from edgesteer.evaluate.frontier import (
    Curve,
    at_effect,
    averaged,
    cost_at_effect,
    effect_at_cost,
    effect_within,
    gain,
    make_curves,
    price,
    regulation,
)
from edgesteer.evaluate.paired import outcome

EFFECTS, COSTS = np.array([0.0, 0.4, 0.8]), np.array([0.0, 0.1, 0.3])


def even_curve(effects: list[float], costs: list[float], n: int = 20) -> Curve:
    """A curve on which all prompts are the same."""
    return Curve(np.arange(float(len(effects))), np.tile(effects, (n, 1)), np.tile(costs, (n, 1)))


@pytest.mark.parametrize(
    ("effect", "cost"), [(0.0, 0.0), (0.2, 0.05), (0.4, 0.1), (0.6, 0.2), (0.8, 0.3), (0.9, math.inf)]
)
def test_the_cost_of_an_effect_is_interpolated(effect: float, cost: float) -> None:
    assert cost_at_effect(EFFECTS, COSTS, effect) == pytest.approx(cost)


@pytest.mark.parametrize(("budget", "effect"), [(0.0, 0.0), (0.05, 0.2), (0.2, 0.6), (1.0, 0.8)])
def test_the_effect_at_a_cost_is_interpolated(budget: float, effect: float) -> None:
    assert effect_at_cost(EFFECTS, COSTS, budget) == pytest.approx(effect)


def test_a_dial_that_turns_back_is_read_where_it_is_cheapest() -> None:
    # The effect rises to 0.8 at 0.3 nats, falls to 0 at 0.5, and the cost at 0.4 is 0.15 on the way up.
    effects, costs = np.array([0.0, 0.8, 0.0]), np.array([0.0, 0.3, 0.5])
    assert cost_at_effect(effects, costs, 0.4) == pytest.approx(0.15)
    assert effect_at_cost(effects, costs, 0.5) == pytest.approx(0.8)


def test_more_effect_than_wanted_for_less_is_taken() -> None:
    assert cost_at_effect(np.array([0.0, 0.5]), np.array([0.0, -0.2]), 0.25) == pytest.approx(-0.2)


def test_rows_are_curves_of_their_own() -> None:
    found = cost_at_effect(np.stack([EFFECTS, EFFECTS / 2]), np.stack([COSTS, COSTS]), np.array([0.4, 0.4]))
    assert found == pytest.approx([0.1, 0.3])


def test_half_the_cost_at_the_same_effect_is_a_share_of_one_half() -> None:
    reference, arm = even_curve([0, 0.4, 0.8], [0, 0.1, 0.3]), even_curve([0, 0.4, 0.8], [0, 0.05, 0.15])
    found = price(reference, arm, 0.2)
    assert (found.effect, found.rival_cost, found.cost) == pytest.approx((0.6, 0.2, 0.1))
    assert (found.share.value, found.share.low, found.share.high) == pytest.approx((0.5, 0.5, 0.5))


def test_an_arm_that_never_gets_there_has_an_infinite_price() -> None:
    found = price(even_curve([0, 0.8], [0, 0.1]), even_curve([0, 0.3], [0, 0.1]), 0.1)
    assert found.cost == found.share.value == math.inf


def test_two_arms_that_pay_nothing_are_equal() -> None:
    idle = even_curve([0.2, 0.2], [0, 0.5])
    assert price(idle, idle, 0.1).share.value == 1.0


def test_the_interval_of_a_price_holds_the_planted_share() -> None:
    random = np.random.default_rng(0)
    noise = [random.normal(0, 0.02, (60, 3)) for _ in range(4)]
    effects, costs = np.array([0.1, 0.5, 0.9]), np.array([0.0, 0.15, 0.4])
    reference = Curve(np.arange(3.0), effects + noise[0], costs + noise[1])
    arm = Curve(np.arange(3.0), effects + noise[2], 0.4 * costs + noise[3])
    share = price(reference, arm, 0.2).share
    assert share.low < 0.4 < share.high < 0.6


def test_effect_within_a_budget_is_that_of_the_means() -> None:
    # Two prompts, of which one moves: the mean effect is 0.5 at 0.2 nats.
    curve = Curve(np.array([0.0, 1.0]), np.array([[0.0, 1.0], [0.0, 0.0]]), np.array([[0.0, 0.4], [0.0, 0.0]]))
    found = effect_within(curve, 0.1)
    assert found.value == pytest.approx(0.25)
    assert found.low <= found.value <= found.high


def test_at_a_matched_effect_every_prompt_is_interpolated() -> None:
    curve = Curve(np.array([0.0, 1.0]), np.array([[0.0, 1.0], [0.2, 0.4]]), np.array([[0.0, 0.2], [0.0, 0.0]]))
    found = at_effect(curve, 0.4)  # the mean runs from 0.1 to 0.7: half way
    assert found is not None
    np.testing.assert_allclose(found[0], [0.5, 0.3])
    np.testing.assert_allclose(found[1], [0.1, 0.0])


def test_the_matched_place_is_the_one_nearest_to_strength_0() -> None:
    curve = Curve(np.array([-1.0, 0.0, 0.5, 2.0]), np.array([[0.8, 0.0, 0.8, 0.0]]), np.array([[9.0, 0.0, 1.0, 5.0]]))
    found = at_effect(curve, 0.4)
    assert found is not None
    assert found[1] == pytest.approx([0.5])


def test_an_effect_that_is_not_reached_has_no_place() -> None:
    assert at_effect(even_curve([0, 0.4], [0, 1]), 0.5) is None


def test_regulation_compares_spreads_at_one_mean_effect() -> None:
    starts = np.array([0.0, 0.2, 0.4, 0.6])
    static = Curve(np.array([0.0, 1.0]), np.stack([starts, starts + 0.2], axis=1), np.zeros((4, 2)))
    held = np.full(4, 0.5) + np.array([-0.03, -0.01, 0.01, 0.03])
    closed = Curve(np.array([0.0, 1.0]), np.stack([starts, held], axis=1), np.zeros((4, 2)))
    found = regulation(static, closed, 0.5)
    assert found is not None
    assert found.reference_spread == pytest.approx(np.std(starts, ddof=1))
    assert found.spread == pytest.approx(np.std(held, ddof=1))
    assert found.ratio.value == pytest.approx(0.1)


def test_curves_pair_prompts_and_start_at_the_unsteered_model(make_record: Any) -> None:
    records = [
        make_record("none", 0.0, "a", nll=2.0, dogs=0.0), make_record("none", 0.0, "b", nll=3.0, dogs=1.0),
        make_record("lqr", 1.0, "a", nll=2.5, dogs=1.0), make_record("lqr", 1.0, "b", nll=3.0, dogs=1.0),
        make_record("lqr", -1.0, "a", nll=2.25, dogs=0.0), make_record("lqr", -1.0, "b", nll=3.25, dogs=0.0),
        make_record("system-prompt", 0.0, "a", nll=2.0, dogs=1.0),
    ]  # fmt: skip
    prompts, curves = make_curves(records, outcome("dogs"))
    assert prompts == ["a", "b"]
    assert list(curves) == ["lqr"]
    np.testing.assert_allclose(curves["lqr"].strengths, [-1, 0, 1])
    np.testing.assert_allclose(curves["lqr"].effects, [[0, 0, 1], [0, 1, 1]])
    np.testing.assert_allclose(curves["lqr"].costs, [[0.25, 0, 0.5], [0.25, 0, 0]])


def test_a_prompt_with_an_empty_text_has_no_place_on_a_curve(make_record: Any) -> None:
    records = [
        make_record(arm, strength, prompt, nll=math.nan if (arm, prompt) == ("lqr", "b") else 2.0, dogs=0.0)
        for arm, strength in (("none", 0.0), ("lqr", 1.0))
        for prompt in "abc"
    ]
    prompts, curves = make_curves(records, outcome("dogs"))
    assert prompts == ["a", "c"]
    assert curves["lqr"].effects.shape == (2, 2)


def test_gain_is_the_difference_of_the_effects_within_a_budget() -> None:
    # At 0.2 nats the reference has 0.6, the arm 0.75; all prompts are the same, so every resample says so.
    found = gain(even_curve([0, 0.4, 0.8], [0, 0.1, 0.3]), even_curve([0, 0.5, 1.0], [0, 0.1, 0.3]), 0.2)
    assert found.difference.value == pytest.approx(0.15)
    assert (found.difference.low, found.difference.high) == pytest.approx((0.15, 0.15))
    assert found.sureness == 1


def test_gain_over_oneself_is_nothing_and_as_sure_as_a_coin() -> None:
    curve = even_curve([0, 0.4, 0.8], [0, 0.1, 0.3])
    assert gain(curve, curve, 0.2).difference.value == 0
    assert gain(curve, curve, 0.2).sureness == 0.5


def test_gain_is_less_sure_where_prompts_disagree() -> None:
    reference = even_curve([0, 0.4], [0, 0.1])
    split = reference.effects + np.outer(np.where(np.arange(20) < 11, 0.1, -0.1), [0, 1])
    found = gain(reference, Curve(reference.strengths, split, reference.costs), 0.1)
    assert found.difference.value == pytest.approx(0.01)
    assert found.difference.contains(0)
    assert 0.5 < found.sureness < 0.8


def test_price_against_a_rival_divides_by_the_rivals_cost() -> None:
    """At the reference's effect the arm pays 0.1 and the rival 0.4: a quarter, whatever the reference pays."""
    reference, arm, rival = (even_curve([0, 1.0], [0, cost]) for cost in (0.2, 0.1, 0.4))
    found = price(reference, arm, 0.2, rival)
    assert (found.effect, found.rival_cost, found.cost) == pytest.approx((1.0, 0.4, 0.1))
    assert found.share.value == pytest.approx(0.25)


def test_concepts_are_averaged_place_by_place_of_their_dials() -> None:
    """Two prompts of one concept and one of another, whose dials differ in scale."""
    one = Curve(np.array([0.0, 0.5, 1.0]), np.array([[0, 0.2, 0.4], [0, 0.4, 0.8]]), np.array([[0, 0.1, 0.2]] * 2))
    other = Curve(np.array([0.0, 3.0, 6.0]), np.array([[0.3, 0.3, 0.6]]), np.array([[0, 0.4, 0.5]]))
    found = averaged([one, other])
    np.testing.assert_array_equal(found.strengths, [0, 1, 2])
    np.testing.assert_allclose(found.mean_effects, [0.1, 0.3, 0.6])
    np.testing.assert_allclose(found.mean_costs, [0, 0.2, 0.3])


def test_dials_of_different_lengths_cannot_be_averaged() -> None:
    with pytest.raises(ValueError, match="dimensions"):
        averaged([even_curve([0, 1.0], [0, 0.1]), even_curve([0, 0.5, 1.0], [0, 0.1, 0.2])])
