"""The outer loop, across tokens: measure how much of the concept the text carries, and let go once it is on target.

Pure arithmetic; this file knows no llama.cpp. The regulated quantity is the intrinsic alpha: what the sensor reads
minus what the controller's own push adds to it (linear in the control, calibrated at export) and minus what neutral
text reads at that position. A text goes on with what it has begun, so that a short push is worth more than a long one:
effort draws on a reserve, which empties within a few tokens and fills again slowly.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from edgesteer.controller import Array, Sensor


class Effort(Protocol):
    """How much of the inner loop's control acts on the next token: a factor from 0 to 1."""

    def effort(self) -> float: ...

    def observe(self, alpha: float, control: Array) -> None: ...


class FullEffort:
    """Open loop across tokens: the inner loop acts on every token alike."""

    def effort(self) -> float:
        return 1.0

    def observe(self, alpha: float, control: Array) -> None:
        """Nothing is fed back."""


class Decay:
    """Open-loop decay, the baseline that feedback has to beat: effort exp(-k / tokens) at the k-th token."""

    def __init__(self, tokens: float) -> None:
        self._rate = 1.0 / tokens
        self._count = 0

    def effort(self) -> float:
        return math.exp(-self._rate * self._count)

    def observe(self, alpha: float, control: Array) -> None:
        self._count += 1


class OuterLoop:
    """Feedback on a running mean m of the intrinsic alpha: effort b * clip(slope * (reference - m) / reference, 0, 1).

    b is the reserve: full, unless start() says otherwise; b += (1 - b) / recovery_tokens - effort / fade_tokens at each
    token. sensor: the calibrated sensor. strength: the dial; reference = strength * sensor.target, so that half the
    strength asks for half the level, and a negative one for the same on the other side. Where it is fixed, it is the
    same at every strength (Sensor.setpoint): what is on target by itself is left alone, however far the dial is turned.
    """

    def __init__(self, sensor: Sensor, strength: float) -> None:
        self._sensor = sensor
        self._reference = sensor.setpoint(strength)
        self._count = 0
        self.reserve = 1.0
        self.mean = 0.0
        self.intrinsic = 0.0

    def start(self, prompt_alpha: Array, continued: bool = False) -> None:
        """Begin from the prompt: its mean alpha above neutral, weighted by min(1, length / memory).

        prompt_alpha: (length,) the sensor's readings over the prompt's own words; readings that are NaN are left out.
        continued: the text goes on with those words, so that the reserve begins no fuller than they need; where it
        answers them, they are another's.
        """
        readings = prompt_alpha[np.isfinite(prompt_alpha)]
        if len(readings):
            weight = min(1.0, len(readings) / self._sensor.memory_tokens)
            self.mean = weight * (float(readings.mean()) - self._sensor.prompt_mean)
            if continued and self._sensor.fade_tokens:
                self.reserve = self._need()

    def effort(self) -> float:
        return self.reserve * self._need()

    def _need(self) -> float:
        """Return the effort that the running mean asks for, from 0 to 1."""
        if self._reference == 0:
            return 0.0
        shortfall = 1.0 - self.mean / self._reference
        return min(1.0, max(0.0, self._sensor.slope * shortfall))

    def observe(self, alpha: float, control: Array) -> None:
        """Take in one generated token. alpha: the sensor's reading; control: (m,) at the steered blocks."""
        self._draw(self.effort())
        neutral = self._sensor.position_mean
        expected = neutral[min(self._count, len(neutral) - 1)]
        self.intrinsic = alpha - float(self._sensor.push @ control) - float(expected)
        self.mean += (self.intrinsic - self.mean) / self._sensor.memory_tokens
        self._count += 1

    def _draw(self, effort: float) -> None:
        sensor = self._sensor
        if sensor.fade_tokens:
            change = (1.0 - self.reserve) / sensor.recovery_tokens - effort / sensor.fade_tokens
            self.reserve = min(1.0, max(0.0, self.reserve + change))
