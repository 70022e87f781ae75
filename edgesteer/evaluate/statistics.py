"""Rates, means, paired tests and calibration: the statistics of the laboratory, done by scipy and statsmodels.

Arrays and counts in, numbers out; knows no model, no judge and no file. Intervals hold at 95 % unless asked otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats  # type: ignore[import-untyped]
from scipy.optimize import brentq  # type: ignore[import-untyped]
from statsmodels.stats.proportion import proportion_confint  # type: ignore[import-untyped]

from edgesteer.profile.statistics import CONFIDENCE, RESAMPLES

LEVEL = 0.05
"""Of a test: how often it may find damage where there is none."""
POWER = 0.8
"""How often a test should find damage where there is some."""
BINS = 10


@dataclass(frozen=True)
class Interval:
    """An estimate and its confidence interval."""

    value: float
    low: float
    high: float

    def contains(self, value: float) -> bool:
        return self.low <= value <= self.high


# ---- rates and means ----


def wilson(successes: int, n: int, *, confidence: float = CONFIDENCE) -> Interval:
    """Return a rate and its Wilson interval; of no trials, nan in 0..1."""
    if n == 0:
        return Interval(math.nan, 0.0, 1.0)
    low, high = proportion_confint(successes, n, alpha=1 - confidence, method="wilson")
    return Interval(successes / n, float(low), float(high))


def paired_bootstrap(differences: ArrayLike, *, confidence: float = CONFIDENCE, seed: int = 0) -> Interval:
    """Return the mean of paired differences and its BCa bootstrap interval (Efron 1987).

    differences: (n,), one a pair. A single one leaves the interval without limits; equal ones make it a point. With
    fewer than about ten the interval is too narrow, as every bootstrap's is.
    """
    values = np.asarray(differences, dtype=np.float64)
    mean = float(values.mean()) if len(values) else math.nan
    if len(values) < 2:
        return Interval(mean, -math.inf, math.inf)
    if np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Interval(mean, float(found.low), float(found.high))


# ---- did it get worse? ----


@dataclass(frozen=True)
class Discordance:
    """Items that two models, or one model in two states, do not both get right or both get wrong."""

    worse: int
    """Right before, wrong after."""
    better: int
    """Wrong before, right after."""
    n: int
    """All items, also those on which both agree."""

    @property
    def rate(self) -> float:
        return (self.worse + self.better) / self.n if self.n else 0.0

    @property
    def drop(self) -> float:
        """By how much the accuracy fell: a share of the items."""
        return (self.worse - self.better) / self.n if self.n else 0.0

    def __add__(self, other: Discordance) -> Discordance:
        return Discordance(self.worse + other.worse, self.better + other.better, self.n + other.n)


def discordance(before: ArrayLike, after: ArrayLike) -> Discordance:
    """Count from what was right: two arrays of booleans, (items,) each, in the same order."""
    first, second = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    return Discordance(int((first & ~second).sum()), int((~first & second).sum()), len(first))


def mcnemar_one_sided(worse: int, better: int) -> float:
    """Return the p-value of the exact one-sided McNemar test: is "worse" more frequent than "better"?

    Under the null hypothesis a discordant item is one or the other like a coin: p = P(Binomial(worse + better, 1/2) >=
    worse). 1 when no item is discordant.
    """
    if worse + better == 0:
        return 1.0
    return float(stats.binomtest(worse, worse + better, 0.5, alternative="greater").pvalue)


@dataclass(frozen=True)
class Combined:
    """One-sided p-values of several benchmarks together, in three ways. Each alone keeps its level.

    Kübler et al. 2026, "When LLMs get significantly worse": damage that is everywhere a little shows best in `pooled`,
    damage to one benchmark in `worst`, damage to some of them in `fisher`. All are made of exact tests of counts, and
    conservative where the counts are small; the paper also permutes scores of other kinds.
    """

    pooled: float
    """McNemar's test on the sums of the counts."""
    worst: float
    """The smallest p-value after Holm's correction; times the number of benchmarks, that is."""
    fisher: float
    """Fisher's combination of the p-values."""
    corrected: tuple[float, ...]
    """Each benchmark's own p-value after Holm's correction."""


