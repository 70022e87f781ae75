"""The outer loop, step by step and by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from edgesteer.control.outer_loop import Decay, FullEffort, OuterLoop
from edgesteer.controller import Array, Sensor


def array(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


@pytest.fixture
def sensor() -> Sensor:
    """Two actuators; memory of 4 tokens; neutral text reads 0.5, 0.25, then 0 at the first generated positions."""
    return Sensor(
        block=3, probe=array(1, 0), offset=0.0, target=0.8, memory_tokens=4.0, push=array(0.5, 0.25),
        prompt_mean=0.25, position_mean=array(0.5, 0.25, 0.0),
    )  # fmt: skip


NO_CONTROL = array(0, 0)


def test_full_effort_never_changes() -> None:
    loop = FullEffort()
    loop.observe(5.0, NO_CONTROL)
    assert loop.effort() == 1.0


def test_decay_by_hand() -> None:
    loop = Decay(tokens=4.0)
    efforts = []
    for _ in range(3):
        efforts.append(loop.effort())
        loop.observe(5.0, NO_CONTROL)
    assert efforts == pytest.approx([1.0, math.exp(-0.25), math.exp(-0.5)])


def test_loop_begins_with_full_effort(sensor: Sensor) -> None:
    assert OuterLoop(sensor, 1.0).effort() == 1.0


def test_running_mean_of_the_intrinsic_alpha_by_hand(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 1.0)
    loop.observe(1.5, array(0.8, 0.4))  # 1.5 - (0.4 + 0.1) - 0.5 = 0.5
    assert loop.intrinsic == pytest.approx(0.5)
    assert loop.mean == pytest.approx(0.125)  # 0 + (0.5 - 0)/4
    assert loop.effort() == pytest.approx(1 - 0.125 / 0.8)
    loop.observe(0.775, NO_CONTROL)  # 0.775 - 0.25 = 0.525
    assert loop.mean == pytest.approx(0.125 + (0.525 - 0.125) / 4)
    assert loop.effort() == pytest.approx(1 - 0.225 / 0.8)


def test_a_target_below_neutral_lets_go_once_the_text_is_there(sensor: Sensor) -> None:
    loop = OuterLoop(replace(sensor, target=-0.8), 0.5)  # reference -0.4
    efforts = []
    for alpha in (1.5, -1.35, -9.0):  # intrinsic: 1.0, -1.6, -9.0
        loop.observe(alpha, NO_CONTROL)
        efforts.append(loop.effort())
    assert efforts == pytest.approx([1.0, 1 - 0.2125 / 0.4, 0.0])  # means 0.25, -0.2125 and below the reference


@pytest.mark.parametrize("strength", [0.25, 1.0, 3.0])
def test_a_fixed_target_is_the_same_at_every_strength(sensor: Sensor, strength: float) -> None:
    """Neutral prompts read 0.25 and neutral text 0: 0.125 on average, so that 0.8 of the way to 1 is 0.7."""
    loop, other = (OuterLoop(replace(sensor, reference="fixed"), sign * strength) for sign in (1, -1))
    for alpha in (1.0, 0.775):  # intrinsic: 0.5, 0.525
        loop.observe(alpha, NO_CONTROL)
        other.observe(alpha, NO_CONTROL)
    assert loop.effort() == pytest.approx(1 - 0.225 / 0.7)
    assert other.effort() == 1.0
    for _ in range(20):
        loop.observe(0.9, NO_CONTROL)
    assert loop.effort() == 0.0
    assert OuterLoop(replace(sensor, reference="fixed"), 0.0).effort() == 0.0


@pytest.mark.parametrize(
    ("neutral", "target", "setpoint"),
    [
        (0.25, 0.8, (0.6, -0.2)),
        (0.75, 0.8, (0.2, -0.6)),
        (0.5, -0.8, (-0.4, 0.4)),  # ablate: its positive strengths go the negative way
        (1.5, 0.8, (0.2, -1.2)),  # neutral text beyond the positive pole: no less than a quarter is asked for
        (-0.5, 0.8, (1.2, -0.2)),
    ],
)
def test_a_fixed_target_is_a_share_of_the_way_to_the_pole(
    sensor: Sensor, neutral: float, target: float, setpoint: tuple[float, float]
) -> None:
    made = replace(
        sensor, reference="fixed", target=target, prompt_mean=neutral + 0.125, position_mean=array(9.0, neutral - 0.125)
    )
    assert [made.setpoint(dial) for dial in (0.3, -2.0)] == pytest.approx(list(setpoint))


def test_own_push_is_not_taken_for_the_concept(sensor: Sensor) -> None:
    """Whatever the control adds at the sensor, the loop sees the same text."""
    pushed, plain = OuterLoop(sensor, 1.0), OuterLoop(sensor, 1.0)
    for control in (array(2, 0), array(0, -8), array(1, 1)):
        pushed.observe(0.6 + float(sensor.push @ control), control)
        plain.observe(0.6, NO_CONTROL)
    assert pushed.mean == pytest.approx(plain.mean)


def test_last_neutral_value_holds_for_all_later_positions(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 1.0)
    for alpha in (0.5, 0.25, 0.0, 0.0, 0.0):  # exactly neutral text
        loop.observe(alpha, NO_CONTROL)
        assert loop.intrinsic == pytest.approx(0)
    assert loop.effort() == 1.0


def test_short_prompt_counts_by_its_length(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 1.0)
    loop.start(array(0.75, 0.75))  # 2 of 4 tokens of memory, 0.5 above neutral
    assert loop.mean == pytest.approx(0.25)


def test_a_text_that_goes_on_with_its_prompt_begins_with_the_reserve_that_is_missing(sensor: Sensor) -> None:
    """A prompt whose mean counts 0.25 leaves 1 - 0.25 / 0.8 of the effort; an answer to it has the whole reserve."""
    reserved = replace(sensor, fade_tokens=4.0)
    words = array(0.75, 0.75)
    for continued, reserve in ((True, 1 - 0.25 / 0.8), (False, 1.0)):
        loop = OuterLoop(reserved, 1.0)
        loop.start(words, continued)
        assert loop.reserve == pytest.approx(reserve)
        assert loop.effort() == pytest.approx(reserve * (1 - 0.25 / 0.8))
    without = OuterLoop(sensor, 1.0)
    without.start(words, continued=True)
    assert without.reserve == 1.0


def test_long_prompt_counts_in_full(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 1.0)
    loop.start(array(*[0.75] * 40))
    assert loop.mean == pytest.approx(0.5)


def test_prompt_readings_that_are_missing_are_left_out(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 1.0)
    loop.start(array(math.nan, 0.75, math.nan, 0.75))
    assert loop.mean == pytest.approx(0.25)


@pytest.mark.parametrize("readings", [array(), array(math.nan, math.nan)])
def test_prompt_without_readings_starts_at_neutral(sensor: Sensor, readings: Array) -> None:
    loop = OuterLoop(sensor, 1.0)
    loop.start(readings)
    assert loop.mean == 0.0


def test_prompt_on_target_needs_no_effort(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 1.0)
    loop.start(array(*[0.25 + 0.8] * 4))
    assert loop.effort() == pytest.approx(0, abs=1e-6)


def test_negative_strength_mirrors_the_loop(sensor: Sensor) -> None:
    up, down = OuterLoop(sensor, 0.5), OuterLoop(sensor, -0.5)
    for position, reading in enumerate((0.3, -0.1, 0.6, 0.9)):
        neutral = (0.5, 0.25, 0.0, 0.0)[position]
        up.observe(neutral + reading, NO_CONTROL)
        down.observe(neutral - reading, NO_CONTROL)
        assert down.mean == pytest.approx(-up.mean)
        assert down.effort() == pytest.approx(up.effort())


def test_half_the_strength_asks_for_half_the_level(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 0.5)
    loop.mean = 0.2  # half of 0.5 * 0.8
    assert loop.effort() == pytest.approx(0.5)


def test_effort_stays_between_0_and_1_and_returns_when_the_text_drifts(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 1.0)
    efforts = []
    for alpha in [9.0] * 3 + [-9.0] * 12:
        loop.observe(alpha, NO_CONTROL)
        efforts.append(loop.effort())
    assert efforts[0] == 0.0
    assert efforts[-1] == 1.0
    assert all(0 <= effort <= 1 for effort in efforts)


def test_strength_0_asks_for_no_effort(sensor: Sensor) -> None:
    loop = OuterLoop(sensor, 0.0)
    loop.observe(1.0, NO_CONTROL)
    assert loop.effort() == 0.0


def test_slope_says_how_late_the_loop_lets_go(sensor: Sensor) -> None:
    loop = OuterLoop(replace(sensor, slope=4.0), 1.0)
    efforts = []
    for loop.mean in (0.0, 0.6, 0.7, 0.8):  # 1, 1/4, 1/8 and nothing of the target is missing
        efforts.append(loop.effort())
    assert efforts == pytest.approx([1.0, 1.0, 0.5, 0.0])


def test_effort_empties_the_reserve_and_rest_fills_it_by_hand(sensor: Sensor) -> None:
    loop = OuterLoop(replace(sensor, fade_tokens=2.0, recovery_tokens=4.0), 1.0)
    reserves = [loop.reserve]
    for alpha in (0.5, 0.25, 40.0, 0.0):  # neutral, neutral, far beyond the target, neutral
        loop.observe(alpha, NO_CONTROL)
        reserves.append(loop.reserve)
    # 1 - 1/2; 0.5 + 0.5/4 - 0.5/2; 0.375 + 0.625/4 - 0.375/2; then no effort: 0.34375 + 0.65625/4
    assert reserves == pytest.approx([1.0, 0.5, 0.375, 0.34375, 0.5078125])


def test_effort_draws_on_the_reserve(sensor: Sensor) -> None:
    loop = OuterLoop(replace(sensor, fade_tokens=2.0), 1.0)
    loop.reserve, loop.mean = 0.5, 0.4
    assert loop.effort() == pytest.approx(0.5 * (1 - 0.4 / 0.8))


def test_a_text_that_stays_on_target_keeps_its_reserve(sensor: Sensor) -> None:
    loop = OuterLoop(replace(sensor, fade_tokens=2.0), 1.0)
    loop.start(array(*[2.0] * 8))
    for _ in range(20):
        loop.observe(2.0, NO_CONTROL)
    assert loop.reserve == 1.0
