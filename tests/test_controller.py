"""Controller: which tensors make one, and what a position of the dial asks of the law."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from edgesteer.controller import FADE_IN, LAWS, Certificate, Command, Controller, Statistics
from edgesteer.errors import SidecarError, SteeringError


@pytest.fixture
def lqr(make_controller: Callable[..., Controller]) -> Controller:
    """6 blocks of width 8, of which 1, 2 and 4 are steered; strength 1 is level 2."""
    statistics = Statistics(*(np.ones(6, dtype=np.float32) for _ in fields(Statistics)))
    return replace(make_controller(6, 8, blocks=(1, 2, 4), mode="one-sided"), scale=2.0, statistics=statistics)


@pytest.fixture
def add(make_controller: Callable[..., Controller]) -> Controller:
    return replace(make_controller(6, 8, law="add"), scale=2.0)


# ---- the dial ----


@pytest.mark.parametrize(
    ("strength", "command"),
    [
        (0.0, Command(0.0, 0.0, "ceiling")),
        (FADE_IN / 2, Command(FADE_IN, 0.5, "floor")),
        (FADE_IN, Command(2 * FADE_IN, 1.0, "floor")),
        (1.0, Command(2.0, 1.0, "floor")),
        (3.0, Command(6.0, 1.0, "floor")),
        (-FADE_IN / 2, Command(-FADE_IN, 0.5, "ceiling")),
        (-3.0, Command(-6.0, 1.0, "ceiling")),
    ],
)
def test_lqr_fades_in_and_pushes_to_one_side(lqr: Controller, strength: float, command: Command) -> None:
    assert lqr.command(strength) == command


@pytest.mark.parametrize("strength", [-2.0, -0.1, 0.1, 2.0])
@pytest.mark.parametrize("law", ["a-lqr", "add", "pid", "rotate"])
def test_other_laws_act_in_full_at_any_strength(
    make_controller: Callable[..., Controller], law: str, strength: float
) -> None:
    controller = replace(make_controller(6, 8, law=law), scale=2.0)
    assert controller.command(strength) == Command(2 * strength, 1.0, "hold")


@pytest.mark.parametrize("strength", [-2.0, -0.1, 0.1, 2.0])
def test_a_scheduled_gain_is_scaled_by_the_level_and_never_turned_round(
    make_controller: Callable[..., Controller], strength: float
) -> None:
    """Below 0 it pushes the other way as hard, where the uncertainty is as large."""
    controller = replace(make_controller(6, 8, law="scheduled"), scale=2.0)
    assert controller.command(strength, "ceiling") == Command(0.0, 2 * strength, "floor")
    assert controller.at_level(3.0, 0.5) == Command(0.0, 1.5, "floor")


@pytest.mark.parametrize(("strength", "share"), [(-2.0, 0.0), (-0.1, 0.0), (0.3, 0.3), (1.0, 1.0), (2.0, 1.0)])
def test_ablation_removes_the_share_that_the_strength_says(
    make_controller: Callable[..., Controller], strength: float, share: float
) -> None:
    command = make_controller(6, 8, law="ablate").command(strength)
    assert (command.effort, command.mode) == (share, "hold")


@pytest.mark.parametrize("law", LAWS)
def test_strength_0_has_no_effort(make_controller: Callable[..., Controller], law: str) -> None:
    assert make_controller(6, 8, law=law).command(0.0).effort == 0.0


@pytest.mark.parametrize("mode", ["hold", "floor", "ceiling"])
def test_mode_can_be_chosen(lqr: Controller, mode: str) -> None:
    assert lqr.command(1.0, mode).mode == mode
    assert replace(lqr, mode=mode).command(-1.0).mode == mode


@pytest.mark.parametrize("law", ["add", "ablate", "rotate"])
def test_law_without_a_setpoint_has_no_side(make_controller: Callable[..., Controller], law: str) -> None:
    assert make_controller(6, 8, law=law).command(-1.0, "floor").mode == "hold"


def test_the_negative_side_may_have_a_scale_of_its_own(lqr: Controller) -> None:
    controller = replace(lqr, negative_scale=0.5)
    assert controller.command(1.0).level == 2.0
    assert controller.command(-1.0) == Command(-0.5, 1.0, "ceiling")
    assert [controller.dial(strength) for strength in (-2.0, -1.0, 0.0, 1.0)] == [-0.5, -0.25, 0.0, 1.0]
    assert [lqr.dial(strength) for strength in (-2.0, 3.0)] == [-2.0, 3.0]


@pytest.mark.parametrize(("scale", "negative"), [(1.0, 0.0), (1.0, -1.0), (0.0, 1.0), (-1.0, 1.0)])
def test_scales_of_two_sides_are_above_0(lqr: Controller, scale: float, negative: float) -> None:
    with pytest.raises(SidecarError, match="scales do not fit each other"):
        replace(lqr, scale=scale, negative_scale=negative)


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), float("-inf")])
def test_strength_must_be_a_finite_number(lqr: Controller, strength: float) -> None:
    with pytest.raises(SteeringError, match="concept: strength is not a finite number"):
        lqr.command(strength)


def test_unknown_mode_is_refused(lqr: Controller) -> None:
    with pytest.raises(SteeringError, match="unknown mode; expected one-sided or hold or floor or ceiling; found up"):
        lqr.command(1.0, "up")


# ---- what makes a controller ----


def test_width_is_that_of_the_gain(lqr: Controller) -> None:
    assert lqr.width == 8


def test_only_the_published_laws_read_the_blocks_input(make_controller: Callable[..., Controller]) -> None:
    assert [law for law in LAWS if make_controller(6, 8, law=law).reads_block_input] == ["a-lqr", "pid"]


@pytest.mark.parametrize("law", [law for law in LAWS if law != "pid"])
def test_blocks_are_coupled_by_pid_only(make_controller: Callable[..., Controller], law: str) -> None:
    np.testing.assert_array_equal(make_controller(6, 8, law=law, blocks=(1, 2, 4)).coupling, np.eye(3))


def test_coupling_of_pid_by_hand(make_controller: Callable[..., Controller]) -> None:
    """Kp = 0.8, Ki = 0.2, Kd = 0.3: a block's own control counts Kp + Ki + Kd, the last one's Ki - Kd, others' Ki."""
    coupling = make_controller(6, 8, law="pid", blocks=(1, 2, 4)).coupling
    np.testing.assert_allclose(coupling, [[1.3, 0, 0], [-0.1, 1.3, 0], [0.2, -0.1, 1.3]], atol=1e-12)


