"""What texts of two poles say of a concept: class means, whitened probes, how well the classes separate, the sensor.

Array functions of activations; boundaries are read one at a time. Knows no models and no tokenizers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.activations import Activations, Mask
from edgesteer.control.covariance import shrunk_probe
from edgesteer.control.observer import separation
from edgesteer.controller import Array, Sensor, Statistics

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

    def deviations(self, boundary: int) -> Array:
        """Return all tokens at one boundary, each less its class mean: (N, n)."""
        return np.concatenate(
            [
                a.at(boundary) - pooled[:, boundary].mean(axis=0)
                for a, pooled in (
                    (self.positive, self.positive_pooled),
                    (self.negative, self.negative_pooled),
                )
            ]
        )

    def without(self, positive: Mask, negative: Mask) -> Classes:
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
        rows.append(shrunk_probe(classes.deviations(boundary), direction[boundary], shrinkage))
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
    zero = classes.negative_mean

    def readings(activations: Activations) -> tuple[Array, Array]:
        alpha = np.stack([(activations.at(t) - zero[t]) @ w[t] for t in range(1, len(w))])
        return alpha.mean(axis=1).astype(np.float32), alpha.std(axis=1).astype(np.float32)

    return Statistics(*readings(classes.positive), *readings(classes.negative), *readings(neutral), separations)


def sensor_block(separations: Array) -> int:
    """Return the block whose output tells the classes apart best. Not the last one: there llama.cpp computes only the
    rows that a token is sampled from, so that nothing can be read over a prompt.
    """
    return int(np.argmax(separations[:-1] if len(separations) > 1 else separations))


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
    alpha = neutral.at(boundary) @ probe - offset
    step = (
        neutral.position
        - np.minimum.reduceat(neutral.position, np.flatnonzero(np.diff(neutral.text, prepend=-1)))[neutral.text]
    )
    settled = alpha[step >= POSITIONS - 1] if np.any(step >= POSITIONS - 1) else alpha
    by_position = [alpha[step == k] if np.any(step == k) else settled for k in range(POSITIONS - 1)]
    prompt_alpha = neutral_prompts.at(boundary) @ probe - offset
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
