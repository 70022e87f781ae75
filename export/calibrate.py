"""Calibration: what alpha reads on both classes and on neutral text, where the classes separate best, how much of the
sensor's reading is the controller's own push, and which step of the dial costs how much.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from edgesteer.control.observer import separation, shrink_covariance, whitened_probe
from edgesteer.controller import Array, Command, Controller, Sensor, Statistics
from edgesteer.export.activations import Activations
from edgesteer.export.simulate import SteeredRun, run_steered
from edgesteer.export.weights import LoadedModel, TokenizedText

Float = NDArray[np.float64]
FOLDS = 4
CLASS_DISTANCE = 1.0
"""Alpha between the class means: what one unit of level, or of the outer loop's reference, asks for above neutral."""
POSITIONS = 24
"""How many positions of generated text get a neutral value of their own; later ones share the last."""


@dataclass(frozen=True)
class Classes:
    """Activations of both poles and their means, with T+1 boundaries of width n."""

    positive: Activations
    negative: Activations
    positive_pooled: Array
    """(P, T+1, n) one activation per text."""
    negative_pooled: Array

    @property
    def direction(self) -> Float:
        """E_t, (T+1, n): positive class mean - negative class mean."""
        difference: Float = self.positive_pooled.mean(axis=0, dtype=np.float64) - self.negative_mean
        return difference

    @property
    def negative_mean(self) -> Float:
        """(T+1, n)"""
        mean: Float = self.negative_pooled.mean(axis=0, dtype=np.float64)
        return mean

    def covariance(self, boundary: int) -> Float:
        """Return the pooled within-class covariance over all tokens at one boundary: (n, n)."""
        deviations = np.concatenate(
            [
                a.tokens[:, boundary] - pooled[:, boundary].mean(axis=0)
                for a, pooled in (
                    (self.positive, self.positive_pooled),
                    (self.negative, self.negative_pooled),
                )
            ]
        )
        products = deviations.T @ deviations  # in float32: 2000 tokens leave 5 digits, more than the statistics have
        covariance: Float = products.astype(np.float64) / len(deviations)
        return covariance

    def without(self, positive: NDArray[np.bool_], negative: NDArray[np.bool_]) -> Classes:
        """Return the classes without some texts; positive, negative: (P,) masks of those left out."""
        return Classes(
            self.positive.select(~positive),
            self.negative.select(~negative),
            self.positive_pooled[~positive],
            self.negative_pooled[~negative],
        )


def classes_of(positive: Activations, negative: Activations, pooling: str) -> Classes:
    return Classes(positive, negative, positive.pooled(pooling), negative.pooled(pooling))


def probes(classes: Classes, shrinkage: float) -> Float:
    """Return the whitened probe of each boundary, (T+1, n); zero at boundary 0, which no law of ours reads so."""
    direction = classes.direction
    rows: list[Float] = [np.zeros(direction.shape[1])]
    for boundary in range(1, len(direction)):
        covariance = shrink_covariance(classes.covariance(boundary), shrinkage)
        rows.append(whitened_probe(covariance, direction[boundary]).astype(np.float64))
    return np.stack(rows)


def held_out_separation(
    classes: Classes, shrinkage: float, *, seed: int, progress: Callable[[], None] = lambda: None
) -> Array:
    """Return d' of each block's output on texts that the probe did not see: (T,), by cross-validation over texts.

    The i-th texts of both poles are held out together: where they answer one prompt, each would give the other away.
    """
    counts = len(classes.positive_pooled), len(classes.negative_pooled)
    order = np.random.default_rng(seed).permutation(max(counts)) % FOLDS
    assignments = [order[:count] for count in counts]
    readings: tuple[list[Float], list[Float]] = ([], [])
    for fold in range(FOLDS):
        positive, negative = (a == fold for a in assignments)
        rest = classes.without(positive, negative)
        w = probes(rest, shrinkage)
        for held, pooled, out in (
            (positive, classes.positive_pooled, 0),
            (negative, classes.negative_pooled, 1),
        ):
            readings[out].append(np.einsum("ptn,tn->pt", pooled[held] - rest.negative_mean, w))
        progress()
    up, down = (np.concatenate(r) for r in readings)
    return np.array([separation(up[:, t], down[:, t]) for t in range(1, up.shape[1])], dtype=np.float32)


def alpha_statistics(classes: Classes, neutral: Activations, w: Float, separations: Array) -> Statistics:
    """Return mean and spread of alpha over the tokens of each class and of neutral text, at every block's output."""

    def readings(activations: Activations) -> tuple[Array, Array]:
        alpha = np.einsum("ktn,tn->kt", activations.tokens - classes.negative_mean, w)[:, 1:]
        return alpha.mean(axis=0).astype(np.float32), alpha.std(axis=0).astype(np.float32)

    return Statistics(*readings(classes.positive), *readings(classes.negative), *readings(neutral), separations)


def make_sensor(
    classes: Classes,
    neutral: Activations,
    neutral_prompts: Activations,
    w: Float,
    block: int,
) -> Sensor:
    """Return the sensor at one block's output, with its neutral readings, for a controller that steers nothing yet.

    Its loop is the plainest: one class distance is the target, and the mean is the last reading.
    """
    boundary = block + 1
    probe = w[boundary]
    offset = float(classes.negative_mean[boundary] @ probe)
    alpha = neutral.tokens[:, boundary] @ probe - offset
    step = (
        neutral.position
        - np.minimum.reduceat(neutral.position, np.flatnonzero(np.diff(neutral.text, prepend=-1)))[neutral.text]
    )
    settled = alpha[step >= POSITIONS - 1] if np.any(step >= POSITIONS - 1) else alpha
    by_position = [alpha[step == k] if np.any(step == k) else settled for k in range(POSITIONS - 1)]
    prompt_alpha = neutral_prompts.tokens[:, boundary] @ probe - offset
    return Sensor(
        block=block,
        probe=probe.astype(np.float32),
        offset=offset,
        target=CLASS_DISTANCE,
        memory_tokens=1.0,
        push=np.zeros(0, dtype=np.float32),
        prompt_mean=float(prompt_alpha.mean() if len(prompt_alpha) else settled.mean()),
        position_mean=np.array([readings.mean() for readings in (*by_position, settled)], dtype=np.float32),
    )


