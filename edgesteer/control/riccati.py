"""Finite-horizon LQR over transformer blocks: the block index plays the part of time.

Pure array functions; this file knows nothing about models, prompts or files.
Source: Skifstad, Yang, Chou, "Local Linearity of LLMs Enables Activation Steering via Model-Based Linear Optimal
Control", arXiv 2604.19018 (A-LQR); costs are multiples of the identity as there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.floating[Any]]


class RiccatiSolution(NamedTuple):
    """Solution of the backward recursion over T blocks of width n."""

    cost_to_go: Matrix
    """(T+1, n, n), S_t: the cost of a deviation x at boundary t is x' S_t x when the rest is controlled optimally."""
    gains: Matrix
    """(T, n, n), K_t: the optimal input at block t's output is u_t = -K_t x_t."""


def solve_riccati(
    jacobians: Matrix,
    *,
    state_cost: float,
    input_cost: float,
    terminal_cost: float,
    actuated: Sequence[bool] | None = None,
    progress: Callable[[], None] = lambda: None,
) -> RiccatiSolution:
    """Return the gains that steer x[t+1] = A[t] x[t] + u[t] to the origin at least cost.

    Minimises  sum_{t<T} (q |x_t|^2 + r |u_t|^2) + q_f |x_T|^2  by the backward recursion from S_T = q_f I

        K_t = (S_{t+1} + r I)^-1 S_{t+1} A_t,      S_t = q I + A_t' S_{t+1} (A_t - K_t).

    A block without an actuator has B = 0, hence K_t = 0 and S_t = q I + A_t' S_{t+1} A_t.

    jacobians: (T, n, n), A_t = d x_{t+1} / d x_t; its dtype is the dtype of the computation.
    state_cost, input_cost, terminal_cost: q, r, q_f. actuated: (T,) which blocks can be steered; all when None.
    Raises ValueError on a wrong shape, r <= 0, or a negative cost.
    """
    if jacobians.ndim != 3 or jacobians.shape[1] != jacobians.shape[2]:
        raise ValueError(f"incompatible dimensions of jacobians; expected (T, n, n) but found {jacobians.shape}")
    check_costs(state_cost, input_cost, terminal_cost)
    n_blocks, width, _ = jacobians.shape
    identity = np.eye(width, dtype=jacobians.dtype)
    cost_to_go = np.empty((n_blocks + 1, width, width), dtype=jacobians.dtype)
    gains = np.zeros_like(jacobians)
    cost_to_go[n_blocks] = terminal_cost * identity
    for t in reversed(range(n_blocks)):
        successor, a = cost_to_go[t + 1], jacobians[t]
        if actuated is None or actuated[t]:
            gains[t] = np.linalg.solve(successor + input_cost * identity, successor @ a)
        s = state_cost * identity + a.T @ successor @ (a - gains[t])
        cost_to_go[t] = (s + s.T) / 2  # rounding must not make it lose its symmetry over many blocks
        progress()
    return RiccatiSolution(cost_to_go, gains)


def check_costs(state_cost: float, input_cost: float, terminal_cost: float) -> None:
    """Raise ValueError unless the quadratic problem has a minimum."""
    if input_cost <= 0 or state_cost < 0 or terminal_cost < 0:
        raise ValueError(
            "input_cost must be positive and the other costs not negative; "
            f"found {input_cost}, {state_cost}, {terminal_cost}"
        )


def regulator_direction(cost_to_go: Matrix, direction: Matrix, *, input_cost: float) -> Matrix:
    """Return (S + r I)^-1 S E: the input that best removes a deviation of -E measured at the boundary it is added to.

    Minimising (x + u)' S (x + u) + r |u|^2 over u gives u = -(S + r I)^-1 S x; here x = -E.

    cost_to_go: (n, n), S at that boundary. direction: (n,), E. Returns (n,).
    """
    identity = np.eye(len(direction), dtype=cost_to_go.dtype)
    solution: Matrix = np.linalg.solve(cost_to_go + input_cost * identity, cost_to_go @ direction)
    return solution