@pytest.mark.parametrize("blocks", [(), (2, 1, 4), (1, 1, 4), (-1, 2, 4), (1, 2, 6)])
def test_steered_blocks_must_ascend_within_the_model(lqr: Controller, blocks: tuple[int, ...]) -> None:
    with pytest.raises(SidecarError, match="steered blocks are wrong; expected ascending numbers below 6"):
        replace(lqr, blocks=blocks)


@pytest.mark.parametrize("name", ["gain", "probe", "offset", "rest", "span"])
def test_tensors_must_have_a_row_for_each_steered_block(lqr: Controller, name: str) -> None:
    with pytest.raises(SidecarError, match=rf"{name}: tensor has the wrong shape or type; expected float32 \(3"):
        replace(lqr, **{name: getattr(lqr, name)[:2]})


@pytest.mark.parametrize("name", ["gain", "probe", "offset", "rest", "span"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_tensors_must_be_finite(lqr: Controller, name: str, value: float) -> None:
    tensor = getattr(lqr, name).copy()
    tensor.flat[1] = value
    with pytest.raises(SidecarError, match=rf"concept.{name}: tensor holds a value that is not finite; found 1 such"):
        replace(lqr, **{name: tensor})


def test_tensors_must_be_single_precision(lqr: Controller) -> None:
    with pytest.raises(SidecarError, match=r"expected float32 .*found float64"):
        replace(lqr, gain=lqr.gain.astype(np.float64))


def test_probe_must_be_as_wide_as_the_gain(lqr: Controller) -> None:
    assert lqr.probe is not None
    with pytest.raises(SidecarError, match=r"concept\.probe: tensor has the wrong shape"):
        replace(lqr, probe=lqr.probe[:, :5])


def test_feedback_law_needs_a_probe(lqr: Controller) -> None:
    with pytest.raises(SidecarError, match="probe does not fit the law"):
        replace(lqr, probe=None)


def test_add_has_no_probe(add: Controller) -> None:
    with pytest.raises(SidecarError, match="probe does not fit the law"):
        replace(add, probe=add.gain)


@pytest.mark.parametrize(("name", "law"), [("axis", "rotate"), ("pid", "pid")])
def test_some_fields_are_one_laws_own(make_controller: Callable[..., Controller], name: str, law: str) -> None:
    owner = make_controller(6, 8, law=law)
    message = f"{name} does not fit the law; expected one for {law} only; found law "
    with pytest.raises(SidecarError, match=message + law):
        replace(owner, **{name: None})
    with pytest.raises(SidecarError, match=message + "lqr"):
        replace(make_controller(6, 8), **{name: getattr(owner, name)})


@pytest.mark.parametrize("law", ["ablate", "rotate"])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: {"gain": 2 * c.gain, "probe": 2 * c.gain},
        lambda c: {"probe": -c.gain},
        lambda c: {"offset": c.offset + 1},
        lambda c: {"span": c.span + 1} if c.law == "ablate" else {"axis": c.gain},
    ],
    ids=["length", "probe", "offset", "span or axis"],
)
def test_unit_vectors_must_be_what_the_law_needs(
    make_controller: Callable[..., Controller], law: str, change: Callable[[Controller], dict[str, Any]]
) -> None:
    controller = make_controller(6, 8, law=law)
    with pytest.raises(SidecarError, match="concept: vectors do not fit the law"):
        replace(controller, **change(controller))


