"""Classes: statistics by hand, separation on held-out texts, the sensor's neutral readings."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from edgesteer.control.activations import Activations
from edgesteer.control.classes import (
    POSITIONS,
    Classes,
    alpha_statistics,
    classes_of,
    held_out_separation,
    make_sensor,
    probes,
    sensor_block,
)
from edgesteer.control.observer import separation, shrink_covariance, whitened_probe

WIDTH = 8
BOUNDARIES = 3


def some_activations(
    random: np.random.Generator, *, texts: int, length: int = 4, shift: float = 0.0, start: int = 0
) -> Activations:
    """Return texts of equal length; the shift is along the first coordinate, at boundary 2 only."""
    tokens = random.normal(size=(texts * length, BOUNDARIES, WIDTH)).astype(np.float32)
    tokens[:, 2, 0] += shift
    text = np.repeat(np.arange(texts), length)
    return Activations.of(tokens, text, start + np.tile(np.arange(length), texts))


def some_classes(shift: float, *, texts: int = 40, seed: int = 0) -> Classes:
    random = np.random.default_rng(seed)
    positive, negative = (some_activations(random, texts=texts, shift=s) for s in (shift, 0.0))
    return classes_of(positive, negative, "mean")


# ---- classes, probes and statistics ----


def one_dimensional(*texts: list[float]) -> Activations:
    values = np.array(list(itertools.chain(*texts)), dtype=np.float32)
    numbers = np.repeat(np.arange(len(texts)), [len(t) for t in texts])
    return Activations.of(values[:, None, None], numbers, np.arange(len(values)))


def test_deviations_by_hand() -> None:
    """Deviations from the class mean of the pooled texts: 5 +- (2, 0, -2) and 1 +- (1, -1)."""
    classes = classes_of(one_dimensional([3, 5], [6]), one_dimensional([0, 2]), "mean")
    # positive class mean (4 + 6)/2 = 5: deviations -2, 0, 1; negative class mean 1: deviations -1, 1
    np.testing.assert_allclose(classes.deviations(0), [[-2], [0], [1], [-1], [1]])


def test_direction_by_hand() -> None:
    classes = classes_of(one_dimensional([3, 5], [6]), one_dimensional([0, 2]), "mean")
    np.testing.assert_allclose(classes.direction, [[4.0]])
    last = classes_of(one_dimensional([3, 5], [6]), one_dimensional([0, 2]), "last")
    np.testing.assert_allclose(last.direction, [[5.5 - 2.0]])


def test_without_leaves_whole_texts_out() -> None:
    classes = classes_of(one_dimensional([3, 5], [6]), one_dimensional([0, 2], [7]), "mean")
    rest = classes.without(np.array([True, False]), np.array([False, True]))
    np.testing.assert_array_equal(rest.positive.tokens.ravel(), [6])
    np.testing.assert_array_equal(rest.negative.tokens.ravel(), [0, 2])
    np.testing.assert_array_equal(rest.positive_pooled.ravel(), [6])
    np.testing.assert_array_equal(rest.negative_pooled.ravel(), [1])


def test_probes_are_those_of_the_observer() -> None:
    classes = some_classes(1.0)
    w = probes(classes, 0.3)
    assert not w[0].any()
    for boundary in (1, 2):
        deviations = classes.deviations(boundary)
        covariance = shrink_covariance(deviations.T @ deviations / len(deviations), 0.3)
        np.testing.assert_allclose(w[boundary], whitened_probe(covariance, classes.direction[boundary]))


def test_alpha_is_1_and_0_at_the_class_means() -> None:
    classes = some_classes(1.0)
    statistics = alpha_statistics(classes, classes.negative, probes(classes, 0.3), np.ones(2, dtype=np.float32))
    np.testing.assert_allclose(statistics.positive_mean, 1, atol=1e-5)
    np.testing.assert_allclose(statistics.negative_mean, 0, atol=1e-5)
    np.testing.assert_array_equal(statistics.neutral_mean, statistics.negative_mean)
    np.testing.assert_array_equal(statistics.neutral_spread, statistics.negative_spread)


def test_spread_of_alpha_is_that_of_the_planted_distribution() -> None:
    """Unit noise read along a shift of 2 has a spread of 1/2."""
    classes = some_classes(2.0, texts=400)
    statistics = alpha_statistics(classes, classes.positive, probes(classes, 0.3), np.ones(2, dtype=np.float32))
    assert statistics.positive_spread[1] == pytest.approx(0.5, rel=0.1)
    assert statistics.negative_spread[1] == pytest.approx(0.5, rel=0.1)


# ---- separation on held-out texts ----


@pytest.mark.parametrize(("separations", "block"), [([1, 3, 2, 9], 1), ([1, 1, 1], 0), ([2], 0)])
def test_the_sensor_is_where_the_classes_separate_best_and_not_in_the_last_block(
    separations: list[float], block: int
) -> None:
    assert sensor_block(np.array(separations, dtype=np.float32)) == block


def test_planted_separation_is_found_where_it_is() -> None:
    """A shift of 2 over texts of 4 tokens of unit noise: d' = 2 / (1/sqrt(4)) = 4."""
    separations = held_out_separation(some_classes(2.0, texts=100), 0.3, seed=0)
    assert separations.shape == (2,)
    assert separations[1] == pytest.approx(4, rel=0.2)
    assert separations[0] < 1


