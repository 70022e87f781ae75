"""Calibration on neutral text: which step of the dial costs how much, and how much of the sensor's reading is the
controller's own push. Who runs the model, PyTorch or llama.cpp, is behind NeutralTexts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.linear_model import LinearModel, predicted_push
from edgesteer.control.options import ControllerOptions
from edgesteer.controller import Array, Command, Controller

Float = NDArray[np.float64]
CALIBRATION_TEXTS = 6
LEVELS = tuple(2.0**exponent for exponent in range(-6, 9))
"""Levels at which the divergence on neutral text may be measured, on each side."""
FIRST_LEVEL = LEVELS.index(0.5)
"""The search goes up and down from there."""
SHARES = (0.25, 0.5, 1.0)
"""The same for `ablate`, of what is removed."""


@dataclass(frozen=True)
class SteeredText:
    """What one run over the N tokens of a completion gave and measured; m steered blocks."""

    logits: Array
    """(N, vocabulary)"""
    control: Array
    """(m, N) signed."""
    sensor: Array
    """(N,) the sensor's reading before control at its block."""


class NeutralTexts(Protocol):
    """Some neutral texts, and a model that reads them under steering."""

    def __len__(self) -> int: ...

    def steered(self, controller: Controller, command: Command) -> Iterator[SteeredText]:
        """Yield each text's completion, steered by one command from the token before it on, as if it were generated."""
        ...


@dataclass(frozen=True)
class Calibration:
    """What the controller is compared with: the same texts, unsteered."""

    texts: NeutralTexts
    plain: Sequence[SteeredText]
    advance: Callable[[], None] = lambda: None
    """Called after each text that was run."""

    def steered(self, controller: Controller, command: Command) -> Iterator[tuple[SteeredText, SteeredText]]:
        """Yield each text unsteered and steered."""
        for pair in zip(self.plain, self.texts.steered(controller, command), strict=True):
            yield pair
            self.advance()


def calibrate(
    controller: Controller,
    model: LinearModel,
    texts: NeutralTexts,
    options: ControllerOptions,
    advance: Callable[[], None] = lambda: None,
) -> Controller:
    """Return the controller with its dial, its safe range and the sensor's push. advance: called `steps_of` times."""
    calibration = start_calibration(controller, texts, advance)
    dial = calibrate_share if controller.law == "ablate" else calibrate_level
    return calibrate_push(dial(controller, calibration, options), predicted_push(controller, model), calibration)


def steps_of(law: str, texts: NeutralTexts) -> int:
    """Return how many texts are run to calibrate a controller of a law, at most."""
    return (2 + len(SHARES) if law == "ablate" else 3 + 2 * len(LEVELS)) * len(texts)


def start_calibration(
    controller: Controller, texts: NeutralTexts, advance: Callable[[], None] = lambda: None
) -> Calibration:
    """Run the texts without steering."""
    plain = []
    for text in texts.steered(controller, controller.command(0.0)):
        plain.append(replace(text, logits=log_softmax(text.logits)))
        advance()
    return Calibration(texts, plain, advance)


def signs(controller: Controller) -> tuple[float, ...]:
    """Return the strengths of 1 on the sides that a controller steers to."""
    return (1.0, -1.0) if controller.safe_range[0] < 0 else (1.0,)


def calibrate_push(controller: Controller, prediction: Float, calibration: Calibration) -> Controller:
    """Return the controller with its sensor's push: the linear prediction times a factor fitted on neutral text.

    The factor (least squares through the origin) brings in what the one-token prediction leaves out: the pushes of the
    tokens before, which reach the sensor through keys and values. prediction: (m,).
    """
    assert controller.sensor is not None
    predicted, measured = [], []
    for strength in signs(controller):
        for plain, steered in calibration.steered(controller, controller.command(strength)):
            predicted.append(prediction @ steered.control)
            measured.append(steered.sensor - plain.sensor)
    x, y = np.concatenate(predicted), np.concatenate(measured)
    factor = float(x @ y / (x @ x)) if np.any(x) else 0.0
    push = (factor * prediction).astype(np.float32)
    return replace(controller, sensor=replace(controller.sensor, push=push))


