"""The feature-cost route against the dense recursion with Q = q w w', which only this test has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.bound import sensitivities
from edgesteer.control.feature_cost import FeatureModel, solve_feature_cost
from edgesteer.control.linear_model import DenseModel, predicted_push
from edgesteer.control.options import ControllerOptions
from edgesteer.controller import Controller

Doubles = NDArray[np.float64]
T, N = 5, 7
OPTIONS = ControllerOptions(state_cost=0.7, input_cost=0.3, terminal_cost=2.0)


@pytest.fixture
def jacobians() -> Doubles:
    made: Doubles = np.eye(N) + np.random.default_rng(0).normal(size=(T, N, N)) / 3
    return made


@pytest.fixture
def probes() -> Doubles:
    """(T+1, N), none of them at boundary 0, as of the exporter's."""
    rows = np.random.default_rng(1).normal(size=(T + 1, N))
    rows[0] = 0
    return rows


@pytest.fixture
def readings(jacobians: Doubles, probes: Doubles) -> Doubles:
    return sensitivities(jacobians, probes, range(T + 1))


def dense(
    jacobians: Doubles, probes: Doubles, actuated: tuple[bool, ...], options: ControllerOptions = OPTIONS
) -> tuple[list[Doubles], list[Doubles]]:
    """Return S_t and K_t of the recursion with Q_t = q w_t w_t' and Q_f = q_f w_T w_T', as n x n matrices."""
    cost_to_go, gains = [options.terminal_cost * np.outer(probes[T], probes[T])], []
    for t in reversed(range(T)):
        s, a = cost_to_go[0], jacobians[t]
        gain = np.linalg.solve(s + options.input_cost * np.eye(N), s @ a) if actuated[t] else np.zeros((N, N))
        gains.insert(0, gain)
        cost_to_go.insert(0, options.state_cost * np.outer(probes[t], probes[t]) + a.T @ s @ (a - gain))
    return cost_to_go, gains


@pytest.mark.parametrize("actuated", [(True,) * T, (False, True, True, False, True), (False,) * T])
@pytest.mark.parametrize("terminal_cost", [2.0, 0.0])
def test_cost_to_go_is_that_of_the_dense_recursion(
    jacobians: Doubles, probes: Doubles, readings: Doubles, actuated: tuple[bool, ...], terminal_cost: float
) -> None:
    options = replace(OPTIONS, terminal_cost=terminal_cost)
    factors = solve_feature_cost(
        readings, state_cost=0.7, input_cost=0.3, terminal_cost=terminal_cost, actuated=actuated
    )
    expected, _ = dense(jacobians, probes, actuated, options)
    for t, factor in enumerate(factors):
        u = readings[t:, t].T @ factor
        np.testing.assert_allclose(u @ u.T, expected[t], rtol=1e-9, atol=1e-10)


def test_all_blocks_are_actuated_by_default(readings: Doubles) -> None:
    costs = {"state_cost": 1.0, "input_cost": 1.0, "terminal_cost": 1.0}
    default, named = solve_feature_cost(readings, **costs), solve_feature_cost(readings, **costs, actuated=[True] * T)
    for ours, theirs in zip(default, named, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_one_block_by_hand() -> None:
    # n = 1, a = 2, w = (0, 3), r = 1, q_f = 1:  S_1 = 9,  S_0 = 4 * (9 - 81 / 10) = 3.6
    readings = sensitivities(np.array([[[2.0]]]), np.array([[0.0], [3.0]]), range(2))
    factors = solve_feature_cost(readings, state_cost=5.0, input_cost=1.0, terminal_cost=1.0)
    u = readings[:, 0].T @ factors[0]
    assert (u @ u.T).item() == pytest.approx(3.6)


@pytest.mark.parametrize("wrong", [{"state_cost": -1.0}, {"input_cost": 0.0}, {"terminal_cost": -1.0}])
def test_costs_without_a_minimum_are_refused(readings: Doubles, wrong: dict[str, float]) -> None:
    costs = {"state_cost": 1.0, "input_cost": 1.0, "terminal_cost": 1.0, **wrong}
    with pytest.raises(ValueError, match="input_cost must be positive"):
        solve_feature_cost(readings, **costs)


@pytest.mark.parametrize("blocks", [tuple(range(T)), (1, 4)])
def test_gains_are_those_of_the_dense_recursion(
    jacobians: Doubles, probes: Doubles, readings: Doubles, blocks: tuple[int, ...], no_progress: Any
) -> None:
    direction = np.random.default_rng(2).normal(size=(T + 1, N))
    cost_to_go, gains = dense(jacobians, probes, tuple(block in blocks for block in range(T)))
    model = FeatureModel(readings)
    regulator = model.regulator_gains(direction, blocks, OPTIONS, no_progress)
    published = model.published_gains(direction, blocks, OPTIONS, no_progress)
    for row, block in enumerate(blocks):
        s, e = cost_to_go[block + 1], direction[block + 1]
        np.testing.assert_allclose(regulator[row], np.linalg.solve(s + 0.3 * np.eye(N), s @ e), rtol=1e-8, atol=1e-10)
        v = direction[block] / np.linalg.norm(direction[block])
        np.testing.assert_allclose(published[row], gains[block] @ v, rtol=1e-8, atol=1e-10)


def test_predicted_push_is_that_of_the_dense_model(
    jacobians: Doubles, probes: Doubles, readings: Doubles, make_controller: Callable[..., Controller]
) -> None:
    controller = make_controller(T, N)
    assert controller.sensor is not None
    sensor = replace(controller.sensor, block=3, probe=probes[4].astype(np.float32))
    controller = replace(controller, sensor=sensor)
    expected = predicted_push(controller, DenseModel(jacobians.astype(np.float32)))
    np.testing.assert_allclose(predicted_push(controller, FeatureModel(readings)), expected, rtol=1e-4, atol=1e-6)


def test_reading_of_another_probe_is_refused(probes: Doubles, readings: Doubles) -> None:
    with pytest.raises(ValueError, match="another probe"):
        FeatureModel(readings).sensitivity(probes[2], 3)
