"""Blocks near the identity stand where their matrices do, and the randomized factors are those of the exact SVD."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.low_rank import LowRankBlock, randomized_factors

Doubles = NDArray[np.float64]


@pytest.fixture
def matrix() -> Doubles:
    """(40, 40) with singular values 1, 1/4, 1/9, ..."""
    random = np.random.default_rng(0)
    left, right = (np.linalg.qr(random.normal(size=(40, 40)))[0] for _ in range(2))
    return (left / np.arange(1, 41) ** 2) @ right


def test_block_multiplies_as_its_matrix_does() -> None:
    random = np.random.default_rng(0)
    left, right, x = random.normal(size=(5, 2)), random.normal(size=(2, 5)), random.normal(size=(5, 3))
    block = LowRankBlock(left, right)
    np.testing.assert_allclose(block.dense, np.eye(5) + left @ right)
    np.testing.assert_allclose(block @ x, block.dense @ x)
    np.testing.assert_allclose(block @ x[:, 0], block.dense @ x[:, 0])
    np.testing.assert_allclose(x.T @ block, x.T @ block.dense)
    np.testing.assert_allclose(x[:, 0] @ block, x[:, 0] @ block.dense)


def test_full_rank_gives_the_map_back(matrix: Doubles) -> None:
    left, right, energy = randomized_factors(lambda x: matrix @ x, lambda x: matrix.T @ x, 40, 40)
    np.testing.assert_allclose(left @ right, matrix, atol=1e-14)
    assert energy == pytest.approx(1)


@pytest.mark.parametrize(("passes", "excess"), [(0, 0.5), (1, 0.02)])
def test_error_is_that_of_the_best_factors_up_to_an_excess(matrix: Doubles, passes: int, excess: float) -> None:
    left, right, _ = randomized_factors(lambda x: matrix @ x, lambda x: matrix.T @ x, 40, 5, passes=passes)
    best = np.sqrt(np.sum(np.arange(6, 41) ** -4.0))
    assert best <= np.linalg.norm(matrix - left @ right) <= (1 + excess) * best


def test_factors_share_the_singular_values_equally(matrix: Doubles) -> None:
    left, right, _ = randomized_factors(lambda x: matrix @ x, lambda x: matrix.T @ x, 40, 4)
    np.testing.assert_allclose(left.T @ left, np.diag([1, 1 / 4, 1 / 9, 1 / 16]), rtol=1e-3, atol=1e-9)
    np.testing.assert_allclose(right @ right.T, np.diag([1, 1 / 4, 1 / 9, 1 / 16]), rtol=1e-3, atol=1e-9)


def test_energy_decides_the_rank_below_the_most(matrix: Doubles) -> None:
    kept = np.cumsum(np.arange(1, 41) ** -4.0) / np.sum(np.arange(1, 41) ** -4.0)
    left, _, energy = randomized_factors(lambda x: matrix @ x, lambda x: matrix.T @ x, 40, 40, energy=0.999)
    assert left.shape == (40, 7)
    assert energy == pytest.approx(kept[6])
    assert kept[5] < 0.999 <= kept[6]


def test_energy_is_estimated_without_the_rest_of_the_map() -> None:
    # |G|^2 of a flat spectrum is 60, of which a rank of 10 keeps a sixth; 20 random columns tell it to some percent.
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(60, 60)))[0]
    _, _, energy = randomized_factors(lambda x: rotation @ x, lambda x: rotation.T @ x, 60, 10)
    assert energy == pytest.approx(1 / 6, rel=0.1)


def test_same_seed_gives_the_same_factors(matrix: Doubles) -> None:
    def factors(seed: int) -> Doubles:
        return randomized_factors(lambda x: matrix @ x, lambda x: matrix.T @ x, 40, 5, passes=0, seed=seed).left

    np.testing.assert_array_equal(factors(3), factors(3))
    assert np.any(factors(3) != factors(4))


def test_map_that_is_zero_has_one_factor_of_zeros() -> None:
    left, right, _ = randomized_factors(lambda x: 0 * x, lambda x: 0 * x, 6, 3, energy=0.5)
    assert not np.any(left @ right)
