"""Telemetry: what the closed loop measured while it generated one text, kept per token and summed up per block."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesteer.controller import Array, Command, Controller


@dataclass(frozen=True)
class SteeringReport:
    """The telemetry of one controller over one text; lists over tokens have one entry a decoded token.

    alpha: the sensor's reading (the mean over the steered blocks without a sensor); running_mean: the outer loop's mean
    of the intrinsic alpha; effort: the outer loop's factor. Per steered block, averaged over tokens: setpoint,
    alpha_before and alpha_after (around the control), push (|u|, in units of the residual stream).
    error_before, error_after: root mean square of setpoint - alpha over tokens and blocks where control acted.
    `rotate` has no setpoint of alpha: there setpoint is the angle asked, in radians, the errors are 0, and push is the
    part of u along the concept's direction. Nor has `scheduled`: there setpoint and errors are 0, and alpha_before and
    alpha_after are minus the uncertainty that the law measured.
    error_bound: root mean square of the certificate's bounds on the error after control; NaN without a certificate that
    covers strength and mode. checks: per steered block, tokens at which error and bound were compared; violations:
    those at which the error was larger.
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
    error_bound: float
    violations: list[int]
    checks: list[int]


@dataclass(frozen=True)
class Reading:
    """What one controller's loop measured at one decoded token.

    alpha, setpoint: at the sensor, where the setpoint is what neutral text reads at that position plus what is asked;
    without a sensor, means over the steered blocks. push: |u| per steered block, in units of the residual stream.
    """

    alpha: float
    setpoint: float
    running_mean: float
    effort: float
    push: list[float]


class Trace:
    """Collects one controller's telemetry token by token. Keeps sums over the tokens, not what each block did at each.
    """

    def __init__(self, controller: Controller, command: Command) -> None:
        m = len(controller.blocks)
        self._controller, self._command = controller, command
        gain = controller.gain.astype(np.float64)
        self._norms = np.linalg.norm(gain, axis=1)
        self._products = None if controller.pid is None else gain @ gain.T
        self._setpoint = controller.rest + np.float32(command.level) * controller.span
        self._before, self._after, self._push = (np.zeros(m) for _ in range(3))
        self._violations, self._checks = (np.zeros(m, dtype=np.int64) for _ in range(2))
        self._error = np.zeros(m)
        self._squares_before = self._squares_after = self._squares_bound = 0.0
        self._n_tokens = self._n_acted = 0
        self._alpha: list[float] = []
        self._effort: list[float] = []
        self._mean: list[float] = []

    def take(self, before: Array, after: Array, control: Array) -> tuple[float, Array]:
        """Take in one decoded token: (controller's sites,) each. Return the sensor's reading and the controls (m,)."""
        m = len(self._controller.blocks)
        b, a, u = before[:m], after[:m], control[:m]
        acted = (u != 0) & self._controller.has_setpoint
        self._n_tokens += 1
        self._n_acted += int(np.count_nonzero(acted))
        self._before += b
        self._after += a
        self._push += self._sizes(u)
        self._squares_before += self._squares_of_error(b, acted)
        self._squares_after += self._squares_of_error(a, acted)
        self._error = np.abs(self._setpoint - a)
        self._alpha.append(float(b.mean() if self._controller.sensor is None else before[m]))
        return self._alpha[-1], u

    def note(self, effort: float, running_mean: float, setpoint: float | None, control: Array) -> Reading:
        """Add the outer loop's state for the token just taken in, and return all that was measured at it.

        setpoint: at the sensor; None without one.
        """
        self._check_bound(effort * self._command.effort, control != 0)
        self._effort.append(effort)
        self._mean.append(running_mean)
        asked = float(self._setpoint.mean()) if setpoint is None else setpoint
        return Reading(self._alpha[-1], asked, running_mean, effort, self._sizes(control).tolist())

    def report(self, strength: float) -> SteeringReport:
        return SteeringReport(
            controller=self._controller.name,
            strength=strength,
            blocks=list(self._controller.blocks),
            alpha=self._alpha,
            running_mean=self._mean,
            effort=self._effort,
            setpoint=self._setpoint.tolist(),
            alpha_before=self._per_token(self._before),
            alpha_after=self._per_token(self._after),
            push=self._per_token(self._push),
            error_before=self._root_mean_square(self._squares_before),
            error_after=self._root_mean_square(self._squares_after),
            error_bound=self._root_mean_square(self._squares_bound) if self._checks.any() else math.nan,
            violations=self._violations.tolist(),
            checks=self._checks.tolist(),
        )

    def _sizes(self, control: Array) -> NDArray[np.float64]:
        """Return |u| per steered block, (m,). control: (m,)"""
        sizes: NDArray[np.float64] = np.abs(control) * self._norms
        if self._products is not None:
            written = self._controller.coupling * control  # u_i as a sum of gains
            sizes = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", written, self._products, written), 0.0))
        return sizes

    def _check_bound(self, effort: float, acted: NDArray[np.bool_]) -> None:
        certificate = self._controller.certificate
        if certificate is None or not certificate.covers(self._command):
            return
        bound = certificate.at(self._command.level, effort)
        self._checks += acted
        self._violations += acted & (self._error > bound)
        self._squares_bound += float(bound[acted] @ bound[acted])

    def _squares_of_error(self, alpha: Array, acted: NDArray[np.bool_]) -> float:
        error = (self._setpoint - alpha) * acted
        return float(error @ error)

    def _per_token(self, sums: NDArray[np.float64]) -> list[float]:
        return [float(value) for value in sums / self._n_tokens] if self._n_tokens else []

    def _root_mean_square(self, squares: float) -> float:
        return math.sqrt(squares / self._n_acted) if self._n_acted else 0.0
