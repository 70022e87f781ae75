"""Neutral texts in the PyTorch model, and the calibration on them: divergence, its curve, the push at the sensor."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch

from edgesteer.control.calibration import (
    Calibration,
    calibrate,
    calibrate_push,
    divergence,
    divergence_curve,
    level_at,
    start_calibration,
    steps_of,
)
from edgesteer.control.linear_model import DenseModel, predicted_push
from edgesteer.control.options import ControllerOptions
from edgesteer.controller import Command, Controller
from edgesteer.export.calibrate import TorchTexts
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.simulate import run_steered
from edgesteer.export.weights import LoadedModel, TokenizedText

pytestmark = pytest.mark.torch

TEXTS = [TokenizedText(torch.arange(20, 50), completion_start=10), TokenizedText(torch.arange(90, 70, -1), 5)]


@pytest.fixture
def controller(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32, law="lqr", mode="hold")


@pytest.fixture
def calibration(tiny_torch: LoadedModel, controller: Controller) -> Calibration:
    return start_calibration(controller, TorchTexts(tiny_torch, TEXTS))


def test_neutral_text_is_steered_where_it_would_be_generated(tiny_torch: LoadedModel, controller: Controller) -> None:
    """Over the completion and the token before it, which is where its first token comes from."""
    command = Command(1.0, 1.0, "hold")
    for text, run in zip(TEXTS, TorchTexts(tiny_torch, TEXTS).steered(controller, command), strict=True):
        rows = torch.arange(len(text.tokens)) >= text.completion_start - 1
        expected = run_steered(tiny_torch, controller, command, text.tokens, rows)
        np.testing.assert_array_equal(run.logits, expected.logits[text.completion_start :])
        np.testing.assert_array_equal(run.control, expected.control[:, text.completion_start :])
        np.testing.assert_array_equal(run.sensor, expected.sensor[text.completion_start :])


def test_texts_to_compare_with_are_not_steered(calibration: Calibration) -> None:
    assert [text.control.shape for text in calibration.plain] == [(4, 20), (4, 15)]
    assert not any(text.control.any() for text in calibration.plain)


def test_divergence_is_0_without_control(controller: Controller, calibration: Calibration) -> None:
    assert divergence(controller, calibration, Command(0.0, 0.0, "hold")) == 0.0


def test_divergence_is_the_mean_over_the_completions_tokens(controller: Controller, calibration: Calibration) -> None:
    command = Command(1.0, 1.0, "hold")
    kl = torch.nn.KLDivLoss(reduction="none", log_target=True)
    runs = [calibration.texts.steered(controller, each) for each in (controller.command(0.0), command)]
    tokens = [
        kl(*(torch.from_numpy(each.logits).log_softmax(-1) for each in (steered, plain))).sum(-1)
        for plain, steered in zip(*runs, strict=True)
    ]
    expected = float(torch.cat(tokens).mean())
    assert divergence(controller, calibration, command) == pytest.approx(expected, rel=1e-4)
    assert expected > 0.01


LEVELS = np.array([1.0, 2.0, 4.0, 8.0, 16.0])
ALL = [Command(level, 1.0, "hold") for level in LEVELS]


def test_divergence_curve_never_falls(controller: Controller, calibration: Calibration) -> None:
    tried, curve = divergence_curve(controller, calibration, ALL, 2, -math.inf, math.inf)
    assert tried.tolist() == [0, 1, 2, 3, 4]
    single = [divergence(controller, calibration, command) for command in ALL]
    np.testing.assert_allclose(curve, np.maximum.accumulate(single))


@pytest.mark.parametrize("first", range(5))
def test_divergence_curve_ends_around_what_is_asked_for_wherever_it_begins(
    controller: Controller, calibration: Calibration, first: int
) -> None:
    _, whole = divergence_curve(controller, calibration, ALL, 0, -math.inf, math.inf)
    steps: list[None] = []
    counted = replace(calibration, advance=lambda: steps.append(None))
    least, most = float(whole[1:3].mean()), float(whole[2:4].mean())
    tried, curve = divergence_curve(controller, counted, ALL, first, least, most)
    assert tried.tolist() == list(range(min(first, 1), max(first, 3) + 1))
    np.testing.assert_array_equal(curve, whole[tried])
    assert len(steps) == len(ALL) * len(TEXTS)
    for wanted in (least, most):
        assert level_at(curve, LEVELS[tried], wanted) == pytest.approx(level_at(whole, LEVELS, wanted))


def test_a_command_that_overflows_diverges_without_end(controller: Controller, calibration: Calibration) -> None:
    commands = [*ALL, Command(math.inf, 1.0, "hold")]
    tried, curve = divergence_curve(controller, calibration, commands, 4, math.inf, math.inf)
    assert (tried.tolist(), curve[-1]) == ([4, 5], math.inf)
    assert level_at(curve[:1], LEVELS[4:], curve[0]) == pytest.approx(16.0)


def test_push_is_the_best_multiple_of_the_prediction(
    tiny_torch: LoadedModel, controller: Controller, calibration: Calibration
) -> None:
    prediction = predicted_push(controller, DenseModel(mean_jacobians(tiny_torch, [t.tokens for t in TEXTS])))
    calibrated = calibrate_push(controller, prediction, calibration)
    assert calibrated.sensor is not None
    push = calibrated.sensor.push

    def unexplained(scale: float) -> float:
        """Sum of squares of what the push leaves of the sensor's change, at strengths 1 and -1."""
        return sum(
            float(np.sum((steered.sensor - plain.sensor - scale * push @ steered.control) ** 2))
            for strength in (1.0, -1.0)
            for plain, steered in calibration.steered(controller, controller.command(strength))
        )

    assert unexplained(1.0) < unexplained(0.0)
    assert unexplained(1.0) <= min(unexplained(0.98), unexplained(1.02))
    assert abs(push @ prediction) == pytest.approx(np.linalg.norm(push) * np.linalg.norm(prediction), rel=1e-5)


@pytest.mark.parametrize("law", ["lqr", "ablate"])
def test_calibration_takes_the_announced_number_of_steps(
    tiny_torch: LoadedModel, make_controller: Callable[..., Controller], law: str
) -> None:
    texts, steps = TorchTexts(tiny_torch, TEXTS[1:]), list[None]()
    model = DenseModel(np.zeros((4, 32, 32), dtype=np.float32))
    safe_range = (0.0, 1.0) if law == "ablate" else (-1.0, 1.0)
    controller = replace(make_controller(4, 32, law=law), safe_range=safe_range)
    calibrate(controller, model, texts, ControllerOptions(law=law), lambda: steps.append(None))
    assert len(steps) == steps_of(law, texts)
