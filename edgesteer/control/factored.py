"""The Riccati recursion of edgesteer/control/riccati.py for blocks A = I + L R of low rank: no n x n matrix is formed.

Pure array functions; this file knows nothing about models, prompts or files.
With costs that are multiples of the identity, every cost-to-go is S = s I + U diag(m) U' with U of orthonormal columns,
and one step stays in that form. S (S + r I)^-1 is a function of S and so of its eigenvalues alone, which makes

    P = S - S (S + r I)^-1 S = f(S),  f(x) = r x / (x + r)      (P = S for a block without an actuator)
    S_t = q I + A' P A = (q + f(s)) I + V C V'

where V spans the columns of U, L and R', and C, the matrix of A' P A - f(s) I in that basis, needs small products only.
Its eigenvectors give the next U; those of small eigenvalues may be left out, and nothing else is approximated.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.low_rank import LowRankBlock
from edgesteer.control.riccati import check_costs

Vector = NDArray[np.floating[Any]]
Spectral = Callable[[Any], Any]


class CostToGo(NamedTuple):
    """S = s I + U diag(m) U', at one boundary."""

    scalar: float
    """s"""
    vectors: Vector
    """(n, p), U, with orthonormal columns."""
    values: Vector
    """(p,), m"""

    def apply(self, function: Spectral, x: Vector) -> Vector:
        """Return f(S) x, for f a function of S's eigenvalues. x: (n,) or (n, j)."""
        at_scalar = function(self.scalar)
        weights = function(self.scalar + self.values) - at_scalar
        product: Vector = at_scalar * x + self.vectors @ (weights * (self.vectors.T @ x).T).T
        return product

    @property
    def dense(self) -> Vector:
        return self.apply(lambda eigenvalue: eigenvalue, np.eye(len(self.vectors)))


def solve_factored(
    blocks: Sequence[LowRankBlock],
    *,
    state_cost: float,
    input_cost: float,
    terminal_cost: float,
    actuated: Sequence[bool] | None = None,
    tolerance: float = 0.0,
    rank: int | None = None,
    progress: Callable[[], None] = lambda: None,
) -> list[CostToGo]:
    """Return the cost-to-go at every boundary, T+1 of them: riccati.solve_riccati's, exact unless truncated.

    blocks: T, each A_t. state_cost, input_cost, terminal_cost: q, r, q_f. actuated: (T,) which blocks can be steered;
    all when None. tolerance: eigenvalues m of at most tolerance times s are left out. rank: the most that are kept.
    Raises ValueError without blocks, for r <= 0, or for a negative cost.
    """
    check_costs(state_cost, input_cost, terminal_cost)
    if not blocks:
        raise ValueError("the recursion needs at least one block")
    width = len(blocks[0].left)
    costs = [CostToGo(terminal_cost, np.zeros((width, 0)), np.zeros(0))]
    for t in reversed(range(len(blocks))):
        steered = actuated is None or bool(actuated[t])
        costs.append(_truncated(_predecessor(costs[-1], blocks[t], state_cost, input_cost, steered), tolerance, rank))
        progress()
    return costs[::-1]


def _predecessor(
    successor: CostToGo, block: LowRankBlock, state_cost: float, input_cost: float, steered: bool
) -> CostToGo:
    """Return S_t = q I + A' f(S_{t+1}) A, or with S_{t+1} itself where nothing steers."""
    left, right = block.left.astype(np.float64), block.right.astype(np.float64)

    def remaining(eigenvalue: Any) -> Any:
        return input_cost * eigenvalue / (eigenvalue + input_cost) if steered else eigenvalue

    scalar = remaining(successor.scalar)
    weights = remaining(successor.scalar + successor.values) - scalar
    spanning = np.hstack([successor.vectors, left, right.T])
    basis = np.linalg.qr(spanning)[0] if spanning.shape[1] < len(left) else np.eye(len(left))
    a = np.eye(basis.shape[1]) + (basis.T @ left) @ (right @ basis)
    inner = a.T @ (basis.T @ successor.vectors)
    update = scalar * (a.T @ a - np.eye(len(a))) + (inner * weights) @ inner.T
    values, vectors = np.linalg.eigh((update + update.T) / 2)
    return CostToGo(state_cost + scalar, basis @ vectors, values)


def _truncated(cost: CostToGo, tolerance: float, rank: int | None) -> CostToGo:
    """Leave out what changes the cost least."""
    order = np.argsort(-np.abs(cost.values), kind="stable")[:rank]
    kept = order[np.abs(cost.values[order]) > tolerance * cost.scalar]
    return cost._replace(vectors=cost.vectors[:, kept], values=cost.values[kept])


def regulator_direction(cost_to_go: CostToGo, direction: Vector, *, input_cost: float) -> Vector:
    """Return (S + r I)^-1 S E, as riccati.regulator_direction does. direction: (n,), E."""
    return cost_to_go.apply(lambda eigenvalue: eigenvalue / (eigenvalue + input_cost), direction)


def regulated_direction(cost_to_go: CostToGo, gain: Vector, *, input_cost: float) -> Vector:
    """Return E of a gain g = (S + r I)^-1 S E, the inverse of regulator_direction. gain: (n,). S must be positive."""
    return cost_to_go.apply(lambda eigenvalue: (eigenvalue + input_cost) / eigenvalue, gain)
