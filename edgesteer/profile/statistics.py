"""Summaries of samples, and ratios with bootstrap intervals. Knows nothing of what was measured.

Ratios are of medians: on a machine that does other things too, a few repeats are always much too slow. The interval of
a median keeps its level with few samples as well, where that of a mean is too narrow.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap  # type: ignore[import-untyped]

CONFIDENCE = 0.95
RESAMPLES = 9999
DRIFT = 0.03
"""A change during a run that is smaller than this is not worth a word."""
FEWEST = 12
"""Samples from which on thirds are compared; thirds of 3 can tell nothing."""


@dataclass(frozen=True)
class Summary:
    """Of n samples; std is None for one sample."""

    n: int
    mean: float
    median: float
    p95: float
    p99: float
    std: float | None


def summarize(samples: Sequence[float]) -> Summary:
    """Return the summary of at least one sample; percentiles are interpolated linearly."""
    values = np.asarray(samples, dtype=np.float64)
    median, p95, p99 = np.percentile(values, (50, 95, 99)).tolist()
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    return Summary(len(values), float(values.mean()), median, p95, p99, std)


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and its interval, without limits where there are too few samples for one."""

    value: float
    low: float
    high: float

    @property
    def differs(self) -> bool:
        """Whether the interval leaves out 1."""
        return not self.low <= 1 <= self.high


def paired_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, confidence: float = CONFIDENCE, seed: int = 0
) -> Ratio:
    """Return the median of the ratios of samples that were taken in pairs, one after the other."""
    ratios = np.divide(numerator, denominator)
    possible = 2 * 0.5 ** len(ratios) <= 1 - confidence  # the median may lie outside all of them
    return _ratio((ratios,), np.median, confidence if possible else None, seed)


def unpaired_ratio(
    numerator: Sequence[float], denominator: Sequence[float], *, confidence: float = CONFIDENCE, seed: int = 0
) -> Ratio:
    """Return the ratio of the medians of two independent sets of samples."""
    data = (np.asarray(numerator, dtype=np.float64), np.asarray(denominator, dtype=np.float64))
    possible = can_tell(len(numerator), len(denominator), confidence)
    return _ratio(data, ratio_of_medians, confidence if possible else None, seed)


def ratio_of_medians(numerator: NDArray[np.float64], denominator: NDArray[np.float64], axis: int = -1) -> Any:
    return np.median(numerator, axis=axis) / np.median(denominator, axis=axis)


def _ratio(
    data: tuple[NDArray[np.float64], ...], statistic: Callable[..., Any], confidence: float | None, seed: int
) -> Ratio:
    value = float(statistic(*data))
    if confidence is None:
        return Ratio(value, -math.inf, math.inf)
    found = bootstrap(
        data,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=confidence,
        method="percentile",
        vectorized=True,
        random_state=np.random.default_rng(seed),
    ).confidence_interval
    return Ratio(value, float(found.low), float(found.high))


def can_tell(n: int, m: int, confidence: float) -> bool:
    """Whether n and m samples can tell a difference at all at this confidence.

    Even if every sample of one set were above all of the other, equal sets would do that by chance in 2 out of
    (n + m over n) cases.
    """
    return 2 / math.comb(n + m, n) <= 1 - confidence


@dataclass(frozen=True)
class Drift:
    """The last third of the samples over the first third."""

    ratio: Ratio

    @property
    def flagged(self) -> bool:
        return self.ratio.differs and abs(math.log(self.ratio.value)) > DRIFT


def drift(samples: Sequence[float]) -> Drift | None:
    """Compare the last third of samples, in the order in which they were taken, with the first; None if too few."""
    third = len(samples) // 3
    if len(samples) < FEWEST:
        return None
    return Drift(unpaired_ratio(samples[-third:], samples[:third]))
