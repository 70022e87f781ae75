"""Summaries and ratios: cases by hand, and how often intervals are wrong."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from edgesteer.profile.statistics import (
    CONFIDENCE,
    Ratio,
    can_tell,
    drift,
    paired_ratio,
    summarize,
    unpaired_ratio,
)


def test_summary_by_hand() -> None:
    summary = summarize([4.0, 1.0, 2.0, 3.0, 10.0])
    assert (summary.n, summary.mean, summary.median) == (5, 4.0, 3.0)
    assert summary.std == pytest.approx(math.sqrt(50 / 4))  # deviations 0, -3, -2, -1, 6
    assert summary.p95 == pytest.approx(4 + 0.8 * 6)  # place 0.95 * 4 = 3.8 of the sorted samples
    assert summary.p99 == pytest.approx(4 + 0.96 * 6)


def test_one_sample_has_no_standard_deviation() -> None:
    summary = summarize([2.0])
    assert (summary.mean, summary.median, summary.p95, summary.p99, summary.std) == (2, 2, 2, 2, None)


def test_paired_ratio_is_the_median_of_the_ratios() -> None:
    assert paired_ratio([2.0, 3.0, 40.0], [1.0, 2.0, 10.0]).value == 2.0


def test_unpaired_ratio_is_the_ratio_of_the_medians() -> None:
    assert unpaired_ratio([2.0, 3.0, 40.0], [1.0, 2.0, 10.0]).value == 1.5


def test_drift_that_pairs_share_does_not_widen_their_ratio() -> None:
    rising = np.linspace(1, 2, 20)
    paired, unpaired = paired_ratio(1.1 * rising, rising), unpaired_ratio(1.1 * rising, rising)
    assert paired.low == pytest.approx(1.1)
    assert paired.high == pytest.approx(1.1)
    assert unpaired.high - unpaired.low > 0.1


def test_one_sample_gives_a_ratio_without_limits() -> None:
    for ratio in (paired_ratio([3.0], [2.0]), unpaired_ratio([3.0], [2.0])):
        assert ratio == Ratio(1.5, -math.inf, math.inf)
        assert not ratio.differs


def test_ratio_differs_when_its_interval_leaves_out_1() -> None:
    assert [Ratio(1.1, low, high).differs for low, high in ((1.01, 1.2), (0.99, 1.2), (1.0, 1.2), (0.8, 0.9))] == [
        True, False, False, True,
    ]  # fmt: skip


def test_one_slow_repeat_does_not_move_a_ratio() -> None:
    even = [1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 1.0, 1.01, 0.99, 1.0]
    assert unpaired_ratio([*even[:-1], 50.0], even).high < 1.02


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = np.random.default_rng(0).lognormal(size=(2, 10))
    assert unpaired_ratio(a, b, seed=3) == unpaired_ratio(a, b, seed=3)
    assert unpaired_ratio(a, b, seed=3) != unpaired_ratio(a, b, seed=4)


@pytest.mark.slow
@pytest.mark.parametrize("n", [6, 10, 30])
@pytest.mark.parametrize("ratio", [paired_ratio, unpaired_ratio])
def test_intervals_hold_the_truth_as_often_as_they_say(ratio: Callable[..., Ratio], n: int) -> None:
    random = np.random.default_rng(n)
    held = 0
    for _ in range(200):
        noise = np.exp(random.normal(0, 0.05, (2, n)))
        noise[random.random((2, n)) < 0.1] *= 2  # now and then the machine does something else
        found = ratio(1.3 * noise[0], noise[1])
        held += found.low <= 1.3 <= found.high
    assert held / 200 > CONFIDENCE - 0.04  # 2.6 standard deviations of a share of 200


@pytest.mark.parametrize(
    ("n", "m", "confidence", "possible"),
    [(3, 3, 0.95, False), (4, 4, 0.95, True), (4, 4, 0.99, False), (5, 5, 0.99, True), (1, 30, 0.95, False)],
)  # fmt: skip
def test_few_samples_cannot_tell_a_difference(n: int, m: int, confidence: float, possible: bool) -> None:
    """Orders of 3 + 3 samples: 20, of which 2 are separated, 10 %; of 4 + 4: 2 of 70; of 5 + 5: 2 of 252."""
    assert can_tell(n, m, confidence) is possible


def test_slower_last_third_is_flagged() -> None:
    random = np.random.default_rng(0)
    steady = np.exp(random.normal(0, 0.01, 30))
    throttled = steady * np.where(np.arange(30) < 20, 1.0, 1.1)
    found = drift(throttled)
    assert found is not None
    assert found.flagged
    assert found.ratio.value == pytest.approx(1.1, abs=0.02)
    quiet = drift(steady)
    assert quiet is not None
    assert not quiet.flagged


def test_sure_but_small_drift_is_not_flagged() -> None:
    found = drift([1.0] * 10 + [1.01] * 20)
    assert found is not None
    assert found.ratio.differs
    assert not found.flagged


def test_few_samples_have_no_drift() -> None:
    assert drift([1.0] * 11) is None
    assert drift([1.0] * 12) is not None


def test_the_fewest_samples_with_a_drift_can_tell_one() -> None:
    found = drift([1.0] * 8 + [1.2] * 4)
    assert found is not None
    assert found.flagged


def test_too_few_samples_give_no_limits() -> None:
    """All of 5 pairs lie on one side of the median in 1 case of 16; all of 3 samples above 3 others in 1 of 20."""
    assert paired_ratio([1.1] * 5, [1.0] * 5).high == math.inf
    assert paired_ratio([1.1] * 6, [1.0] * 6).high == pytest.approx(1.1)
    assert unpaired_ratio([1.1] * 3, [1.0] * 3).high == math.inf
    assert unpaired_ratio([1.1] * 4, [1.0] * 4).high == pytest.approx(1.1)
