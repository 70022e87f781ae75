"""What predicts the next token's entropy: scipy's entropies, a planted regression, and streams that predict nothing."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from edgesteer.control.activations import Activations
from edgesteer.control.uncertainty import entropy, fit_uncertainty

N, WIDTH = 400, 6


def activations_of(stream: np.ndarray) -> Activations:
    """One text. stream: (N, T+1, n)."""
    return Activations.of(stream.astype(np.float32), np.zeros(len(stream), np.int64), np.arange(len(stream)))


@pytest.fixture
def stream() -> np.ndarray:
    """(N, 3, WIDTH), of unequal spreads and not centred."""
    return 5 + np.random.default_rng(0).normal(size=(N, 3, WIDTH)) * np.arange(1, WIDTH + 1)


def test_entropy_is_scipys() -> None:
    logits = np.random.default_rng(0).normal(size=(7, 11)).astype(np.float32) * 4
    np.testing.assert_allclose(entropy(logits), scipy.stats.entropy(np.exp(logits), axis=-1), rtol=1e-5)


def test_entropy_by_hand() -> None:
    """Eight equal tokens: log 8. One that is certain: 0. Two equal ones far above a third: log 2."""
    np.testing.assert_allclose(entropy(np.zeros((1, 8))), np.log(8))
    np.testing.assert_allclose(entropy(np.array([[1000.0, 0, 0], [500, 500, 0]])), [0, np.log(2)], atol=1e-12)


def test_a_planted_regression_is_found(stream: np.ndarray) -> None:
    planted = np.array([0.3, 0, 0, 0, -0.05, 0])
    entropies = 3 + (stream[:, 1] - stream[:, 1].mean(axis=0)) @ planted
    found = fit_uncertainty([activations_of(stream)], entropies, shrinkage=1e-6)
    np.testing.assert_allclose(found.probe[1], planted / 3, atol=1e-4)
    predicted = stream[:, 1] @ found.probe[1] - found.offset[1]
    np.testing.assert_allclose(predicted, entropies / 3, atol=1e-3)


@pytest.mark.parametrize("shrinkage", [0.05, 0.3, 1.0])
def test_the_prediction_is_calibrated_whatever_the_shrinkage(stream: np.ndarray, shrinkage: float) -> None:
    """Its mean is 1, and least squares would neither stretch nor shrink it."""
    rng = np.random.default_rng(1)
    entropies = 3 + stream[:, 1] @ rng.normal(size=WIDTH) / 9 + rng.normal(size=N)
    found = fit_uncertainty([activations_of(stream)], entropies, shrinkage)
    for boundary in (1, 2):
        predicted = stream[:, boundary] @ found.probe[boundary] - found.offset[boundary]
        assert predicted.mean() == pytest.approx(1, abs=1e-5)
        assert np.polyfit(predicted, entropies / entropies.mean(), 1)[0] == pytest.approx(1, abs=1e-3)


def test_texts_count_together(stream: np.ndarray) -> None:
    entropies = stream[:, 1, 0]
    whole = fit_uncertainty([activations_of(stream)], entropies, 0.3)
    parts = fit_uncertainty([activations_of(stream[:150]), activations_of(stream[150:])], entropies, 0.3)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_where_nothing_varies_the_prediction_is_1(stream: np.ndarray, value: float) -> None:
    """As at boundary 0, and where a stream says nothing."""
    found = fit_uncertainty([activations_of(stream)], np.full(N, value), 0.3)
    np.testing.assert_allclose(np.einsum("ntd,td->nt", stream, found.probe) - found.offset, 1, atol=1e-4)
    assert not found.probe[0].any()
    constant = np.ones_like(stream)
    found = fit_uncertainty([activations_of(constant)], stream[:, 1, 0], 0.3)
    np.testing.assert_allclose(np.einsum("ntd,td->nt", constant, found.probe) - found.offset, 1, atol=1e-4)
