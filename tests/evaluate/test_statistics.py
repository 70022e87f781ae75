"""Statistics: cases computed by hand, statsmodels and scipy as oracles, and what simulated experiments find."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from edgesteer.evaluate.statistics import (
    LEVEL,
    Discordance,
    calibration_error,
    combine,
    discordance,
    fit_line,
    holm,
    mcnemar_one_sided,
    mcnemar_power,
    paired_bootstrap,
    smallest_drop,
    spearman,
    variance_between,
    wilson,
)

EXPERIMENTS = 200


def most_false_positives() -> int:
    """The most that a test at its level shows in 999 of 1000 series of experiments."""
    return int(stats.binom.ppf(0.999, EXPERIMENTS, LEVEL))


def simulated_counts(random: np.random.Generator, n: int, rate: float, drop: float) -> Discordance:
    worse, better, _ = random.multinomial(n, [(rate + drop) / 2, (rate - drop) / 2, 1 - rate])
    return Discordance(int(worse), int(better), n)


# ---- rates and means ----


def test_wilson_interval_by_hand() -> None:
    # p = 1/2, n = 4, z = 1.96: centre 1/2, half width z / 2 / sqrt(n + z^2) = 0.98 / sqrt(7.8415)
    found = wilson(2, 4)
    half = 0.97998 / math.sqrt(4 + 1.95996**2)
    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5 - half, 0.5 + half), abs=1e-4)


def test_wilson_interval_is_scipys() -> None:
    for successes, n in ((0, 7), (3, 10), (10, 10), (41, 200)):
        oracle = stats.binomtest(successes, n).proportion_ci(method="wilson")
        found = wilson(successes, n)
        assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high))


def test_a_rate_of_nothing_is_unknown() -> None:
    found = wilson(0, 0)
    assert math.isnan(found.value)
    assert (found.low, found.high) == (0, 1)


def test_bootstrap_interval_of_a_normal_sample_is_about_students() -> None:
    sample = np.random.default_rng(0).normal(0.3, 1, size=100)
    found = paired_bootstrap(sample)
    low, high = stats.t.interval(0.95, 99, sample.mean(), stats.sem(sample))
    assert found.value == sample.mean()
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.03)


def test_bootstrap_repeats_with_its_seed() -> None:
    sample = np.arange(12.0) ** 2
    assert paired_bootstrap(sample, seed=1) == paired_bootstrap(sample, seed=1)
    assert paired_bootstrap(sample, seed=1) != paired_bootstrap(sample, seed=2)


def test_bootstrap_of_equal_differences_is_a_point() -> None:
    found = paired_bootstrap([0.25] * 8)
    assert (found.low, found.value, found.high) == (0.25, 0.25, 0.25)


@pytest.mark.parametrize("sample", [[], [1.0]])
def test_bootstrap_of_too_few_differences_excludes_nothing(sample: list[float]) -> None:
    assert paired_bootstrap(sample).contains(1e9)


def test_bootstrap_of_a_nearly_constant_sample_is_finite() -> None:
    found = paired_bootstrap([0.0] * 19 + [1.0])
    assert 0 <= found.low <= 0.05 <= found.high < 0.5


def test_bootstrap_keeps_its_level_where_there_is_no_effect() -> None:
    random = np.random.default_rng(3)
    missed = sum(not paired_bootstrap(random.normal(size=40)).contains(0) for _ in range(EXPERIMENTS))
    assert missed <= stats.binom.ppf(0.999, EXPERIMENTS, 0.07)  # the bootstrap of 40 is known to miss a little more


# ---- McNemar ----


def test_mcnemar_by_hand() -> None:
    # of 5 discordant items, 4 or 5 worse: (5 + 1) / 32
    assert mcnemar_one_sided(4, 1) == pytest.approx(6 / 32)


def test_no_discordant_item_is_no_sign_of_damage() -> None:
    assert mcnemar_one_sided(0, 0) == 1


@pytest.mark.parametrize(("worse", "better"), [(9, 2), (20, 11), (7, 0)])
def test_one_sided_mcnemar_is_half_of_statsmodels_two_sided_one(worse: int, better: int) -> None:
    oracle = mcnemar([[50, worse], [better, 30]], exact=True)
    assert mcnemar_one_sided(worse, better) == pytest.approx(oracle.pvalue / 2)


def test_getting_better_is_no_damage() -> None:
    assert mcnemar_one_sided(2, 12) > 0.99


def test_discordance_counts_who_changed() -> None:
    before, after = [True, True, True, False, False], [True, False, False, True, False]
    found = discordance(before, after)
    assert (found.worse, found.better, found.n) == (2, 1, 5)
    assert (found.drop, found.rate) == pytest.approx((1 / 5, 3 / 5))


def test_mcnemar_keeps_its_level_over_simulated_experiments() -> None:
    random = np.random.default_rng(0)
    counts = [simulated_counts(random, 300, 0.2, 0.0) for _ in range(EXPERIMENTS)]
    found = sum(mcnemar_one_sided(each.worse, each.better) <= LEVEL for each in counts)
    assert found <= most_false_positives()


def test_mcnemar_finds_a_planted_drop_as_often_as_its_power_says() -> None:
    random = np.random.default_rng(1)
    counts = [simulated_counts(random, 300, 0.2, 0.08) for _ in range(EXPERIMENTS)]
    found = sum(mcnemar_one_sided(each.worse, each.better) <= LEVEL for each in counts) / EXPERIMENTS
    assert found == pytest.approx(mcnemar_power(300, 0.2, 0.08), abs=0.07)
    assert found > 0.8


# ---- several benchmarks ----


def test_pooled_test_adds_the_counts() -> None:
    found = combine([Discordance(3, 1, 20), Discordance(5, 2, 30)])
    assert found.pooled == mcnemar_one_sided(8, 3)


def test_fishers_combination_by_hand() -> None:
    # p = 1/8 twice: -2 ln(1/64) = 12 ln 2 on 4 degrees of freedom, whose tail is exp(-x/2) (1 + x/2)
    found = combine([Discordance(3, 0, 9), Discordance(3, 0, 9)])
    assert found.fisher == pytest.approx((1 + 6 * math.log(2)) / 64)


def test_holms_correction_by_hand() -> None:
    # p = 1/16, 1/4, 1: times 3, 2, 1
    found = combine([Discordance(2, 0, 9), Discordance(4, 0, 9), Discordance(0, 0, 9)])
    assert found.corrected == pytest.approx((0.5, 3 / 16, 1))
    assert found.worst == pytest.approx(3 / 16)


def test_holms_correction_is_statsmodels() -> None:
    p_values = np.random.default_rng(0).uniform(size=12) ** 3
    assert holm(p_values.tolist()) == pytest.approx(multipletests(p_values, method="holm")[1].tolist())


def test_of_one_benchmark_all_ways_are_its_own_test() -> None:
    found = combine([Discordance(6, 1, 40)])
    assert found.worst == found.pooled == pytest.approx(found.fisher)


def test_combined_tests_keep_their_level_over_simulated_experiments() -> None:
    random = np.random.default_rng(2)
    found = [combine([simulated_counts(random, 60, 0.3, 0.0) for _ in range(4)]) for _ in range(EXPERIMENTS)]
    for name in ("pooled", "worst", "fisher"):
        assert sum(getattr(each, name) <= LEVEL for each in found) <= most_false_positives(), name


def test_each_way_finds_the_damage_it_is_for() -> None:
    random = np.random.default_rng(4)
    even = [combine([simulated_counts(random, 100, 0.2, 0.07) for _ in range(5)]) for _ in range(40)]
    drops = (0.25, 0.0, 0.0, 0.0, 0.0)
    single = [combine([simulated_counts(random, 100, 0.3, drop) for drop in drops]) for _ in range(40)]
    assert sum(each.pooled <= LEVEL for each in even) > sum(each.worst <= LEVEL for each in even)
    assert sum(each.worst <= LEVEL for each in single) > sum(each.pooled <= LEVEL for each in single)
    assert sum(each.fisher <= LEVEL for each in even) > 30
    assert sum(each.fisher <= LEVEL for each in single) > 30


# ---- what a sample can show ----


def test_power_by_enumeration() -> None:
    # 6 items, each worse with 0.5, better with 0.1: every outcome, its probability, and its test
    chance = {"worse": 0.5, "better": 0.1, "same": 0.4}
    found = sum(
        math.prod(chance[each] for each in outcome)
        for outcome in product(chance, repeat=6)
        if mcnemar_one_sided(outcome.count("worse"), outcome.count("better")) <= LEVEL
    )
    assert mcnemar_power(6, 0.6, 0.4) == pytest.approx(found)


def test_where_nothing_is_worse_the_power_is_the_false_positives() -> None:
    assert mcnemar_power(500, 0.2, 0.0) <= LEVEL


def test_smallest_drop_has_the_power_asked_for() -> None:
    drop = smallest_drop(400, 0.15)
    assert mcnemar_power(400, 0.15, drop) == pytest.approx(0.8, abs=1e-3)


def test_more_items_show_smaller_drops() -> None:
    drops = [smallest_drop(n, 0.1) for n in (50, 200, 800)]
    assert drops == sorted(drops, reverse=True)


def test_more_noise_hides_larger_drops() -> None:
    assert smallest_drop(300, 0.05) < smallest_drop(300, 0.3)


def test_smallest_drop_needs_no_discordant_item_to_be_known() -> None:
    drop = smallest_drop(100, 0.0)
    assert mcnemar_power(100, drop, drop) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize("n", [0, 1, 4])
def test_four_items_can_show_nothing(n: int) -> None:
    assert math.isnan(smallest_drop(n, 0.5))  # 1/16 is above the level


# ---- calibration and the dial ----


def test_calibration_error_by_hand() -> None:
    # bin 0.6: confidences .62, .68, one right: |1 - 1.3| ; bin 0.9: .95, .95, both right: |2 - 1.9|
    assert calibration_error([0.62, 0.68, 0.95, 0.95], [1, 0, 1, 1]) == pytest.approx((0.3 + 0.1) / 4)


def test_certain_and_right_is_calibrated() -> None:
    assert calibration_error([1.0, 1.0], [True, True]) == 0


def test_calibration_of_no_answers_is_unknown() -> None:
    assert math.isnan(calibration_error([], []))


def test_calibrated_confidences_have_nearly_no_error() -> None:
    random = np.random.default_rng(0)
    sure = random.uniform(size=20000)
    assert calibration_error(sure, random.uniform(size=20000) < sure) < 0.02


def test_spearman_sees_order_only() -> None:
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 1, 2]) == pytest.approx(-0.5)


def test_spearman_of_a_dial_that_does_nothing_is_unknown() -> None:
    assert math.isnan(spearman([1, 2, 3], [0.5, 0.5, 0.5]))


def test_line_by_hand() -> None:
    found = fit_line([0, 1, 2], [0, 2, 1])  # slope 1/2, intercept 1/2, residuals -1/2, 1, -1/2; R^2 = 1/4
    assert (found.slope, found.intercept, found.r_squared) == pytest.approx((0.5, 0.5, 0.25))
    assert found.largest_deviation == pytest.approx(1)


def test_a_flat_dial_is_on_its_line_and_explains_nothing() -> None:
    found = fit_line([0, 1, 2], [0.3, 0.3, 0.3])
    assert (found.slope, found.r_squared, found.largest_deviation) == pytest.approx((0, 0, 0))


def test_one_strength_makes_no_line() -> None:
    assert math.isnan(fit_line([1, 1], [0, 1]).slope)


def test_variance_between_by_hand() -> None:
    """Means 1 and 4 have variance 4.5, of which the members' variances, 2 and 0, explain (2 + 0) / 2 / 2 = 0.5."""
    assert variance_between([[0, 2], [4, 4]]) == pytest.approx(4.0)


def test_variance_between_is_that_of_the_analysis_of_variance() -> None:
    groups = np.random.default_rng(0).normal(size=(9, 4))
    within = groups.var(axis=1, ddof=1).mean()
    ratio = stats.f_oneway(*groups).statistic
    assert variance_between(groups) == pytest.approx((ratio - 1) * within / 4)


def test_a_planted_variance_between_groups_is_found_on_average() -> None:
    rng = np.random.default_rng(1)
    found = [variance_between(rng.normal(0, 0.3, (28, 1)) + rng.normal(0, 0.5, (28, 3))) for _ in range(EXPERIMENTS)]
    assert np.mean(found) == pytest.approx(0.09, abs=4 * np.std(found) / math.sqrt(EXPERIMENTS))
