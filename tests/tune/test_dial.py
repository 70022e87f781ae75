"""The dial, on responses that are known: where 1 and -1 belong, and where the safe range ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError
from edgesteer.tune.dial import GRID, calibrate
from edgesteer.tune.meter import Point

BUDGET = 0.2


@pytest.fixture
def controller(make_controller: Any) -> Controller:
    return replace(make_controller(8, 16, mode="one-sided"), scale=0.5, safe_range=(-1.5, 1.5))


def lopsided(controller: Controller, strength: float) -> tuple[float, float]:
    """Linear: 0.2 nats a unit of strength upwards, 0.25 downwards; the effect is 0.3 a unit."""
    return 0.3 * strength, (0.2 if strength > 0 else 0.25) * abs(strength)


def dial_of(controller: Controller, meter: Any, harmed: Any = None, points: Any = ()) -> Any:
    return calibrate(controller, points, meter, BUDGET, 20, harmed)


def test_each_side_costs_the_budget_at_strength_1(controller: Controller, known_meter: Any) -> None:
    dial = dial_of(controller, known_meter(lopsided))
    assert dial.controller.scale == pytest.approx(0.5)
    assert dial.controller.negative_scale == pytest.approx(0.5 * 0.8)
    assert dial.controller.safe_range == pytest.approx((-GRID[-1] / 0.8, GRID[-1]), abs=0.01)
    doses = {round(dose.strength, 3): dose for dose in dial.doses}
    assert doses[1.0].cost.value == pytest.approx(BUDGET)
    assert doses[1.0].effect.value == pytest.approx(0.3)
    assert doses[-1.25].cost.value == pytest.approx(0.25)
    assert doses[-1.25].effect.value == pytest.approx(-0.3)
    assert list(doses) == sorted(doses)
    assert dial.notes == ()


def test_the_outer_loops_target_moves_with_the_positive_side(controller: Controller, known_meter: Any) -> None:
    made = dial_of(controller, known_meter(lambda c, s: (s, 0.4 * abs(s)))).controller
    assert controller.sensor is not None
    assert made.scale == pytest.approx(controller.scale / 2)
    assert made.sensor.target == pytest.approx(controller.sensor.target / 2)
    assert made.negative_scale == pytest.approx(made.scale)


def test_a_controller_that_steers_one_way_has_one_side(controller: Controller, known_meter: Any) -> None:
    dial = dial_of(replace(controller, safe_range=(0.0, 1.5)), known_meter(lopsided))
    assert dial.controller.negative_scale is None
    assert dial.controller.safe_range[0] == 0
    assert min(dose.strength for dose in dial.doses) > 0


def test_the_safe_range_ends_where_texts_break(controller: Controller, known_meter: Any) -> None:
    dial = dial_of(controller, known_meter(lopsided, broken_beyond=1.2))
    assert dial.controller.safe_range == pytest.approx((-1.25, 1.0), abs=0.011)
    assert [dose.intact for dose in dial.doses] == [False, False, True, True, True, True, True, True, False, False]
    assert dial.doses[-1].broken.value == 1


def test_strength_1_stays_where_texts_are_whole_though_it_costs_less(controller: Controller, known_meter: Any) -> None:
    dial = dial_of(controller, known_meter(lopsided, broken_beyond=0.8))
    assert dial.controller.scale == pytest.approx(0.5 * 0.7)
    assert dial.controller.safe_range == (-1.0, 1.0)
    assert [note.split(":")[0] for note in dial.notes] == ["up", "down"]
    assert "costs less than the budget" in dial.notes[0]


def test_harm_is_looked_for_from_the_end_of_the_range_downwards(controller: Controller, known_meter: Any) -> None:
    asked: list[float] = []

    def harmed(_: Controller, strength: float) -> float:
        asked.append(strength)
        return 0.01 if strength > 1.2 else 0.6

    dial = dial_of(controller, known_meter(lopsided), harmed)
    assert asked == [2.25, 1.5, 1.0, -2.25]
    assert dial.controller.safe_range == pytest.approx((-GRID[-1] / 0.8, 1.0), abs=0.01)
    tested = {round(dose.strength, 2): dose.harm_p for dose in dial.doses if dose.harm_p == dose.harm_p}
    assert tested == {-2.81: 0.6, 1.0: 0.6, 1.5: 0.01, 2.25: 0.01}


def test_text_that_always_breaks_is_an_error(controller: Controller, known_meter: Any) -> None:
    with pytest.raises(EdgeSteerError, match="the text breaks at every strength"):
        dial_of(controller, known_meter(lopsided, broken_beyond=0.1))


def test_earlier_points_have_a_part_in_the_positive_side(controller: Controller, known_meter: Any) -> None:
    points = [Point(1.0, 0.4, 20.0)] * 50
    made = dial_of(controller, known_meter(lopsided), points=points).controller
    assert made.scale < 0.4
    assert made.negative_scale == pytest.approx(0.5 * 0.8)
