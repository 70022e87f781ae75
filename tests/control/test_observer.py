"""The whitened observer: calibration, least variance, and what it recovers where the mean difference does not."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.observer import separation, shrink_covariance, whitened_probe

Doubles = NDArray[np.float64]

WIDTH = 24


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(3)


def covariance_matrix(random: np.random.Generator) -> Doubles:
    """Return a covariance with correlations and with scales that differ by a factor of 100."""
    root = random.normal(size=(WIDTH, WIDTH)) * np.geomspace(0.1, 10, WIDTH)[:, None]
    return root @ root.T / WIDTH


def cosine(a: Doubles, b: Doubles) -> float:
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def test_probe_by_hand() -> None:
    # C = diag(1, 4), E = (1, 2):  C^-1 E = (1, 1/2),  E' C^-1 E = 2
    np.testing.assert_allclose(whitened_probe(np.diag([1.0, 4.0]), np.array([1.0, 2.0])), [0.5, 0.25])


def test_alpha_is_0_and_1_at_the_class_means(random: np.random.Generator) -> None:
    negative, positive = random.normal(size=(2, WIDTH))
    probe = whitened_probe(covariance_matrix(random), positive - negative)
    offset = probe @ negative
    assert probe @ negative - offset == pytest.approx(0, abs=1e-12)
    assert probe @ positive - offset == pytest.approx(1, rel=1e-12)


def test_no_calibrated_probe_has_less_variance(random: np.random.Generator) -> None:
    covariance, direction = covariance_matrix(random), random.normal(size=WIDTH)
    probe = whitened_probe(covariance, direction)
    least = probe @ covariance @ probe
    assert least == pytest.approx(1 / (direction @ np.linalg.solve(covariance, direction)))
    for other in random.normal(size=(50, WIDTH)):
        shift = other - (other @ direction) / (direction @ direction) * direction  # keeps w . E = 1
        assert (probe + 0.01 * shift) @ covariance @ (probe + 0.01 * shift) > least


def test_probe_recovers_a_planted_direction_better_than_the_mean_difference(random: np.random.Generator) -> None:
    """Classes differ by a coordinate of little variance; with 60 texts a class the mean difference is mostly noise."""
    covariance = covariance_matrix(random)
    planted = np.eye(WIDTH)[0] * 0.3  # where the standard deviation is about 0.1
    texts = random.multivariate_normal(np.zeros(WIDTH), covariance, size=(2, 60))
    texts[0] += planted
    direction = texts[0].mean(axis=0) - texts[1].mean(axis=0)
    within = (np.cov(texts[0].T) + np.cov(texts[1].T)) / 2
    ideal = np.linalg.solve(covariance, planted)
    probe = whitened_probe(shrink_covariance(within, 0.1), direction)
    assert cosine(probe, ideal) > 0.5 + cosine(direction, ideal)

    fresh = random.multivariate_normal(np.zeros(WIDTH), covariance, size=(2, 400))
    fresh[0] += planted
    whitened, plain = (separation(fresh[0] @ w, fresh[1] @ w) for w in (probe, direction))
    assert whitened > 2 * plain


def test_equal_class_means_are_refused() -> None:
    with pytest.raises(ValueError, match="class means are equal"):
        whitened_probe(np.eye(2), np.zeros(2))


def test_shrinkage_by_hand() -> None:
    covariance = np.array([[4.0, 2.0], [2.0, 1.5]])
    np.testing.assert_allclose(shrink_covariance(covariance, 0.25), [[4.0, 1.5], [1.5, 1.5]])


def test_full_shrinkage_leaves_the_diagonal() -> None:
    covariance = np.array([[4.0, 2.0], [2.0, 1.5]])
    np.testing.assert_array_equal(shrink_covariance(covariance, 1.0), [[4.0, 0.0], [0.0, 1.5]])
    np.testing.assert_array_equal(covariance, [[4.0, 2.0], [2.0, 1.5]])  # the argument is not changed


def test_shrunk_covariance_of_too_few_samples_can_be_inverted(random: np.random.Generator) -> None:
    samples = random.normal(size=(4, WIDTH))
    samples[:, 5] = 0.0  # a dead coordinate
    shrunk = shrink_covariance(samples.T @ samples / 4, 0.3)
    assert np.linalg.eigvalsh(shrunk).min() > 0


@pytest.mark.parametrize("shrinkage", [0.0, -0.1, 1.01, float("nan")])
def test_shrinkage_outside_its_interval_is_refused(shrinkage: float) -> None:
    with pytest.raises(ValueError, match=r"shrinkage must lie in \(0, 1\]"):
        shrink_covariance(np.eye(2), shrinkage)


def test_separation_by_hand() -> None:
    # means 5 and 2; variances (ddof 1) 2 and 8, pooled sqrt(5)
    assert separation(np.array([4.0, 6.0]), np.array([0.0, 4.0])) == pytest.approx(3 / np.sqrt(5))


def test_separation_does_not_depend_on_the_sign() -> None:
    up, down = np.array([4.0, 6.0]), np.array([0.0, 4.0])
    assert separation(up, down) == separation(down, up) > 0