@pytest.mark.parametrize(("name", "value"), [("law", "lqg"), ("mode", "both")])
def test_unknown_names_are_refused(lqr: Controller, name: str, value: str) -> None:
    with pytest.raises(SidecarError, match=f"unknown {name}; expected .*; found {value}"):
        replace(lqr, **{name: value})


@pytest.mark.parametrize(
    "wrong",
    [
        {"probe": np.ones(7, dtype=np.float32)},
        {"push": np.ones(2, dtype=np.float32)},
        {"position_mean": np.ones((2, 2), dtype=np.float32)},
        {"position_mean": np.ones(0, dtype=np.float32)},
        {"block": 6},
        {"block": -1},
        {"memory_tokens": 0.0},
        {"slope": 0.0},
        {"fade_tokens": 0.5},
        {"recovery_tokens": 0.0},
        {"reference": "dial"},
    ],
    ids=str,
)
def test_sensor_must_fit_the_controller(lqr: Controller, wrong: dict[str, Any]) -> None:
    assert lqr.sensor is not None
    with pytest.raises(SidecarError, match=r"sensor"):
        replace(lqr, sensor=replace(lqr.sensor, **wrong))


@pytest.mark.parametrize("name", [f.name for f in fields(Statistics)])
def test_statistics_must_cover_every_block(lqr: Controller, name: str) -> None:
    assert lqr.statistics is not None
    with pytest.raises(SidecarError, match=rf"concept.statistics.{name}: tensor has the wrong shape"):
        replace(lqr, statistics=replace(lqr.statistics, **{name: np.ones(3, dtype=np.float32)}))


@pytest.mark.parametrize("safe_range", [(0.1, 1.0), (-1.0, -0.1), (1.0, -1.0), (float("nan"), 1.0)])
def test_safe_range_must_hold_0(lqr: Controller, safe_range: tuple[float, float]) -> None:
    with pytest.raises(SidecarError, match="safe range does not hold 0"):
        replace(lqr, safe_range=safe_range)


# ---- the certificate ----


def certificate(**changes: Any) -> Certificate:
    table = np.ones((2, 3, 2), dtype=np.float32)
    effort = np.array([0, 0.5, 1], dtype=np.float32)
    made = Certificate(2.0, "one-sided", risk=0.1, texts=20, effort=effort, bound=table, measured=table)
    return replace(made, **changes)


@pytest.mark.parametrize(
    ("command", "covered"),
    [
        (Command(2.0, 1.0, "floor"), True),
        (Command(-2.0, 0.3, "ceiling"), True),
        (Command(2.1, 1.0, "floor"), False),
        (Command(1.0, 1.0, "ceiling"), False),
        (Command(1.0, 1.0, "hold"), False),
    ],
)
def test_certificate_covers_its_levels_and_its_mode(command: Command, covered: bool) -> None:
    assert certificate().covers(command) is covered


@pytest.mark.parametrize(("effort", "row"), [(0.0, 0), (0.4999, 0), (0.5, 1), (0.99, 1), (1.0, 2)])
def test_certificate_has_the_bound_of_the_next_lower_effort(effort: float, row: int) -> None:
    bound = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    np.testing.assert_array_equal(certificate(bound=bound).at(1.0, effort), bound[0, row])
    np.testing.assert_array_equal(certificate(bound=bound).at(-1.0, effort), bound[1, row])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bound": np.ones((2, 2, 2), np.float32)}, r"certificate\.bound: tensor has the wrong shape"),
        ({"measured": np.full((2, 3, 2), np.nan, np.float32)}, r"certificate\.measured: .* not finite"),
        ({"effort": np.array([0, 1, 0.5], np.float32)}, r"certificate: efforts are wrong"),
        ({"effort": np.array([0.1, 0.5, 1], np.float32)}, r"certificate: efforts are wrong"),
        ({"mode": "sideways"}, r"certificate: unknown mode"),
    ],
)
def test_certificate_that_cannot_be_used_is_refused(
    make_controller: Callable[..., Controller], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SidecarError, match=message):
        replace(make_controller(4, 3, blocks=(1, 3)), certificate=certificate(**changes))


def test_a_safe_range_from_0_on_refuses_negative_strengths(lqr: Controller) -> None:
    controller = replace(lqr, safe_range=(0.0, 1.5))
    with pytest.raises(SteeringError, match=f"steers towards {lqr.positive} only"):
        controller.command(-0.1)
    assert controller.command(0.0) == lqr.command(0.0)
    assert controller.command(0.5) == lqr.command(0.5)
