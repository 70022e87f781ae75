"""Calibration: statistics by hand, separation on held-out texts, the push at the sensor, the dial's curve."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgesteer.control.observer import separation, shrink_covariance, whitened_probe
from edgesteer.controller import Command, Controller
from edgesteer.export.activations import Activations
from edgesteer.export.calibrate import (
    POSITIONS,
    Classes,
    NeutralText,
    alpha_statistics,
    calibrate_push,
    classes_of,
    divergence,
    divergence_curve,
    held_out_separation,
    level_at,
    make_sensor,
    neutral_texts,
    predicted_push,
    probes,
)
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.weights import LoadedModel, TokenizedText

pytestmark = pytest.mark.torch

WIDTH = 8
BOUNDARIES = 3


def some_activations(
    random: np.random.Generator, *, texts: int, length: int = 4, shift: float = 0.0, start: int = 0
) -> Activations:
    """Return texts of equal length; the shift is along the first coordinate, at boundary 2 only."""
    tokens = random.normal(size=(texts * length, BOUNDARIES, WIDTH)).astype(np.float32)
    tokens[:, 2, 0] += shift
    text = np.repeat(np.arange(texts), length)
    return Activations(tokens, text, start + np.tile(np.arange(length), texts))


def some_classes(shift: float, *, texts: int = 40, seed: int = 0) -> Classes:
    random = np.random.default_rng(seed)
    positive, negative = (some_activations(random, texts=texts, shift=s) for s in (shift, 0.0))
    return classes_of(positive, negative, "mean")


# ---- classes, probes and statistics ----


def one_dimensional(*texts: list[float]) -> Activations:
    values = np.array(list(itertools.chain(*texts)), dtype=np.float32)
    numbers = np.repeat(np.arange(len(texts)), [len(t) for t in texts])
    return Activations(values[:, None, None], numbers, np.arange(len(values)))


def test_covariance_by_hand() -> None:
    """Deviations from the class mean of the pooled texts: 5 +- (2, 0, -2) and 1 +- (1, -1)."""
    classes = classes_of(one_dimensional([3, 5], [6]), one_dimensional([0, 2]), "mean")
    # positive class mean (4 + 6)/2 = 5: deviations -2, 0, 1; negative class mean 1: deviations -1, 1
    np.testing.assert_allclose(classes.covariance(0), [[(4 + 0 + 1 + 1 + 1) / 5]])


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
        covariance = shrink_covariance(classes.covariance(boundary), 0.3)
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


def test_neutral_readings_of_the_sensor_by_hand() -> None:
    """Alpha of the two neutral texts falls by 1 a token from 30 and from 50; the prompt reads 7."""
    classes = some_classes(1.0)
    w = np.zeros((BOUNDARIES, WIDTH))
    w[2, 1] = 1.0
    negative = float(classes.negative_mean[2, 1])
    neutral = some_activations(np.random.default_rng(0), texts=2, length=30, start=5)
    neutral.tokens[:, 2, 1] = np.concatenate([30 - np.arange(30), 50 - np.arange(30)]) + negative
    prompt = some_activations(np.random.default_rng(0), texts=2)
    prompt.tokens[:, 2, 1] = 7 + negative
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


@pytest.mark.parametrize("sensed", [0, 2, 4])
@pytest.mark.parametrize("law", ["lqr", "pid"])
def test_predicted_push_is_the_difference_quotient_of_a_linear_stack(
    make_controller: Callable[..., Controller], sensed: int, law: str
) -> None:
    random = np.random.default_rng(0)
    jacobians = (np.eye(WIDTH) + random.normal(size=(5, WIDTH, WIDTH)) / 4).astype(np.float32)
    controller = make_controller(5, WIDTH, blocks=(0, 1, 3), law=law)
    assert controller.sensor is not None
    controller = replace(controller, sensor=replace(controller.sensor, block=sensed))

    def reading(control: tuple[float, ...]) -> float:
        x = np.ones(WIDTH)
        for block in range(sensed + 1):
            x = jacobians[block].astype(np.float64) @ x
            if block == sensed:  # the sensor reads before control at its block
                break
            if block in controller.blocks:
                site = controller.blocks.index(block)
                x = x + (controller.coupling[site] * control) @ controller.gain
        assert controller.sensor is not None
        return float(controller.sensor.probe @ x)

    base = reading((0, 0, 0))
    expected = [reading(tuple(float(i == site) for i in range(3))) - base for site in range(3)]
    np.testing.assert_allclose(predicted_push(controller, jacobians), expected, rtol=1e-5, atol=1e-6)


# ---- steered neutral text ----

TEXTS = [TokenizedText(torch.arange(20, 50), completion_start=10), TokenizedText(torch.arange(90, 70, -1), 5)]


@pytest.fixture
def controller(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32, law="lqr", mode="hold")


@pytest.fixture
def neutral(tiny_torch: LoadedModel, controller: Controller) -> list[NeutralText]:
    return neutral_texts(tiny_torch, controller, TEXTS, lambda: None)


def test_neutral_text_is_steered_where_it_would_be_generated(neutral: list[NeutralText]) -> None:
    np.testing.assert_array_equal(np.flatnonzero(neutral[0].steered_rows), range(9, 30))
    assert neutral[0].completion == slice(10, None)
    assert not neutral[0].plain.control.any()


def test_divergence_is_0_without_control(
    tiny_torch: LoadedModel, controller: Controller, neutral: list[NeutralText]
) -> None:
    assert divergence(tiny_torch, controller, neutral, Command(0.0, 0.0, "hold")) == 0.0


def test_divergence_is_the_mean_over_the_completions_tokens(
    tiny_torch: LoadedModel, controller: Controller, neutral: list[NeutralText]
) -> None:
    command = Command(1.0, 1.0, "hold")
    kl = torch.nn.KLDivLoss(reduction="none", log_target=True)
    tokens = []
    for text in neutral:
        logits = text.steer(tiny_torch, controller, command).logits[text.completion]
        plain = text.plain.logits[text.completion]
        tokens.append(kl(logits.log_softmax(-1), plain.log_softmax(-1)).sum(-1))
    expected = float(torch.cat(tokens).mean())
    assert divergence(tiny_torch, controller, neutral, command) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


def test_divergence_curve_never_falls(
    tiny_torch: LoadedModel, controller: Controller, neutral: list[NeutralText]
) -> None:
    commands = [Command(level, 1.0, "hold") for level in (0.5, 1.0, 2.0)]
    curve = divergence_curve(tiny_torch, controller, neutral, commands, math.inf, lambda: None)
    single = [divergence(tiny_torch, controller, neutral, command) for command in commands]
    np.testing.assert_allclose(curve, np.maximum.accumulate(single))


def test_divergence_curve_ends_where_it_has_reached_what_is_asked_for(
    tiny_torch: LoadedModel, controller: Controller, neutral: list[NeutralText]
) -> None:
    commands = [Command(level, 1.0, "hold") for level in (0.5, 1.0, 2.0)]
    whole = divergence_curve(tiny_torch, controller, neutral, commands, math.inf, lambda: None)
    steps: list[None] = []
    wanted = float(whole[:2].mean())
    curve = divergence_curve(tiny_torch, controller, neutral, commands, wanted, lambda: steps.append(None))
    np.testing.assert_array_equal(curve, whole[:2])
    assert len(steps) == len(commands) * len(neutral)
    assert level_at(curve, (0.5, 1.0, 2.0), wanted) == level_at(whole, (0.5, 1.0, 2.0), wanted)


def test_push_is_the_best_multiple_of_the_prediction(
    tiny_torch: LoadedModel, controller: Controller, neutral: list[NeutralText]
) -> None:
    jacobians = mean_jacobians(tiny_torch, [t.tokens for t in TEXTS])
    calibrated = calibrate_push(tiny_torch, controller, jacobians, neutral, lambda: None)
    assert calibrated.sensor is not None
    push = calibrated.sensor.push

    def unexplained(scale: float) -> float:
        """Sum of squares of what the push leaves of the sensor's change, at strengths 1 and -1."""
        rest = 0.0
        for text, strength in itertools.product(neutral, (1.0, -1.0)):
            run = text.steer(tiny_torch, controller, controller.command(strength))
            change = (run.sensor - text.plain.sensor)[text.completion].numpy()
            rest += float(np.sum((change - scale * push @ run.control[:, text.completion].numpy()) ** 2))
        return rest

    assert unexplained(1.0) < unexplained(0.0)
    assert unexplained(1.0) <= min(unexplained(0.98), unexplained(1.02))
    prediction = predicted_push(controller, jacobians)
    assert abs(push @ prediction) == pytest.approx(np.linalg.norm(push) * np.linalg.norm(prediction), rel=1e-5)


# ---- the dial ----


def test_level_between_two_measurements_by_hand() -> None:
    # divergence 0.1 and 0.4 at levels 1 and 2 grows as level^2, so it is 0.2 at sqrt(2)
    assert level_at(np.array([0.1, 0.4]), [1.0, 2.0], 0.2) == pytest.approx(np.sqrt(2))


def test_level_of_a_measured_divergence_is_its_level() -> None:
    assert level_at(np.array([0.1, 0.3, 0.9]), [-1.0, -2.0, -4.0], 0.3) == pytest.approx(2.0)


@pytest.mark.parametrize(("nats", "level"), [(0.01, 1.0), (5.0, 2.0)])
def test_ends_of_the_curve_bound_the_level(nats: float, level: float) -> None:
    assert level_at(np.array([0.1, 0.4]), [1.0, 2.0], nats) == pytest.approx(level)


def test_divergence_of_0_has_a_level() -> None:
    assert level_at(np.array([0.0, 0.4]), [1.0, 2.0], 0.4) == pytest.approx(2.0)
