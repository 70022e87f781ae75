"""FactoredModel: the LinearModel whose blocks are low-rank factors, as dynamics sidecars hold them. Knows no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.factored import CostToGo, regulator_direction, solve_factored
from edgesteer.control.laws import unit
from edgesteer.control.low_rank import LowRankBlock
from edgesteer.control.options import ControllerOptions
from edgesteer.progress import Progress

Float = NDArray[np.float64]
TOLERANCE = 1e-3
"""Eigenvalues of the cost-to-go below this share of the scalar are left out: far less than the factors leave out."""


@dataclass(frozen=True)
class FactoredModel:
    """Every A_t in low-rank factors; see edgesteer/control/linear_model.py for what the methods return."""

    blocks: Sequence[LowRankBlock]
    tolerance: float = TOLERANCE

    def regulator_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        costs = self.costs_to_go(blocks, options, progress)
        return np.stack(
            [regulator_direction(costs[b + 1], direction[b + 1], input_cost=options.input_cost) for b in blocks]
        )

    def published_gains(
        self, direction: Float, blocks: Sequence[int], options: ControllerOptions, progress: Progress
    ) -> Float:
        costs = self.costs_to_go(blocks, options, progress)
        moved = [self.blocks[b] @ v for b, v in zip(blocks, unit(direction[list(blocks)]), strict=True)]
        return np.stack(
            [regulator_direction(costs[b + 1], v, input_cost=options.input_cost)
             for b, v in zip(blocks, moved, strict=True)]
        )  # fmt: skip

    def sensitivity(self, probe: Float, block: int) -> Float:
        rows = np.empty((block + 1, len(probe)))
        rows[block] = probe
        for later in range(block, 0, -1):
            rows[later - 1] = rows[later] @ self.blocks[later]
        return rows[:block]

    def costs_to_go(self, blocks: Sequence[int], options: ControllerOptions, progress: Progress) -> list[CostToGo]:
        """Solve the Riccati recursion with the costs of the options, in factors: T+1 boundaries."""
        return solve_factored(
            self.blocks,
            state_cost=options.state_cost,
            input_cost=options.input_cost,
            terminal_cost=options.terminal_cost,
            actuated=[b in blocks for b in range(len(self.blocks))],
            tolerance=self.tolerance,
            progress=progress.stage("Riccati recursion", len(self.blocks)),
        )
