"""Meter: generates texts under some arms, and says what they cost and how much effect they have.

Every measurement has seeds of its own, the same for all of its arms. Knows nothing of what is tuned.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls  # type: ignore[import-untyped]

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.arm import Arm
from edgesteer.evaluate.experiment import PARALLEL, run_experiment
from edgesteer.evaluate.frontier import Curve, make_curves
from edgesteer.evaluate.judges import Judge
from edgesteer.evaluate.paired import outcome
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.suite import Suite
from edgesteer.runtime.model import LlamaModel

FEWEST_TO_SHRINK = 4
"""Arms from which on the spread of their costs says something."""


@dataclass(frozen=True)
class Meter:
    """judge: measures the effect, by its mean score. on_text: called after each text."""

    model: LlamaModel
    suite: Suite
    judge: Judge
    seed: int = 0
    parallel: int = PARALLEL
    threads: int | None = None
    on_text: Callable[[], None] = lambda: None

    def grid(self, texts: int) -> tuple[int, int]:
        """Return numbers of prompts and of samples that make about so many texts; prompts come first."""
        samples = max(1, round(texts / len(self.suite.prompts)))
        return max(1, min(len(self.suite.prompts), round(texts / samples))), samples

    def n_texts(self, texts: int, n_columns: int) -> int:
        """Return how many texts a measurement makes: of each column, one of which is unsteered."""
        return math.prod(self.grid(texts)) * (n_columns + 1)

    def measure(self, arms: Sequence[Arm], texts: int, stage: int) -> list[Record]:
        """Generate about so many texts of each arm and strength. stage: no two may share their seeds."""
        n_prompts, samples = self.grid(texts)
        return run_experiment(
            self.model,
            self.suite.limited(n_prompts),
            arms,
            [self.judge],
            samples=samples,
            seed=1000 * self.seed + stage,
            parallel=self.parallel,
            threads=self.threads,
            on_text=self.on_text,
        )

    def curves(self, records: Sequence[Record]) -> dict[str, Curve]:
        """Return the curve of each arm over the prompts that all of them answered with a text; effects are changes.

        Raises EdgeSteerError when there is no such prompt.
        """
        _, found = make_curves(records, outcome(self.judge.name))
        if not all(len(curve.effects) for curve in found.values()):
            raise EdgeSteerError(
                "too many texts are empty", where=self.suite.name, remedy="Give a suite whose prompts get answers."
            )
        return {name: replace(each, effects=each.effects - unsteered_effects(each)) for name, each in found.items()}


def unsteered_effects(curve: Curve) -> NDArray[np.float64]:
    """Return the column at strength 0: (prompts, 1)."""
    return curve.effects[:, curve.strengths == 0]


@dataclass(frozen=True)
class Point:
    """What a strength cost on average over so many prompts, in added nats per token."""

    strength: float
    cost: float
    weight: float


def points_of(curve: Curve, unit: float = 1.0) -> list[Point]:
    """Return the points of a curve but that at 0, with strengths in another unit of the dial."""
    pairs = zip(curve.strengths * unit, curve.mean_costs, strict=True)
    return [Point(float(s), float(c), float(len(curve.costs))) for s, c in pairs if s]


def strength_at(points: Sequence[Point], budget: float) -> float:
    """Return the strength that costs the budget, by least squares of cost = a |s| + b s^2 with a, b >= 0; inf: none.

    Cost rises with the strength, and ever faster; what noise says against that is smoothed out.
    """
    strengths = np.array([abs(point.strength) for point in points])
    weights = np.sqrt([point.weight for point in points])
    shape = np.stack([strengths, strengths**2], axis=1)
    (a, b), _ = nnls(shape * weights[:, None], np.array([point.cost for point in points]) * weights)
    sum_of_terms = a + math.sqrt(a * a + 4 * b * budget)  # the root in the form that stays exact for small b
    return float(2 * budget / sum_of_terms) if sum_of_terms else math.inf


def shrunk(curves: Mapping[str, Curve]) -> dict[str, Curve]:
    """Return the curves with mean costs drawn towards each other as far as noise may explain how they differ.

    At each strength by empirical Bayes (Efron and Morris 1975): a few texts tell cheap candidates from dear ones badly,
    and who is cheap by chance must not win by it.
    """
    if len(curves) < FEWEST_TO_SHRINK or any(len(curve.costs) < 2 for curve in curves.values()):
        return dict(curves)
    means = np.array([curve.mean_costs for curve in curves.values()])
    noise = np.array([curve.costs.var(axis=0, ddof=1) / len(curve.costs) for curve in curves.values()])
    spread = np.maximum(0, means.var(axis=0, ddof=1) - noise.mean(axis=0))
    total = spread + noise
    trust = np.divide(spread, total, out=np.ones_like(total), where=total > 0)
    shifts = (1 - trust) * (means.mean(axis=0) - means)
    pairs = zip(curves.items(), shifts, strict=True)
    return {name: replace(curve, costs=curve.costs + shift) for (name, curve), shift in pairs}
