"""The observer: how much of a concept one activation carries, read off by a whitened linear probe.

Pure array functions; this file knows nothing about models, prompts or files.
The probe is Fisher's linear discriminant, scaled so that its reading has a meaning: 0 at the negative class mean and 1
at the positive class mean. Among all probes with that calibration it has the least variance over tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.floating[Any]]
Matrix = NDArray[np.floating[Any]]


def shrink_covariance(covariance: Matrix, shrinkage: float) -> Matrix:
    """Return (1 - s) C + s diag(C): off-diagonal entries shrink, scales stay.

    The target is the diagonal and not a multiple of the identity, because a few coordinates of a residual stream are
    larger than the rest by orders of magnitude. covariance: (n, n); shrinkage: s in (0, 1].
    Raises ValueError when s is outside that interval. (Schaefer and Strimmer 2005, target D.)
    """
    if not 0 < shrinkage <= 1:
        raise ValueError(f"shrinkage must lie in (0, 1]; found {shrinkage}")
    diagonal = np.diag(covariance).copy()
    shrunk: Matrix = (1 - shrinkage) * covariance
    np.fill_diagonal(shrunk, diagonal_floor(diagonal))
    return shrunk


def diagonal_floor(variances: Vector) -> Vector:
    """Return the variances of the coordinates, (n,), with those raised that rounding makes useless."""
    floored: Vector = np.maximum(variances, np.finfo(variances.dtype).eps * variances.max())
    return floored


def whitened_probe(covariance: Matrix, direction: Vector) -> Vector:
    """Return w = C^-1 E / (E' C^-1 E), the least-variance probe with w . E = 1.

    covariance: (n, n) positive definite, C; direction: (n,), E = positive mean - negative mean.
    Raises ValueError when the direction is zero.
    """
    if not np.any(direction):
        raise ValueError("the class means are equal, so there is no direction to probe")
    solved: Vector = np.linalg.solve(covariance, direction)
    probe: Vector = solved / (direction @ solved)
    return probe


def separation(positive: Vector, negative: Vector) -> float:
    """Return d' = |difference of means| / pooled standard deviation; positive, negative: readings of each class."""
    pooled = np.sqrt((positive.var(ddof=1) + negative.var(ddof=1)) / 2)
    return float(abs(positive.mean() - negative.mean()) / max(pooled, 1e-12))