@pytest.mark.parametrize("seed", range(3))
def test_random_labels_have_no_separation(seed: int) -> None:
    """With 400 texts a class the standard error of d' is 0.07."""
    assert (held_out_separation(some_classes(0.0, texts=400, seed=seed), 0.3, seed=seed) < 0.25).all()


def test_memorized_texts_do_not_count_as_separated() -> None:
    """With 6 texts a class in 8 dimensions a probe separates its own texts whatever the labels are."""
    memorized, held_out = [], []
    for seed in range(8):
        classes = some_classes(0.0, texts=6, seed=seed)
        w = probes(classes, 0.01)[2]
        memorized.append(separation(classes.positive_pooled[:, 2] @ w, classes.negative_pooled[:, 2] @ w))
        held_out.append(held_out_separation(classes, 0.01, seed=seed)[1])
    assert np.mean(held_out) < np.mean(memorized) / 2


def test_separation_is_a_function_of_the_seed() -> None:
    classes = some_classes(0.5)
    first, again, other = (held_out_separation(classes, 0.3, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_classes_may_differ_in_size() -> None:
    random = np.random.default_rng(0)
    classes = classes_of(some_activations(random, texts=30, shift=2.0), some_activations(random, texts=17), "mean")
    assert held_out_separation(classes, 0.3, seed=0)[1] > 2


# ---- the sensor ----


def reading(values: NDArray[np.float64], *, texts: int, start: int = 0) -> Activations:
    """Return texts of equal length; the values are the second coordinate at boundary 2."""
    drawn = some_activations(np.random.default_rng(0), texts=texts, length=len(values) // texts, start=start)
    tokens = drawn.tokens
    tokens[:, 2, 1] = values
    return Activations.of(tokens, drawn.text, drawn.position)


def test_neutral_readings_of_the_sensor_by_hand() -> None:
    """Alpha of the two neutral texts falls by 1 a token from 30 and from 50; the prompt reads 7."""
    classes = some_classes(1.0)
    w = np.zeros((BOUNDARIES, WIDTH))
    w[2, 1] = 1.0
    negative = float(classes.negative_mean[2, 1])
    falling = np.concatenate([30 - np.arange(30), 50 - np.arange(30)])
    neutral = reading(falling + negative, texts=2, start=5)
    prompt = reading(np.full(8, 7 + negative), texts=2)
    sensor = make_sensor(classes, neutral, prompt, w, block=1)
    settled = np.mean(40 - np.arange(POSITIONS - 1, 30))
    assert sensor.offset == pytest.approx(negative)
    assert sensor.prompt_mean == pytest.approx(7, abs=1e-5)
    np.testing.assert_allclose(sensor.position_mean, [*(40 - np.arange(POSITIONS - 1)), settled], rtol=1e-5)
    assert sensor.target == 1.0  # the distance between the classes
    assert sensor.push.shape == (0,)


def test_neutral_texts_may_be_short() -> None:
    """Positions that no text reaches, and prompts without words, read as the rest does."""
    classes = some_classes(1.0)
    neutral = some_activations(np.random.default_rng(0), texts=2, length=3)
    no_words = neutral.where(neutral.position < 0)
    sensor = make_sensor(classes, neutral, no_words, probes(classes, 0.3), block=1)
    assert np.isfinite(sensor.position_mean).all()
    np.testing.assert_array_equal(sensor.position_mean[3:], sensor.position_mean[-1])
    assert sensor.prompt_mean == pytest.approx(float(sensor.position_mean[-1]))
