"""LQR that penalizes the concept alone: Q_t = q w_t w_t', so that the cost-to-go has low rank and no A_t is needed.

Pure array functions; this file knows nothing about models, prompts or files. What is needed of the blocks are the
derivatives a_s[t]' = w_s' A_{s-1} ... A_t of each boundary's reading by the stream at each boundary: vector-Jacobian
products, whatever the costs. With W_t the matrix of the columns a_t[t], ..., a_T[t], every S_t = U_t U_t' has factors
U_t = W_t C_t, because S - S (S + r I)^-1 S = U (I + U'U / r)^-1 U' and A_t' W_{t+1} is all of W_t but its first column.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.laws import unit
from edgesteer.control.options import ControllerOptions
from edgesteer.control.riccati import check_costs
from edgesteer.progress import Progress

Float = NDArray[np.float64]


def solve_feature_cost(
    sensitivity: Float,
    *,
    state_cost: float,
    input_cost: float,
    terminal_cost: float,
    actuated: Sequence[bool] | None = None,
) -> list[Float]:
    """Return factors C_t of the cost-to-go at every boundary, S_t = W_t C_t (W_t C_t)', W_t = sensitivity[t:, t]'.

    The recursion of solve_riccati with q w_t w_t' in place of q I and q_f w_T w_T' in place of q_f I. Exact.

    sensitivity: (T+1, T+1, n), [s, t], the derivative of the reading at boundary s by the stream at boundary t.
    state_cost, input_cost, terminal_cost: q, r, q_f. actuated: (T,) which blocks can be steered; all when None.
    Returns T+1 of (T+1-t, T+1-t). Raises ValueError on r <= 0 or a negative cost.
    """
    check_costs(state_cost, input_cost, terminal_cost)
    n_blocks = len(sensitivity) - 1
    factors = [np.full((1, 1), np.sqrt(terminal_cost))]
    for t in reversed(range(n_blocks)):
        inner = factors[0]
        if actuated is None or actuated[t]:
            u = inner.T @ sensitivity[t + 1 :, t + 1]  # U' of the boundary after
            root = np.linalg.cholesky(np.eye(len(u)) + u @ u.T / input_cost)
            inner = np.linalg.solve(root, inner.T).T  # U (I + U'U / r)^-1 U' = (U root'^-1)(U root'^-1)'
        outer = np.zeros((len(inner) + 1, len(inner) + 1))
        outer[0, 0] = np.sqrt(state_cost)
        outer[1:, 1:] = inner
        factors.insert(0, outer)
    return factors


@dataclass(frozen=True)
class FeatureModel:
    """A LinearModel that knows the blocks by what they do to the readings of the whitened probes."""

    readings: Float
    """(T+1, T+1, n), as solve_feature_cost takes them; [s, s] is the probe of boundary s."""

    def regulator_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        gains = []
        for block, factor in self._solved(blocks, options, progress):
            u = factor.T @ self.readings[block + 1 :, block + 1]
            gains.append(u.T @ _regulated(u, u @ direction[block + 1], options.input_cost))
        return np.stack(gains)

    def published_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        gains = []
        for block, factor in self._solved(blocks, options, progress):
            u = factor.T @ self.readings[block + 1 :, block + 1]
            arriving = factor.T @ self.readings[block + 1 :, block] @ unit(direction[[block]])[0]  # U' A_t v
            gains.append(u.T @ _regulated(u, arriving, options.input_cost))
        return np.stack(gains)

    def sensitivity(self, probe: Float, block: int) -> Float:
        """Raises ValueError when the probe is not the one of that block's output."""
        if not np.allclose(probe, self.readings[block + 1, block + 1], rtol=1e-4, atol=1e-9):
            raise ValueError("the readings of another probe are not known")
        return self.readings[block + 1, 1 : block + 1]

    def _solved(
        self, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> list[tuple[int, Float]]:
        """Return each steered block with the factor of the cost-to-go at its output."""
        n_blocks = len(self.readings) - 1
        advance = progress.stage("Riccati recursion", 1)
        factors = solve_feature_cost(
            self.readings,
            state_cost=options.state_cost,
            input_cost=options.input_cost,
            terminal_cost=options.terminal_cost,
            actuated=[block in blocks for block in range(n_blocks)],
        )
        advance()
        return [(block, factors[block + 1]) for block in blocks]


def _regulated(u: Float, reading: Float, input_cost: float) -> Float:
    """Return z with U z = (S + r I)^-1 U reading for S = U U', which is (U'U + r I)^-1 reading; u: U'."""
    solution = np.linalg.solve(u @ u.T + input_cost * np.eye(len(u)), reading)
    return solution.astype(np.float64, copy=False)
