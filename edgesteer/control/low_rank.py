"""Linear maps near the identity, A = I + L R with few columns in L, and the randomized SVD that finds L and R.

Pure array functions; this file knows nothing about models, prompts or files.
Source: Halko, Martinsson, Tropp, "Finding Structure with Randomness", SIAM Review 2011, algorithms 4.4 and 5.1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]
Product = Callable[[Matrix], Matrix]

OVERSAMPLING = 10
"""Columns more than asked for that the range is searched with."""


class LowRankBlock:
    """A = I + L R, which stands where its matrix does in products: A @ x, x @ A."""

    __array_ufunc__ = None  # leaves `array @ block` to __rmatmul__

    def __init__(self, left: Matrix, right: Matrix) -> None:
        """left: (n, k), L. right: (k, n), R."""
        self.left, self.right = left, right

    def __matmul__(self, x: Matrix) -> Matrix:
        product: Matrix = x + self.left @ (self.right @ x)
        return product

    def __rmatmul__(self, x: Matrix) -> Matrix:
        product: Matrix = x + (x @ self.left) @ self.right
        return product

    @property
    def dense(self) -> Matrix:
        matrix: Matrix = np.eye(len(self.left)) + self.left @ self.right
        return matrix


class Factorization(NamedTuple):
    """G ~ left @ right, with columns of left and rows of right of equal lengths, ordered by them."""

    left: Matrix
    """(n, k)"""
    right: Matrix
    """(k, n)"""
    energy: float
    """Share of |G|^2 (Frobenius) that the product keeps; |G|^2 is estimated without bias from the first products."""


def randomized_factors(
    forward: Product, reverse: Product, width: int, rank: int, *, energy: float = 1.0, passes: int = 1, seed: int = 0
) -> Factorization:
    """Return the best low-rank factors of a linear map that is known by its products alone.

    forward, reverse: (n, j) -> (n, j), G X and G' X. rank: the most; fewer where they keep this share of the energy.
    passes: power iterations; each brings the singular vectors nearer to G's own, for two more products.
    """
    columns = min(width, rank + OVERSAMPLING)
    start = np.random.default_rng(seed).standard_normal((width, columns))
    product = forward(start)
    total = float(np.sum(np.square(product, dtype=np.float64))) / columns
    for _ in range(power_iterations(width, rank, passes)):
        product = forward(np.linalg.qr(reverse(np.linalg.qr(product)[0]))[0])
    basis = np.linalg.qr(product)[0]
    inner, sizes, rows = np.linalg.svd(reverse(basis).T, full_matrices=False)
    total = max(total, float(np.sum(sizes**2))) if columns < width else float(np.sum(sizes**2))
    kept = np.cumsum(sizes**2) / (total or 1.0)
    count = max(1, min(rank, int(np.searchsorted(kept, energy * (1 - 1e-12))) + 1))
    roots = np.sqrt(sizes[:count])
    return Factorization((basis @ inner[:, :count]) * roots, roots[:, None] * rows[:count], float(kept[:count][-1]))


def power_iterations(width: int, rank: int, passes: int) -> int:
    """Return how many of the passes are made: none where the first products span the whole width already."""
    return passes if rank + OVERSAMPLING < width else 0
