"""LinearModel: how the blocks move a small deviation of the residual stream, x[t+1] = A[t] x[t] + u[t].

What the laws and the calibration ask of it, and the plain form that keeps every A_t. Knows no models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.laws import unit
from edgesteer.control.options import ControllerOptions
from edgesteer.control.riccati import RiccatiSolution, regulator_direction, solve_riccati
from edgesteer.controller import Array, Controller
from edgesteer.progress import Progress

Float = NDArray[np.float64]


class LinearModel(Protocol):
    """T blocks of width n. The costs are those of the options; only `blocks`, m of them, have an actuator."""

    def regulator_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        """Return (S + R)^-1 S E at the output of each steered block: (m, n). direction: (T+1, n), E."""
        ...

    def published_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        """Return K_t E_t / |E_t| of each steered block, from its input: (m, n). direction: (T+1, n), E."""
        ...

    def sensitivity(self, probe: Float, block: int) -> Float:
        """Return the derivative of probe . (output of a block) by the output of each block before it: (block, n)."""
        ...


@dataclass(frozen=True)
class DenseModel:
    """Every A_t as a matrix."""

    jacobians: Array
    """(T, n, n)"""

    def regulator_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        cost_to_go = riccati_of(self.jacobians, blocks, options, progress).cost_to_go
        return np.stack(
            [regulator_direction(cost_to_go[b + 1], direction[b + 1], input_cost=options.input_cost) for b in blocks]
        )

    def published_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        gains = riccati_of(self.jacobians, blocks, options, progress).gains
        inputs = list(blocks)
        published: Float = np.einsum("mij,mj->mi", gains[inputs], unit(direction[inputs]))
        return published

    def sensitivity(self, probe: Float, block: int) -> Float:
        rows = np.empty((block, len(probe)))
        row = probe
        for later in range(block, 0, -1):
            row = rows[later - 1] = row @ self.jacobians[later]
        return rows


def riccati_of(
    jacobians: Array, blocks: Sequence[int], options: ControllerOptions, progress: Progress
) -> RiccatiSolution:
    """Solve the Riccati recursion with the costs of the options. jacobians: (T, n, n)."""
    n_blocks = len(jacobians)
    return solve_riccati(
        jacobians.astype(np.float64),
        state_cost=options.state_cost,
        input_cost=options.input_cost,
        terminal_cost=options.terminal_cost,
        actuated=[b in blocks for b in range(n_blocks)],
        progress=progress.stage("Riccati recursion", n_blocks),
    )


def predicted_push(controller: Controller, model: LinearModel) -> Float:
    """Return the push of each steered block at the sensor that the linear model predicts: (m,).

    One unit of control at block i adds gain_i there, and w' A_s ... A_{i+1} gain_i at the output of sensor block s; for
    `pid`, coupling_ji gain_i at each block j from there on. What `rotate` adds along its second axis is left out.
    """
    sensor = controller.sensor
    assert sensor is not None
    sensitivity = model.sensitivity(sensor.probe.astype(np.float64), sensor.block)
    blocks, gain, coupling = controller.blocks, controller.gain, controller.coupling
    return np.array(
        [
            sum(coupling[j, i] * (sensitivity[b] @ gain[i]) for j, b in enumerate(blocks[i:], i) if b < sensor.block)
            for i in range(len(blocks))
        ],
        dtype=np.float64,
    )
