"""Telemetry of two steered blocks and a sensor over two tokens, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from edgesteer.controller import Array, Command, Controller
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