def combine(counts: Sequence[Discordance]) -> Combined:
    """Test at least one benchmark; the items of different benchmarks must be different ones."""
    p_values = [mcnemar_one_sided(each.worse, each.better) for each in counts]
    pooled = sum(counts[1:], start=counts[0])
    corrected = holm(p_values)
    return Combined(
        pooled=mcnemar_one_sided(pooled.worse, pooled.better),
        worst=min(corrected),
        fisher=float(stats.combine_pvalues(p_values, method="fisher").pvalue),
        corrected=tuple(corrected),
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values after Holm's correction, in their order. statsmodels' own collects garbage at every call."""
    order = np.argsort(p_values)
    stepped = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    corrected = np.empty(len(order))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(stepped))
    return [float(each) for each in corrected]


def mcnemar_power(n: int, rate: float, drop: float, *, level: float = LEVEL) -> float:
    """Return how often the exact one-sided McNemar test on n items finds a drop of the accuracy.

    rate: the share of items that are discordant; no less than the drop, of which "worse" takes (1 + drop / rate) / 2.
    """
    discordant = np.arange(n + 1)
    most_by_chance = stats.binom.isf(level, discordant, 0.5)  # the most "worse" that has p > level
    found = stats.binom.sf(most_by_chance, discordant, (1 + drop / rate) / 2)
    return float(stats.binom.pmf(discordant, n, rate) @ found)


@cache
def smallest_drop(n: int, rate: float, *, level: float = LEVEL, power: float = POWER) -> float:
    """Return the smallest drop of the accuracy that n items show at this level with this power: a share of the items.

    rate: the share of discordant items to reckon with; a larger drop than that makes as many as it needs. nan when so
    few items can show none.
    """

    def lacking(drop: float) -> float:
        return mcnemar_power(n, max(rate, drop), drop, level=level) - power

    if n == 0 or lacking(1.0) < 0:
        return math.nan
    return float(brentq(lacking, 1e-9, 1.0, xtol=1e-6))


# ---- calibration and the dial ----


def calibration_error(confidences: ArrayLike, right: ArrayLike, *, bins: int = BINS) -> float:
    """Return the expected calibration error (Guo et al. 2017): the mean gap between confidence and accuracy.

    confidences: (n,) in 0..1, in bins of equal width; right: (n,) booleans. 0 for a model whose confidence is its
    accuracy in every bin; nan for no answers.
    """
    sure, hit = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    if not len(sure):
        return math.nan
    places = np.minimum((sure * bins).astype(int), bins - 1)
    gaps = np.bincount(places, weights=hit - sure, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return the rank correlation of two samples; nan when one of them does not vary."""
    first, second = _pair(x, y)
    if len(first) < 2 or np.ptp(first) == 0 or np.ptp(second) == 0:
        return math.nan
    return float(stats.spearmanr(first, second).statistic)


@dataclass(frozen=True)
class Line:
    """The least-squares line through points, and how far they are from it."""

    slope: float
    intercept: float
    r_squared: float
    """Share of the variance of y that the line explains."""
    largest_deviation: float
    """Of a point from the line, in units of y."""


def fit_line(x: ArrayLike, y: ArrayLike) -> Line:
    """Fit y = slope * x + intercept to at least two points; nan where x does not vary, r_squared 0 where y does not."""
    first, second = _pair(x, y)
    if len(first) < 2 or np.ptp(first) == 0:
        return Line(math.nan, math.nan, math.nan, math.nan)
    found = stats.linregress(first, second)
    slope, intercept = float(found.slope), float(found.intercept)
    r_squared = float(found.rvalue) ** 2 if np.ptp(second) else 0.0
    return Line(slope, intercept, r_squared, float(np.abs(second - slope * first - intercept).max()))


def variance_between(groups: ArrayLike) -> float:
    """Return how much the expected values of groups vary, whatever their members differ by: unbiased, so maybe below 0.

    The variance component of a balanced one-way analysis of variance with random effects, (MSB - MSW) / n.
    groups: (groups, n), at least two of each.
    """
    values = np.asarray(groups, dtype=np.float64)
    return float(values.mean(axis=1).var(ddof=1) - values.var(axis=1, ddof=1).mean() / values.shape[1])


def _pair(x: ArrayLike, y: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    return np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
