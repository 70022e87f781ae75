"""Telemetry of two steered blocks and a sensor over two tokens, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgesteer.controller import Array, Certificate, Command, Controller, Pid
from edgesteer.runtime.telemetry import SteeringReport, Trace


def array(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


@pytest.fixture
def controller(make_controller: Callable[..., Controller]) -> Controller:
    """Setpoints at level 2 are 2 and 1; gains have norms 5 and 2."""
    gain = np.array([[3.0, 4.0], [0.0, 2.0]], dtype=np.float32)
    made = make_controller(4, 2, blocks=(1, 3))
    return replace(made, gain=gain, rest=array(0, 1), span=array(1, 0))


BEFORE = (array(1.0, 0.5, 0.7), array(3.0, 1.0, 0.9))
AFTER = (array(1.5, 1.0, 0.8), array(2.0, 1.0, 0.9))
CONTROL = (array(0.5, 0.25, 0), array(-1.0, 0.0, 0))


@pytest.fixture
def trace(controller: Controller) -> Trace:
    trace = Trace(controller, Command(2.0, 1.0, "hold"))
    for token, (effort, mean) in enumerate(((1.0, 0.1), (0.5, 0.2))):
        trace.take(BEFORE[token], AFTER[token], CONTROL[token])
        trace.note(effort, mean, 1.5, CONTROL[token][:2])
    return trace


@pytest.fixture
def report(trace: Trace) -> SteeringReport:
    return trace.report(0.6)


def test_taking_in_a_token_gives_the_sensors_reading_and_the_controls(controller: Controller) -> None:
    alpha, control = Trace(controller, Command(2.0, 1.0, "hold")).take(BEFORE[0], AFTER[0], CONTROL[0])
    assert alpha == pytest.approx(0.7)
    np.testing.assert_array_equal(control, [0.5, 0.25])


def test_without_a_sensor_alpha_is_the_mean_over_the_steered_blocks(controller: Controller) -> None:
    blind = replace(controller, sensor=None)
    alpha, _ = Trace(blind, Command(2.0, 1.0, "hold")).take(BEFORE[0][:2], AFTER[0][:2], CONTROL[0][:2])
    assert alpha == pytest.approx(0.75)


def test_report_lists_the_tokens(report: SteeringReport) -> None:
    assert report.alpha == pytest.approx([0.7, 0.9])
    assert report.effort == [1.0, 0.5]
    assert report.running_mean == [0.1, 0.2]


def test_report_averages_the_blocks(report: SteeringReport) -> None:
    assert (report.controller, report.strength, report.blocks) == ("concept", 0.6, [1, 3])
    assert report.setpoint == [2.0, 1.0]
    assert report.alpha_before == [2.0, 0.75]
    assert report.alpha_after == [1.75, 1.0]
    assert report.push == [(0.5 + 1.0) / 2 * 5, 0.25 / 2 * 2]


def test_errors_are_those_where_control_acted(report: SteeringReport) -> None:
    # before: 2 - 1, 1 - 0.5 and 2 - 3; the fourth had no control. after: 2 - 1.5, 1 - 1, 2 - 2
    assert report.error_before == pytest.approx(np.sqrt((1 + 0.25 + 1) / 3))
    assert report.error_after == pytest.approx(np.sqrt(0.25 / 3))


def test_push_of_pid_is_what_all_blocks_so_far_make_it_write(controller: Controller) -> None:
    """Ki = 1 and Kp = Kd = 0: gains (3, 4) and (0, 2) times 0.5 and 0.25 sum up to (1.5, 2) and (1.5, 2.5)."""
    pid = replace(controller, law="pid", pid=Pid(0.0, 1.0, 0.0))
    report = report_of(pid, Command(2.0, 1.0, "hold"), 1.0)
    assert report.push == pytest.approx([2.5, np.hypot(1.5, 2.5)])


def test_rotation_has_no_error(controller: Controller) -> None:
    gain, axis = np.eye(2, dtype=np.float32)
    rotate = replace(
        controller, law="rotate", probe=np.stack([gain, axis]), gain=np.stack([gain, axis]),
        axis=np.stack([axis, gain]), offset=array(0, 0),
    )  # fmt: skip
    report = report_of(rotate, Command(2.0, 1.0, "hold"), 1.0)
    assert (report.error_before, report.error_after) == (0, 0)
    assert report.push == pytest.approx([0.5, 0.25])  # along the concept's direction


@pytest.fixture
def certified(controller: Controller) -> Controller:
    """Towards the positive pole, the errors after control are 0.5 and 0 at the first token, and 0 at the second."""
    bound = np.zeros((2, 3, 2), dtype=np.float32)
    bound[0] = ((3, 3), (0.75, 0.75), (0.25, 0.25))
    certificate = Certificate(2.0, "hold", 0.1, 20, array(0, 0.5, 1), bound, bound)
    return replace(controller, certificate=certificate)


def report_of(controller: Controller, command: Command, *efforts: float) -> SteeringReport:
    trace = Trace(controller, command)
    for token, effort in enumerate(efforts):
        trace.take(BEFORE[token], AFTER[token], CONTROL[token])
        trace.note(effort, 0.0, None, CONTROL[token][:2])
    return trace.report(0.6)


def test_errors_above_the_bound_are_counted_by_block(certified: Controller) -> None:
    report = report_of(certified, Command(2.0, 1.0, "hold"), 1.0, 0.5)
    # bounds 0.25 and 0.25, then 0.75 where control acted; of the errors 0.5, 0 and 0
    assert (report.violations, report.checks) == ([1, 0], [2, 1])
    assert report.error_bound == pytest.approx(np.sqrt((0.25**2 + 0.25**2 + 0.75**2) / 3))


@pytest.mark.parametrize(("outer", "inner"), [(0.7, 1.0), (1.0, 0.7), (0.9, 0.6)])
def test_less_effort_has_the_bound_of_the_next_lower_one(certified: Controller, outer: float, inner: float) -> None:
    report = report_of(certified, Command(2.0, inner, "hold"), outer)
    assert (report.violations, report.error_bound) == ([0, 0], pytest.approx(0.75))


@pytest.mark.parametrize("command", [Command(2.1, 1.0, "hold"), Command(2.0, 1.0, "floor")])
def test_nothing_is_checked_beyond_what_was_certified(certified: Controller, command: Command) -> None:
    report = report_of(certified, command, 1.0)
    assert (report.violations, report.checks) == ([0, 0], [0, 0])
    assert np.isnan(report.error_bound)


def test_nothing_is_checked_without_a_certificate(controller: Controller) -> None:
    assert report_of(controller, Command(2.0, 1.0, "hold"), 1.0).checks == [0, 0]


def test_each_pole_has_its_own_bound(certified: Controller) -> None:
    # setpoints at level -2 are -2 and 1, so the errors are 3.5 and 0; the bounds of the negative pole are 0
    assert report_of(certified, Command(-2.0, 1.0, "hold"), 1.0).violations == [1, 0]


def test_trace_keeps_copies(controller: Controller) -> None:
    """The hook writes the next token's telemetry into the same memory."""
    trace = Trace(controller, Command(2.0, 1.0, "hold"))
    rows = [values.copy() for values in (BEFORE[0], AFTER[0], CONTROL[0])]
    trace.take(*rows)
    for values in rows:
        values[:] = np.nan
    assert trace.report(1.0).alpha_before == [1.0, 0.5]
    assert trace.report(1.0).error_before > 0


def test_text_without_tokens_has_an_empty_report(controller: Controller) -> None:
    report = Trace(controller, Command(2.0, 1.0, "hold")).report(1.0)
    assert report.alpha == report.alpha_before == report.alpha_after == report.push == []
    assert report.error_before == report.error_after == 0.0
