"""Degradation: verdicts by hand, what simulated models are found to be, and a model that steering does harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import stats

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.capability import Answer, Choice, Item, answer_items
from edgesteer.evaluate.degradation import compare, degradation, verdict_notes, verdict_table
from edgesteer.evaluate.statistics import LEVEL, Discordance, mcnemar_power
from edgesteer.runtime.request import Steering

if TYPE_CHECKING:
    from edgesteer.controller import Controller
    from edgesteer.runtime.model import LlamaModel

EXPERIMENTS = 200


def answers(benchmark: str, right: Sequence[object], confidence: float = 0.75) -> list[Answer]:
    """Answers to so many two-choice items, right or wrong, all with this confidence."""
    low, high = math.log(1 - confidence), math.log(confidence)
    items = [Item(benchmark, (Choice(str(n), "a"), Choice(str(n), "b")), 0) for n in range(len(right))]
    return [Answer(item, (high, low) if hit else (low, high)) for item, hit in zip(items, right, strict=True)]


def simulated(
    random: np.random.Generator, n: int, accuracy: float, rate: float, drop: float
) -> tuple[list[Answer], ...]:
    """Answers before and after, of which a share `rate` changes and the accuracy falls by `drop`."""
    before = random.uniform(size=n) < accuracy
    lost = random.uniform(size=n) < (rate + drop) / 2 / accuracy
    won = random.uniform(size=n) < (rate - drop) / 2 / (1 - accuracy)
    return answers("simulated", before), answers("simulated", np.where(before, ~lost, won))


# ---- verdicts ----


def test_a_comparison_by_hand() -> None:
    # 8 items: 6 right before; 4 of them lost, 1 of the others won: p = P(Binomial(5, 1/2) >= 4) = 6/32
    verdict = compare(answers("x", [1, 1, 1, 1, 1, 1, 0, 0]), answers("x", [0, 0, 0, 0, 1, 1, 1, 0]))
    (found,) = verdict.benchmarks
    assert found.counts == Discordance(worse=4, better=1, n=8)
    assert (found.before.value, found.after.value, found.p_value) == pytest.approx((6 / 8, 3 / 8, 6 / 32))
    assert (found.calibration_before, found.calibration_after) == pytest.approx((0.0, 0.375))
    assert not verdict.degraded


def test_the_smallest_drop_has_the_power_it_should() -> None:
    verdict = compare(answers("x", [1] * 30 + [0] * 10), answers("x", [1] * 27 + [0] * 10 + [1] * 3))
    drop = verdict.pooled.smallest_drop
    assert mcnemar_power(40, max(6 / 40, drop), drop) == pytest.approx(0.8, abs=1e-3)


def test_many_lost_items_are_degradation() -> None:
    assert compare(answers("x", [1] * 20), answers("x", [1] * 12 + [0] * 8)).degraded


def test_many_won_items_are_none() -> None:
    assert not compare(answers("x", [1] * 12 + [0] * 8), answers("x", [1] * 20)).degraded


def test_the_level_decides() -> None:
    before, after = answers("x", [1] * 9), answers("x", [1] * 4 + [0] * 5)  # p = 1/32
    assert compare(before, after).degraded
    assert not compare(before, after, level=0.01).degraded


def test_benchmarks_are_pooled_and_corrected() -> None:
    before = [*answers("one", [1] * 9), *answers("two", [1] * 9)]
    after = [*answers("one", [1] * 5 + [0] * 4), *answers("two", [1] * 6 + [0] * 3)]
    verdict = compare(before, after)
    assert [each.benchmark for each in verdict.benchmarks] == ["one", "two"]
    assert verdict.pooled.counts == Discordance(7, 0, 18)
    assert verdict.combined.pooled == pytest.approx(1 / 128)
    assert verdict.combined.worst == pytest.approx(2 / 16)
    assert verdict.degraded


def test_the_same_answers_are_no_degradation() -> None:
    same = answers("x", [1, 0] * 10)
    verdict = compare(same, same)
    assert (verdict.degraded, verdict.pooled.p_value, verdict.pooled.counts.drop) == (False, 1, 0)


def test_answers_to_other_items_are_refused() -> None:
    with pytest.raises(EdgeSteerError, match="cannot be compared"):
        compare(answers("x", [1, 1]), answers("y", [1, 1]))


def test_no_answers_are_refused() -> None:
    with pytest.raises(EdgeSteerError, match="cannot be compared"):
        compare([], [])


def test_no_damage_passes_for_damage_no_more_often_than_the_level_says() -> None:
    random = np.random.default_rng(0)
    found = sum(compare(*simulated(random, 84, 0.8, 0.15, 0.0)).degraded for _ in range(EXPERIMENTS))
    assert found <= stats.binom.ppf(0.999, EXPERIMENTS, LEVEL)


def test_planted_damage_is_found() -> None:
    random = np.random.default_rng(1)
    found = sum(compare(*simulated(random, 84, 0.8, 0.2, 0.15)).degraded for _ in range(EXPERIMENTS))
    assert found > 0.85 * EXPERIMENTS


# ---- what is printed ----


def test_the_table_has_a_row_a_benchmark_and_one_for_all() -> None:
    before = [*answers("one", [1] * 9), *answers("two", [1] * 9)]
    assert [row[0] for row in verdict_table(compare(before, before)).rows] == ["one", "two", "all"]
    assert [row[0] for row in verdict_table(compare(before[:9], before[:9])).rows] == ["one"]


def test_the_first_note_is_the_verdict() -> None:
    worse = compare(answers("x", [1] * 10), answers("x", [1] * 5 + [0] * 5))
    assert verdict_notes(worse)[0] == "The model got worse: accuracy -50.0 points, p = 0.0312 (pooled, level 0.05)."
    same = compare(*[answers("x", [1] * 10)] * 2)
    assert (
        verdict_notes(same)[0] == "No sign that the model got worse: accuracy +0.0 points, p = 1 (pooled, level 0.05)."
    )


def test_too_few_items_are_said_to_show_nothing() -> None:
    few = answers("x", [1, 0, 1])
    assert "too few" in verdict_notes(compare(few, few))[-1]


# ---- models ----


@pytest.fixture
def items_it_gets_right(tiny_llama: LlamaModel) -> list[Item]:
    """40 items whose gold choice is the one that the unsteered tiny model takes."""
    random = np.random.default_rng(0)
    words = ["".join(map(chr, random.integers(97, 123, size=4))) for _ in range(120)]
    items = [Item("tiny", tuple(Choice(words[n], f" {words[n + k]}") for k in (1, 2)), 0) for n in range(0, 120, 3)]
    return [replace(answer.item, gold=answer.chosen) for answer in answer_items(tiny_llama, items, threads=1)]


@pytest.mark.torch  # makes the tiny model
def test_a_model_is_not_worse_than_itself(
    tiny_llama: LlamaModel, make_controller: Callable[..., Controller], items_it_gets_right: list[Item]
) -> None:
    tone = make_controller(4, 32, name="tone")
    verdict = degradation(tiny_llama, [tone], [], [Steering("tone", 0.0)], items_it_gets_right, threads=1)
    assert verdict.pooled.counts == Discordance(0, 0, 40)
    assert verdict.pooled.before.value == 1


@pytest.mark.torch
def test_damage_by_steering_is_found(
    tiny_llama: LlamaModel, make_controller: Callable[..., Controller], items_it_gets_right: list[Item]
) -> None:
    tone = make_controller(4, 32, name="tone")
    verdict = degradation(tiny_llama, [tone], [], [Steering("tone", 4.0)], items_it_gets_right, threads=1)
    assert verdict.degraded
