"""The factored covariance: where no factor is left out, it says what the dense one says."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.covariance import FactoredCovariance, factor_covariance, shrunk_probe
from edgesteer.control.observer import shrink_covariance, whitened_probe

Doubles = NDArray[np.float64]


@pytest.fixture
def deviations() -> Doubles:
    """(60, 8) with correlated coordinates of which one is larger by far."""
    random = np.random.default_rng(0)
    rows = random.normal(size=(60, 8)) @ random.normal(size=(8, 8))
    rows[:, 3] *= 1000
    centred: Doubles = rows - rows.mean(axis=0)
    return centred


def dense(covariance: FactoredCovariance) -> Doubles:
    correlation = covariance.factors.T @ covariance.factors
    np.fill_diagonal(correlation, 1)
    product: Doubles = covariance.spread[:, None] * correlation * covariance.spread
    return product


def test_all_factors_give_the_covariance_back(deviations: Doubles) -> None:
    np.testing.assert_allclose(dense(factor_covariance(deviations, 8)), deviations.T @ deviations / 60, rtol=1e-9)


def test_few_factors_keep_the_diagonal_and_the_main_correlations(deviations: Doubles) -> None:
    covariance = factor_covariance(deviations, 3)
    assert covariance.factors.shape == (3, 8)
    np.testing.assert_allclose(covariance.spread, deviations.std(axis=0))
    correlation = np.corrcoef(deviations.T)
    values, vectors = np.linalg.eigh(correlation)
    expected = (vectors[:, -3:] * values[-3:]) @ vectors[:, -3:].T
    np.testing.assert_allclose(covariance.factors.T @ covariance.factors, expected, atol=1e-12)


@pytest.mark.parametrize("shrinkage", [0.05, 0.3, 1.0])
def test_probe_equals_the_dense_one(deviations: Doubles, shrinkage: float) -> None:
    direction = np.random.default_rng(1).normal(size=8)
    expected = whitened_probe(shrink_covariance(deviations.T @ deviations / 60, shrinkage), direction)
    probe = factor_covariance(deviations, 8).whitened_probe(direction, shrinkage)
    np.testing.assert_allclose(probe, expected, rtol=1e-9)


def test_coordinate_that_never_varies_does_no_harm(deviations: Doubles) -> None:
    deviations[:, 5] = 0
    probe = factor_covariance(deviations, 8).whitened_probe(np.ones(8), 0.3)
    expected = whitened_probe(shrink_covariance(deviations.T @ deviations / 60, 0.3), np.ones(8))
    assert np.all(np.isfinite(probe))
    np.testing.assert_allclose(probe, expected, rtol=1e-9)


def test_no_direction_is_refused(deviations: Doubles) -> None:
    with pytest.raises(ValueError, match="no direction to probe"):
        factor_covariance(deviations, 2).whitened_probe(np.zeros(8), 0.3)


@pytest.mark.parametrize("shrinkage", [0.0, 1.1])
def test_shrinkage_outside_its_interval_is_refused(deviations: Doubles, shrinkage: float) -> None:
    with pytest.raises(ValueError, match="shrinkage must lie in"):
        factor_covariance(deviations, 2).whitened_probe(np.ones(8), shrinkage)


@pytest.mark.parametrize("tokens", [5, 7, 8, 60])
@pytest.mark.parametrize("shrinkage", [0.05, 1.0])
def test_probe_of_few_tokens_equals_the_dense_one(deviations: Doubles, tokens: int, shrinkage: float) -> None:
    """With fewer tokens than coordinates, Woodbury's identity takes the place of the n x n solution."""
    direction, rows = np.random.default_rng(1).normal(size=8), deviations[:tokens]
    expected = whitened_probe(shrink_covariance(rows.T @ rows / tokens, shrinkage), direction)
    np.testing.assert_allclose(shrunk_probe(rows, direction, shrinkage), expected, rtol=1e-9)


@pytest.mark.parametrize("tokens", [5, 60])
def test_probe_of_tokens_refuses_what_the_dense_one_refuses(deviations: Doubles, tokens: int) -> None:
    with pytest.raises(ValueError, match="class means are equal"):
        shrunk_probe(deviations[:tokens], np.zeros(8), 0.3)
    with pytest.raises(ValueError, match="shrinkage must lie in"):
        shrunk_probe(deviations[:tokens], np.ones(8), 0.0)