def log_softmax(logits: Array) -> Array:
    """Return log probabilities along the last axis."""
    shifted = logits - logits.max(axis=-1, keepdims=True)
    normalized: Array = shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return normalized


def divergence(controller: Controller, calibration: Calibration, command: Command) -> float:
    """Return KL(unsteered || steered) of the next-token distribution on neutral text, in nats per token."""
    total, count = 0.0, 0
    for plain, steered in calibration.steered(controller, command):
        p, q = plain.logits, log_softmax(steered.logits)
        total += float((np.exp(p) * (p - q)).sum())
        count += len(p)
    return total / count


def divergence_curve(
    controller: Controller, calibration: Calibration, commands: Sequence[Command], first: int, least: float, most: float
) -> tuple[NDArray[np.intp], Float]:
    """Return which of ever stronger commands were tried, and the divergence at each, made monotone.

    The search begins at one of them, and goes up until it reaches `most` nats and down until it is at `least`.
    """

    def measure(number: int) -> float:
        found = divergence(controller, calibration, commands[number])
        return found if np.isfinite(found) else np.inf  # the model overflows

    found = {first: measure(first)}
    for number in range(first + 1, len(commands)):
        if found[number - 1] >= most:
            break
        found[number] = measure(number)
    for number in range(first - 1, -1, -1):
        if found[number + 1] <= least:
            break
        found[number] = measure(number)
    for _ in range(len(calibration.texts) * (len(commands) - len(found))):
        calibration.advance()
    tried = np.array(sorted(found))
    return tried, np.maximum.accumulate([found[number] for number in tried])


def level_at(curve: Float, levels: Float, nats: float) -> float:
    """Return the level at which a divergence curve reaches some nats.

    Interpolated in the logarithms of both, since divergence grows like a power of the level; the ends of the curve
    bound the answer. curve, levels: (k,).
    """
    tiny = np.finfo(float).tiny
    return float(np.exp(np.interp(np.log(nats), np.log(np.maximum(curve, tiny)), np.log(levels))))


def calibrate_level(controller: Controller, calibration: Calibration, options: ControllerOptions) -> Controller:
    """Return the controller with its dial and its safe range.

    Strength 1 is where the divergence on neutral text reaches options.dial_nats, the safe range ends where it reaches
    options.safe_nats, on each side. A-LQR as published keeps its own dial: there strength is the paper's lambda.
    """
    fixed = controller.law == "a-lqr"
    wanted = sorted((options.safe_nats, options.safe_nats if fixed else options.dial_nats))

    def search(sign: float) -> tuple[Float, Float]:
        commands = [controller.at_level(sign * each) for each in LEVELS]
        tried, curve = divergence_curve(controller, calibration, commands, FIRST_LEVEL, *wanted)
        return curve, np.array(LEVELS)[tried]

    up, down = search(1), search(-1)
    if not fixed:
        controller = replace(controller, scale=level_at(*up, options.dial_nats))
    low, high = (round(level_at(*side, options.safe_nats) / controller.scale, 2) for side in (down, up))
    return replace(controller, safe_range=(-low, high))


def calibrate_share(controller: Controller, calibration: Calibration, options: ControllerOptions) -> Controller:
    """The same for `ablate`, whose dial is the share removed: its safe range ends at 1 or at options.safe_nats."""
    commands = [controller.command(share) for share in SHARES]
    tried, curve = divergence_curve(controller, calibration, commands, 0, 0.0, options.safe_nats)
    high = level_at(curve, np.array(SHARES)[tried], options.safe_nats)
    return replace(controller, safe_range=(0.0, round(high, 2)))