def predicted_push(controller: Controller, jacobians: Array) -> Float:
    """Return the push of each steered block at the sensor that the linear model predicts: (m,).

    One unit of control at block i adds gain_i there, and w' A_s ... A_{i+1} gain_i at the output of sensor block s; for
    `pid`, coupling_ji gain_i at each block j from there on. What `rotate` adds along its second axis is left out.
    """
    sensor = controller.sensor
    assert sensor is not None
    row = sensor.probe.astype(np.float64)
    sensitivity = {}
    for block in range(sensor.block, 0, -1):
        row = row @ jacobians[block]  # the sensor's reading as a function of the output of block - 1
        sensitivity[block - 1] = row
    blocks, gain, coupling = controller.blocks, controller.gain, controller.coupling
    return np.array(
        [
            sum(coupling[j, i] * (sensitivity[b] @ gain[i]) for j, b in enumerate(blocks[i:], i) if b in sensitivity)
            for i in range(len(blocks))
        ],
        dtype=np.float64,
    )


@dataclass(frozen=True)
class NeutralText:
    """A neutral text with its unsteered run, to compare steered runs with."""

    tokens: torch.Tensor
    steered_rows: torch.Tensor
    """(length,) bool: the completion and the row before it, as when the text is generated."""
    completion: slice
    plain: SteeredRun

    def steer(self, model: LoadedModel, controller: Controller, command: Command) -> SteeredRun:
        return run_steered(model, controller, command, self.tokens, self.steered_rows)


def neutral_texts(
    model: LoadedModel, controller: Controller, texts: Sequence[TokenizedText], progress: Callable[[], None]
) -> list[NeutralText]:
    """Run some texts without steering and return them as the baseline of the calibration."""
    baseline = []
    for text in texts:
        rows = torch.arange(len(text.tokens)) >= text.completion_start - 1
        plain = run_steered(model, controller, controller.command(0.0), text.tokens, torch.zeros_like(rows))
        baseline.append(NeutralText(text.tokens, rows, slice(text.completion_start, None), plain))
        progress()
    return baseline


def signs(controller: Controller) -> tuple[float, ...]:
    """Return the strengths of 1 on the sides that a controller steers to."""
    return (1.0, -1.0) if controller.safe_range[0] < 0 else (1.0,)


def calibrate_push(
    model: LoadedModel,
    controller: Controller,
    jacobians: Array,
    texts: Sequence[NeutralText],
    progress: Callable[[], None],
) -> Controller:
    """Return the controller with its sensor's push: the linear prediction times a factor fitted on neutral text.

    The factor (least squares through the origin) brings in what the one-token prediction leaves out: the pushes of the
    tokens before, which reach the sensor through keys and values.
    """
    assert controller.sensor is not None
    prediction = predicted_push(controller, jacobians)
    predicted, measured = [], []
    for strength in signs(controller):
        for text in texts:
            steered = text.steer(model, controller, controller.command(strength))
            predicted.append(prediction @ steered.control[:, text.completion].numpy())
            measured.append((steered.sensor - text.plain.sensor)[text.completion].numpy())
            progress()
    x, y = np.concatenate(predicted), np.concatenate(measured)
    factor = float(x @ y / (x @ x)) if np.any(x) else 0.0
    push = (factor * prediction).astype(np.float32)
    return replace(controller, sensor=replace(controller.sensor, push=push))


def divergence(
    model: LoadedModel,
    controller: Controller,
    texts: Sequence[NeutralText],
    command: Command,
    progress: Callable[[], None] = lambda: None,
) -> float:
    """Return KL(unsteered || steered) of the next-token distribution on neutral text, in nats per token."""
    total, count = 0.0, 0
    for text in texts:
        runs = (text.plain, text.steer(model, controller, command))
        p, q = (torch.log_softmax(run.logits[text.completion], dim=-1) for run in runs)
        total += float((p.exp() * (p - q)).sum())
        count += len(p)
        progress()
    return total / count


def divergence_curve(
    model: LoadedModel,
    controller: Controller,
    texts: Sequence[NeutralText],
    commands: Sequence[Command],
    most: float,
    progress: Callable[[], None],
) -> Float:
    """Return the divergence at ever stronger commands, made monotone, up to the first that reaches `most` nats."""
    curve: list[float] = []
    for number, command in enumerate(commands):
        curve.append(max([divergence(model, controller, texts, command, progress), *curve]))
        if curve[-1] >= most:
            for _ in range(len(texts) * (len(commands) - number - 1)):
                progress()
            break
    return np.array(curve)


def level_at(curve: Float, levels: Sequence[float], nats: float) -> float:
    """Return the absolute level at which a divergence curve reaches some nats.

    Interpolated in the logarithms of both, since divergence grows like a power of the level; the ends of the curve,
    which may stop before the levels do, bound the answer.
    """
    tiny = np.finfo(float).tiny
    return float(np.exp(np.interp(np.log(nats), np.log(np.maximum(curve, tiny)), np.log(np.abs(levels[: len(curve)])))))
