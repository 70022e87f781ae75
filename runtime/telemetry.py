"""Telemetry: what the closed loop measured while it generated one text, kept per token and summed up per block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from edgesteer.controller import Array, Command, Controller


@dataclass(frozen=True)
class SteeringReport:
    """The telemetry of one controller over one text; lists over tokens have one entry a decoded token.

    alpha: the sensor's reading (the mean over the steered blocks without a sensor); running_mean: the outer loop's mean
    of the intrinsic alpha; effort: the outer loop's factor. Per steered block, averaged over tokens: setpoint,
    alpha_before and alpha_after (around the control), push (|u|, in units of the residual stream).
    error_before, error_after: root mean square of setpoint - alpha over tokens and blocks where control acted.
    """

    controller: str
    strength: float
    blocks: list[int]
    alpha: list[float]
    running_mean: list[float]
    effort: list[float]
    setpoint: list[float]
    alpha_before: list[float]
    alpha_after: list[float]
    push: list[float]
    error_before: float
    error_after: float


class Trace:
    """Collects one controller's telemetry token by token.

    sites: the numbers of the controller's sites in the hook: one for each steered block, then the sensor's if it has one.
    """

    def __init__(self, controller: Controller, command: Command, sites: Sequence[int]) -> None:
        m = len(controller.blocks)
        self._controller = controller
        self._actuators = np.array(sites[:m])
        self.sensor_site = sites[m] if len(sites) > m else None
        self._setpoint = controller.rest + np.float32(command.level) * controller.span
        self._before: list[Array] = []
        self._after: list[Array] = []
        self._control: list[Array] = []
        self._alpha: list[float] = []
        self._effort: list[float] = []
        self._mean: list[float] = []

    def take(self, before: Array, after: Array, control: Array) -> tuple[float, Array]:
        """Take in one decoded token: (n_sites,) each. Return the sensor's reading and the controls (m,)."""
        self._before.append(before[self._actuators])
        self._after.append(after[self._actuators])
        self._control.append(np.nan_to_num(control[self._actuators]))
        readings = self._before[-1] if self.sensor_site is None else before[self.sensor_site]
        self._alpha.append(float(np.mean(readings)))
        return self._alpha[-1], self._control[-1]

    def note(self, effort: float, running_mean: float) -> None:
        """Add the outer loop's state for the token just taken in."""
        self._effort.append(effort)
        self._mean.append(running_mean)

    def report(self, strength: float) -> SteeringReport:
        m = len(self._controller.blocks)
        before, after, control = (
            np.array(rows, dtype=np.float32).reshape(-1, m) for rows in (self._before, self._after, self._control)
        )
        acted = control != 0
        norms = np.linalg.norm(self._controller.gain, axis=1)
        return SteeringReport(
            controller=self._controller.name,
            strength=strength,
            blocks=list(self._controller.blocks),
            alpha=self._alpha,
            running_mean=self._mean,
            effort=self._effort,
            setpoint=self._setpoint.tolist(),
            alpha_before=_mean(before),
            alpha_after=_mean(after),
            push=_mean(np.abs(control) * norms),
            error_before=_root_mean_square((self._setpoint - before)[acted]),
            error_after=_root_mean_square((self._setpoint - after)[acted]),
        )


def _mean(rows: Array) -> list[float]:
    return [float(v) for v in rows.mean(axis=0)] if len(rows) else []


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt(np.mean(values**2))) if values.size else 0.0
