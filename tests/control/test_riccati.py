"""The Riccati recursion: by hand, by its residual, and against the exact minimiser of the stacked quadratic problem."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.riccati import RiccatiSolution, regulator_direction, solve_riccati

Doubles = NDArray[np.float64]

COSTS = {"state_cost": 0.7, "input_cost": 2.0, "terminal_cost": 1.3}


@pytest.fixture
def jacobians() -> Doubles:
    """(5, 3, 3) with gains around 1, as layers of a residual network have."""
    return np.eye(3) + np.random.default_rng(1).normal(size=(5, 3, 3)) / 3


def rolled_out(jacobians: Doubles, solution: RiccatiSolution, start: Doubles) -> Doubles:
    """Return the inputs u_t = -K_t x_t along the controlled trajectory: (T, n)."""
    x, inputs = start, []
    for a, gain in zip(jacobians, solution.gains, strict=True):
        inputs.append(-gain @ x)
        x = a @ x + inputs[-1]
    return np.array(inputs)


def stacked_minimiser(jacobians: Doubles, start: Doubles, actuated: list[bool]) -> tuple[Doubles, float]:
    """Return the inputs (T, n) of least cost and that cost, from one linear least-squares problem in all of them.

    Every boundary is affine in the stacked inputs, so the cost is |M u + c|^2 over the inputs that exist.
    """
    n_blocks, width, _ = jacobians.shape
    columns = np.flatnonzero(np.repeat(actuated, width))
    of_input, constant = np.zeros((width, n_blocks * width)), start
    rows, targets = [], [np.sqrt(COSTS["state_cost"]) * start]
    rows.append(np.zeros_like(of_input))
    for t, a in enumerate(jacobians):
        of_input, constant = a @ of_input, a @ constant
        of_input[:, t * width : (t + 1) * width] += np.eye(width)
        cost = COSTS["terminal_cost"] if t == n_blocks - 1 else COSTS["state_cost"]
        rows.append(np.sqrt(cost) * of_input)
        targets.append(np.sqrt(cost) * constant)
    rows.append(np.sqrt(COSTS["input_cost"]) * np.eye(n_blocks * width))
    targets.append(np.zeros(n_blocks * width))
    matrix, target = np.concatenate(rows)[:, columns], np.concatenate(targets)
    solution = np.linalg.lstsq(matrix, -target, rcond=None)[0]
    inputs = np.zeros(n_blocks * width)
    inputs[columns] = solution
    return inputs.reshape(n_blocks, width), float(np.sum((matrix @ solution + target) ** 2))


def test_one_scalar_block_by_hand() -> None:
    # a = 2, q = 9, r = 1, q_f = 3:  K = 3*2/(3+1) = 1.5,  S_0 = 9 + 2*3*(2-1.5) = 12
    solution = solve_riccati(np.array([[[2.0]]]), state_cost=9.0, input_cost=1.0, terminal_cost=3.0)
    np.testing.assert_allclose(solution.gains, [[[1.5]]], rtol=1e-15)
    np.testing.assert_allclose(solution.cost_to_go, [[[12.0]], [[3.0]]], rtol=1e-15)


def test_two_scalar_blocks_by_hand() -> None:
    # a = (3, 1), q = 1, r = 1, q_f = 1:  K_1 = 1/2, S_1 = 1 + 1*(1-1/2) = 3/2
    # K_0 = (3/2)*3/(5/2) = 9/5,  S_0 = 1 + 3*(3/2)*(3-9/5) = 32/5
    solution = solve_riccati(np.array([[[3.0]], [[1.0]]]), state_cost=1.0, input_cost=1.0, terminal_cost=1.0)
    np.testing.assert_allclose(solution.gains.ravel(), [9 / 5, 1 / 2], rtol=1e-15)
    np.testing.assert_allclose(solution.cost_to_go.ravel(), [32 / 5, 3 / 2, 1], rtol=1e-15)


def test_solution_satisfies_the_recursion(jacobians: Doubles) -> None:
    s, k = solve_riccati(jacobians, **COSTS)
    identity = np.eye(3)
    np.testing.assert_allclose(s[-1], COSTS["terminal_cost"] * identity)
    for t, a in enumerate(jacobians):
        np.testing.assert_allclose((s[t + 1] + COSTS["input_cost"] * identity) @ k[t], s[t + 1] @ a, atol=1e-12)
        expected = COSTS["state_cost"] * identity + a.T @ s[t + 1] @ (a - k[t])
        np.testing.assert_allclose(s[t], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("actuated", [[True] * 5, [True, False, True, False, True], [False, False, True, True, False]])
def test_feedback_is_the_minimiser_of_the_stacked_problem(jacobians: Doubles, actuated: list[bool]) -> None:
    start = np.array([1.0, -2.0, 0.5])
    solution = solve_riccati(jacobians, actuated=actuated, **COSTS)
    inputs, cost = stacked_minimiser(jacobians, start, actuated)
    np.testing.assert_allclose(rolled_out(jacobians, solution, start), inputs, rtol=1e-9, atol=1e-10)
    assert start @ solution.cost_to_go[0] @ start == pytest.approx(cost, rel=1e-10)


def test_block_without_an_actuator_passes_its_cost_on(jacobians: Doubles) -> None:
    s, k = solve_riccati(jacobians, actuated=[True, True, False, True, True], **COSTS)
    a = jacobians[2]
    assert not k[2].any()
    np.testing.assert_allclose(s[2], COSTS["state_cost"] * np.eye(3) + a.T @ s[3] @ a, rtol=1e-12)
    assert k[1].any()


def test_cost_to_go_is_exactly_symmetric_in_single_precision() -> None:
    jacobians = np.eye(40, dtype=np.float32) + np.random.default_rng(0).normal(size=(12, 40, 40)).astype("f4") / 9
    s, k = solve_riccati(jacobians, **COSTS)
    assert s.dtype == k.dtype == np.float32
    np.testing.assert_array_equal(s, s.transpose(0, 2, 1))


def test_progress_counts_the_blocks(jacobians: Doubles) -> None:
    steps: list[int] = []
    solve_riccati(jacobians, progress=lambda: steps.append(1), **COSTS)
    assert len(steps) == len(jacobians)


@pytest.mark.parametrize("shape", [(3, 3), (2, 3, 4), (1, 2, 3, 3)])
def test_jacobians_of_a_wrong_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"jacobians; expected \(T, n, n\) but found"):
        solve_riccati(np.zeros(shape), **COSTS)


@pytest.mark.parametrize(
    "wrong", [{"input_cost": 0.0}, {"input_cost": -1.0}, {"state_cost": -1.0}, {"terminal_cost": -1.0}]
)
def test_costs_without_a_minimum_are_refused(jacobians: Doubles, wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="input_cost must be positive"):
        solve_riccati(jacobians, **(COSTS | wrong))


def test_regulator_direction_by_hand() -> None:
    # (S + r I)^-1 S E with S = diag(1, 3), r = 1, E = (2, 4):  (1/2*2, 3/4*4)
    direction = regulator_direction(np.diag([1.0, 3.0]), np.array([2.0, 4.0]), input_cost=1.0)
    np.testing.assert_allclose(direction, [1.0, 3.0], rtol=1e-15)


def test_regulator_direction_removes_a_deviation_at_least_cost(jacobians: Doubles) -> None:
    s = solve_riccati(jacobians, **COSTS).cost_to_go[2]
    deviation = np.array([0.3, -1.0, 2.0])
    best = regulator_direction(s, -deviation, input_cost=2.0)

    def cost(u: Doubles) -> float:
        return float((deviation + u) @ s @ (deviation + u) + 2.0 * u @ u)

    for step in np.concatenate([np.eye(3), -np.eye(3)]) * 1e-3:
        assert cost(best + step) > cost(best)
    np.testing.assert_allclose(s @ (deviation + best) + 2.0 * best, 0, atol=1e-12)  # the gradient vanishes
