"""The factored Riccati recursion: equal to the dense one where nothing is left out, close to it where little is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control import riccati
from edgesteer.control.factored import CostToGo, regulated_direction, regulator_direction, solve_factored
from edgesteer.control.low_rank import LowRankBlock

Doubles = NDArray[np.float64]

COSTS = {"state_cost": 0.7, "input_cost": 2.0, "terminal_cost": 1.3}
WIDTH = 24
ACTUATED = [[True] * 6, [True, False, True, True, False, False], [False] * 5 + [True]]


def random_blocks(rank: int, count: int = 6) -> list[LowRankBlock]:
    random = np.random.default_rng(0)
    scale = (WIDTH * rank) ** -0.25
    return [
        LowRankBlock(scale * random.normal(size=(WIDTH, rank)), scale * random.normal(size=(rank, WIDTH)))
        for _ in range(count)
    ]


def dense_solution(blocks: list[LowRankBlock], **options: Any) -> riccati.RiccatiSolution:
    return riccati.solve_riccati(np.stack([block.dense for block in blocks]), **options)


@pytest.mark.parametrize("actuated", ACTUATED)
@pytest.mark.parametrize("rank", [1, 3, WIDTH])
def test_cost_to_go_equals_the_dense_one(rank: int, actuated: list[bool]) -> None:
    blocks = random_blocks(rank)
    expected = dense_solution(blocks, actuated=actuated, **COSTS).cost_to_go
    costs = solve_factored(blocks, actuated=actuated, **COSTS)
    assert len(costs) == len(blocks) + 1
    for cost, dense in zip(costs, expected, strict=True):
        np.testing.assert_allclose(cost.dense, dense, rtol=1e-10, atol=1e-10)


def test_low_rank_stays_low_before_it_fills_the_width() -> None:
    costs = solve_factored(random_blocks(rank=1), **COSTS)
    assert [len(cost.values) for cost in costs] == [12, 10, 8, 6, 4, 2, 0]
    for cost in costs:
        np.testing.assert_allclose(cost.vectors.T @ cost.vectors, np.eye(len(cost.values)), atol=1e-12)


def test_one_block_by_hand() -> None:
    # A = diag(2, 1), q = 9, r = 1, q_f = 3: f(3) = 3/4, so S_0 = diag(9 + 4*3/4, 9 + 3/4)
    block = LowRankBlock(np.array([[1.0], [0.0]]), np.array([[1.0, 0.0]]))
    cost = solve_factored([block], state_cost=9, input_cost=1, terminal_cost=3)[0]
    assert cost.scalar == 9.75
    np.testing.assert_allclose(cost.dense, np.diag([12, 9.75]))


@pytest.mark.parametrize("actuated", ACTUATED)
def test_directions_equal_the_dense_ones(actuated: list[bool]) -> None:
    blocks = random_blocks(3)
    direction = np.random.default_rng(1).normal(size=WIDTH)
    dense = dense_solution(blocks, actuated=actuated, **COSTS).cost_to_go
    for cost, s in zip(solve_factored(blocks, actuated=actuated, **COSTS), dense, strict=True):
        expected = riccati.regulator_direction(s, direction, input_cost=2.0)
        np.testing.assert_allclose(regulator_direction(cost, direction, input_cost=2.0), expected, rtol=1e-9)


def test_gain_matrices_come_column_by_column() -> None:
    blocks = random_blocks(3)
    gains = dense_solution(blocks, **COSTS).gains
    costs = solve_factored(blocks, **COSTS)
    for t, block in enumerate(blocks):
        columns = regulator_direction(costs[t + 1], block @ np.eye(WIDTH), input_cost=2.0)
        np.testing.assert_allclose(columns, gains[t], rtol=1e-9, atol=1e-10)


def test_direction_of_a_gain_is_found_again() -> None:
    cost = solve_factored(random_blocks(3), **COSTS)[2]
    direction = np.random.default_rng(1).normal(size=WIDTH)
    gain = regulator_direction(cost, direction, input_cost=2.0)
    np.testing.assert_allclose(regulated_direction(cost, gain, input_cost=2.0), direction, rtol=1e-10)


@pytest.mark.parametrize(("tolerance", "error"), [(1e-6, 1e-5), (0.02, 0.05)])
def test_tolerance_bounds_what_is_left_out(tolerance: float, error: float) -> None:
    blocks = random_blocks(WIDTH)
    exact = dense_solution(blocks, **COSTS).cost_to_go
    for cost, dense in zip(solve_factored(blocks, tolerance=tolerance, **COSTS), exact, strict=True):
        assert np.linalg.norm(cost.dense - dense, 2) <= error * np.linalg.norm(dense, 2)


def test_rank_keeps_the_largest_eigenvalues() -> None:
    blocks = random_blocks(3)
    costs = solve_factored(blocks, rank=4, **COSTS)
    assert max(len(cost.values) for cost in costs) == 4
    whole, cut = solve_factored(blocks[-1:], **COSTS)[0], costs[-2]
    np.testing.assert_allclose(np.sort(np.abs(cut.values)), np.sort(np.abs(whole.values))[-4:])


def test_free_state_costs_nothing() -> None:
    costs = solve_factored(random_blocks(3), state_cost=0.0, input_cost=1.0, terminal_cost=0.0)
    assert all(not np.any(cost.dense) for cost in costs)


def test_cost_to_go_applies_functions_of_its_eigenvalues() -> None:
    vectors = np.linalg.qr(np.random.default_rng(0).normal(size=(5, 2)))[0]
    cost = CostToGo(3.0, vectors, np.array([1.0, 2.0]))
    x = np.arange(5.0)
    np.testing.assert_allclose(cost.apply(lambda eigenvalue: 1 / eigenvalue, x), np.linalg.solve(cost.dense, x))


def test_progress_counts_the_blocks() -> None:
    steps: list[int] = []
    solve_factored(random_blocks(1), progress=lambda: steps.append(1), **COSTS)
    assert len(steps) == 6


def test_no_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one block"):
        solve_factored([], **COSTS)


def test_costs_without_a_minimum_are_refused() -> None:
    with pytest.raises(ValueError, match="input_cost must be positive"):
        solve_factored(random_blocks(1), **(COSTS | {"input_cost": 0.0}))
