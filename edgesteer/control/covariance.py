"""The covariance of a wide residual stream in factors: scales, and a correlation matrix of few factors.

Pure array functions; this file knows nothing about models, prompts or files.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.observer import diagonal_floor, shrink_covariance, whitened_probe

Float = NDArray[np.float64]


class FactoredCovariance(NamedTuple):
    """C = D (F' F + diag(1 - sum_i F_i^2)) D with D = diag(spread): its diagonal is exact."""

    spread: Float
    """(n,) standard deviation of each coordinate."""
    factors: Float
    """(c, n), F; the squares of a column sum up to at most 1."""

    def shrunk_solve(self, direction: Float, shrinkage: float) -> Float:
        """Return ((1 - s) C + s diag(C))^-1 E by Woodbury's identity, in c^2 n operations.

        direction: (n,), E. shrinkage: s in (0, 1], as of observer.shrink_covariance; ValueError outside.
        """
        if not 0 < shrinkage <= 1:
            raise ValueError(f"shrinkage must lie in (0, 1]; found {shrinkage}")
        scale = np.sqrt(diagonal_floor(self.spread**2))
        own = np.maximum((1 - shrinkage) * (1 - np.sum(self.factors**2, axis=0)), 0) + shrinkage
        shared = np.sqrt(1 - shrinkage) * self.factors
        standardized = direction / scale / own
        inner = np.eye(len(shared)) + (shared / own) @ shared.T
        solved: Float = (standardized - shared.T @ np.linalg.solve(inner, shared @ standardized) / own) / scale
        return solved

    def whitened_probe(self, direction: Float, shrinkage: float) -> Float:
        """Return w = C^-1 E / (E' C^-1 E) of the shrunk covariance, as observer.whitened_probe does of a dense one.

        Raises ValueError when the direction is zero.
        """
        if not np.any(direction):
            raise ValueError("the class means are equal, so there is no direction to probe")
        solved = self.shrunk_solve(direction, shrinkage)
        probe: Float = solved / (direction @ solved)
        return probe


def shrunk_probe(deviations: NDArray[np.floating], direction: Float, shrinkage: float) -> Float:
    """Return observer.whitened_probe of the shrunk covariance of some rows; without an n x n matrix if they are few.

    deviations: (N, n) rows less their mean. direction: (n,). shrinkage: s in (0, 1].
    Raises ValueError when the direction is zero or the shrinkage outside that interval.
    """
    if len(deviations) < deviations.shape[1]:
        spread = np.sqrt(np.mean(np.square(deviations, dtype=np.float64), axis=0))
        factors = deviations / np.sqrt(diagonal_floor(spread**2) * len(deviations))
        return FactoredCovariance(spread, factors).whitened_probe(direction, shrinkage)
    products = deviations.T @ deviations  # in float32: 2000 tokens leave 5 digits, more than the statistics have
    covariance = products.astype(np.float64) / len(deviations)
    probe: Float = whitened_probe(shrink_covariance(covariance, shrinkage), direction).astype(np.float64)
    return probe


def factor_covariance(deviations: NDArray[np.floating], rank: int) -> FactoredCovariance:
    """Return the covariance of some rows in factors: the principal components of their correlation matrix.

    deviations: (N, n) rows less their mean. rank: most factors, at most min(N, n).
    """
    spread = np.sqrt(np.mean(np.square(deviations, dtype=np.float64), axis=0))
    standardized = deviations / np.sqrt(diagonal_floor(spread**2) * len(deviations))
    _, sizes, rows = np.linalg.svd(standardized, full_matrices=False)
    return FactoredCovariance(spread, sizes[:rank, None] * rows[:rank])
