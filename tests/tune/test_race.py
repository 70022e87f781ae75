"""The race, on responses that are known: who wins, at which level, and how sure that is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgesteer.controller import Controller
from edgesteer.evaluate.frontier import Curve
from edgesteer.tune.meter import Point, shrunk, strength_at
from edgesteer.tune.race import (
    FINALISTS,
    Candidate,
    entrants,
    field_of,
    pilot,
    race,
    sizes_of_rounds,
)
from edgesteer.tune.settings import Setting, candidates
from edgesteer.tune.tuning import TuneOptions, choose, n_texts, plan

BUDGET = 0.15


@pytest.fixture
def controller(make_controller: Any) -> Controller:
    return make_controller(8, 16, mode="one-sided")  # type: ignore[no-any-return]


def upper_half_is_cheap(controller: Controller, strength: float) -> tuple[float, float]:
    """Cost 0.1 level^2; the effect is 0.3 level, and twice that where only the upper half is steered."""
    level = strength * controller.scale
    return (0.6 if controller.blocks[0] == 4 else 0.3) * level, 0.1 * level**2


def a_brief_push_is_good_too(controller: Controller, strength: float) -> tuple[float, float]:
    effect, cost = upper_half_is_cheap(controller, strength)
    assert controller.sensor is not None
    return effect + (0.2 * strength * controller.scale if controller.sensor.fade_tokens else 0), cost


# ---- level and noise ----


@pytest.mark.parametrize(("a", "b", "expected"), [(0.3, 0.0, 0.5), (0.0, 0.6, 0.5), (0.1, 0.2, 0.651388)])
def test_the_level_of_a_cost_is_found_from_its_curve(a: float, b: float, expected: float) -> None:
    points = [Point(s, a * s + b * s * s, 3.0) for s in (0.4, 0.9, 2.0)]
    assert strength_at(points, BUDGET) == pytest.approx(expected, abs=1e-5)
    mirrored = [replace(point, strength=-point.strength) for point in points]
    assert strength_at(mirrored, BUDGET) == pytest.approx(expected, abs=1e-5)


def test_what_costs_nothing_has_no_such_level() -> None:
    assert strength_at([Point(1.0, -0.1, 1.0), Point(2.0, -0.05, 1.0)], BUDGET) == np.inf


def test_a_point_from_more_prompts_counts_more() -> None:
    few, many = (strength_at([Point(1.0, 0.1, n), Point(1.0, 0.4, 10.0)], BUDGET) for n in (1.0, 100.0))
    assert many > few


def curves_of(costs: list[float], spread: float, n: int = 8) -> dict[str, Curve]:
    noise = spread * np.linspace(-1, 1, n)
    return {
        str(number): Curve(np.array([0.0, 1.0]), np.zeros((n, 2)), np.stack([0 * noise, cost + noise], axis=1))
        for number, cost in enumerate(costs)
    }


def test_costs_that_noise_explains_are_drawn_together_and_others_are_not() -> None:
    costs = [0.1, 0.2, 0.3, 0.2]
    noisy, clear = (shrunk(curves_of(costs, spread)) for spread in (5.0, 0.001))
    assert [each.mean_costs[1] for each in noisy.values()] == pytest.approx([0.2] * 4)
    assert [each.mean_costs[1] for each in clear.values()] == pytest.approx(costs, abs=1e-3)
    assert all(each.mean_costs[0] == 0 for each in noisy.values())


def test_shrinking_by_hand() -> None:
    # The means' variance is 4/300, the squared standard error 1/150 x 6/7: what is left of the spread is 4/300 - 2/350.
    n = 8
    variance = np.var(0.2 * np.linspace(-1, 1, n), ddof=1) / n
    found = shrunk(curves_of([0.1, 0.1, 0.3, 0.3], 0.2, n))
    trust = (4 / 300 - variance) / (4 / 300)
    assert [each.mean_costs[1] for each in found.values()] == pytest.approx(
        [0.2 - 0.1 * trust, 0.2 - 0.1 * trust, 0.2 + 0.1 * trust, 0.2 + 0.1 * trust]
    )


def test_a_pilot_finds_the_level_of_the_budget(controller: Controller, known_meter: Any) -> None:
    assert pilot(controller, known_meter(upper_half_is_cheap), BUDGET, 4) == pytest.approx((BUDGET / 0.1) ** 0.5)
    assert pilot(controller, known_meter(lambda *_: (0.0, 0.0)), BUDGET, 4) == 4.0


# ---- who wins ----


@pytest.mark.parametrize(("n", "sizes"), [(16, [16, 8, 4]), (9, [9, 5, 4]), (4, [4]), (1, [1]), (5, [5, 4])])
def test_rounds_halve_until_the_finalists_are_left(n: int, sizes: list[int]) -> None:
    assert sizes_of_rounds(n) == sizes


def run(controller: Controller, meter: Any, texts: int = 20) -> Any:
    settings = candidates(controller)
    level = pilot(controller, meter, BUDGET, texts)
    return race(field_of(settings, level), meter, BUDGET, [texts] * len(sizes_of_rounds(len(settings))))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_the_setting_with_most_effect_at_equal_cost_wins_at_its_level(
    controller: Controller, known_meter: Any, noise: float
) -> None:
    ran = run(controller, known_meter(upper_half_is_cheap, noise=noise))
    chosen, rivals = choose(ran, BUDGET)
    assert chosen.setting.blocks == "upper half"
    assert chosen.level == pytest.approx((BUDGET / 0.1) ** 0.5, rel=0.01 + 2 * noise)
    assert chosen.effect is not None
    assert chosen.effect.value == pytest.approx(0.6 * (BUDGET / 0.1) ** 0.5, rel=0.03 + 4 * noise)  # a chord's
    assert rivals[0].name == "as it is"
    assert rivals[0].gain.difference.low > 0
    assert rivals[0].gain.sureness > 0.99


def test_the_changes_of_two_leaders_are_tried_together(controller: Controller, known_meter: Any) -> None:
    chosen, _ = choose(run(controller, known_meter(a_brief_push_is_good_too)), BUDGET)
    assert set(chosen.setting.changes) == {"blocks", "loop"}
    assert chosen.controller.blocks == (4, 5, 6, 7)
    assert chosen.controller.sensor is not None
    assert chosen.controller.sensor.fade_tokens > 0


def test_nothing_takes_the_place_of_a_controller_that_nothing_beats(controller: Controller, known_meter: Any) -> None:
    def all_alike(controller: Controller, strength: float) -> tuple[float, float]:
        return 0.3 * strength * controller.scale, 0.1 * (strength * controller.scale) ** 2

    chosen, rivals = choose(run(controller, known_meter(all_alike)), BUDGET)
    assert chosen.setting == Setting()
    assert [rival.gain.difference.value for rival in rivals] == pytest.approx([0.0])


def test_every_setting_is_reported_once_and_the_controller_as_it_is_runs_to_the_end(
    controller: Controller, known_meter: Any
) -> None:
    ran = run(controller, known_meter(upper_half_is_cheap))
    names = [each.name for each in (*ran.finalists, *ran.out)]
    assert len(names) == len(set(names))
    assert {setting.name for setting in candidates(controller)} <= set(names)
    assert "as it is" in [each.name for each in ran.finalists]
    assert len(ran.finalists) == FINALISTS
    assert set(ran.curves) == {each.name for each in ran.finalists}


def test_entrants_are_the_best_and_the_controller_as_it_is(controller: Controller) -> None:
    loops = ("steady push", "longer push", "briefer push")
    placed = [Candidate(setting, controller, 1.0) for setting in (*(Setting(loop=each) for each in loops), Setting())]
    assert [each.name for each in entrants(placed, 3)] == ["as it is", "steady push", "longer push"]


def test_fewer_blocks_begin_at_a_higher_level(controller: Controller) -> None:
    field = {each.name: each.level for each in field_of(candidates(controller), 1.5)}
    assert field["as it is"] == 1.5
    assert field["upper half"] == 3.0


# ---- the number of texts ----


@pytest.mark.parametrize("texts", [300, 1200, 5000])
@pytest.mark.parametrize("n_candidates", [4, 9, 16])
def test_a_plan_makes_about_as_many_texts_as_are_asked_for(known_meter: Any, texts: int, n_candidates: int) -> None:
    sizes = sizes_of_rounds(n_candidates)
    found = n_texts(known_meter(upper_half_is_cheap), plan(texts, sizes, 2), sizes, 2)
    assert found == pytest.approx(texts, rel=0.3)


def test_each_round_has_about_twice_the_texts_of_the_last() -> None:
    rounds = plan(1200, [16, 8, 4], 2).rounds
    assert [rounds[1] / rounds[0], rounds[2] / rounds[1]] == pytest.approx([2, 2], rel=0.1)


@pytest.mark.parametrize("name", ["budget", "texts", "max_tokens", "items", "seed"])
def test_options_out_of_range_are_refused(name: str) -> None:
    with pytest.raises(Exception, match=f"{name} is out of range"):
        TuneOptions(**{name: -1})
