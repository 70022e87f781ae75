"""Degradation: did steering, or another quantization, make a model worse at what it could do before?

The same items are answered before and after, and compared item by item: after Kübler et al. 2026, "When LLMs get
significantly worse". Knows no file; reports are tables of text.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.capability import PARALLEL, Answer, Item, answer_items
from edgesteer.evaluate.statistics import (
    LEVEL,
    POWER,
    Combined,
    Discordance,
    Interval,
    calibration_error,
    combine,
    discordance,
    mcnemar_one_sided,
    smallest_drop,
    wilson,
)
from edgesteer.profile.report import NONE, Table
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Steering


@dataclass(frozen=True)
class Comparison:
    """One benchmark, before and after. Accuracies are shares of the items, with 95 % intervals."""

    benchmark: str
    before: Interval
    after: Interval
    counts: Discordance
    p_value: float
    """Of the exact one-sided McNemar test; nothing is corrected for other benchmarks."""
    smallest_drop: float
    """Of the accuracy, that so many items with so many discordant ones show with a power of 0.8; nan: none."""
    calibration_before: float
    calibration_after: float


@dataclass(frozen=True)
class Verdict:
    """Whether the model got worse. degraded: the pooled test says so at this level."""

    degraded: bool
    level: float
    benchmarks: tuple[Comparison, ...]
    pooled: Comparison
    """All items together."""
    combined: Combined
    """Corrected p-values stand in the order of the benchmarks."""


def degradation(
    model: LlamaModel,
    controllers: Sequence[Controller],
    before: Sequence[Steering],
    after: Sequence[Steering],
    items: Sequence[Item],
    *,
    level: float = LEVEL,
    parallel: int = PARALLEL,
    threads: int | None = None,
    on_choice: Callable[[], None] = lambda: None,
) -> Verdict:
    """Compare a model under two ways of steering; () is unsteered.

    Raises what answer_items raises. Whoever compares many ways with one answers the items once, and calls `compare`.
    """
    first, second = (
        answer_items(model, items, controllers, each, parallel=parallel, threads=threads, on_choice=on_choice)
        for each in (before, after)
    )
    return compare(first, second, level=level)


def compare(before: Sequence[Answer], after: Sequence[Answer], *, level: float = LEVEL) -> Verdict:
    """Compare two sets of answers to the same items in the same order. Raises EdgeSteerError for other items."""
    if not before or [each.item for each in before] != [each.item for each in after]:
        raise EdgeSteerError(
            "answers cannot be compared", expected="at least one item, and the same ones on both sides"
        )
    names = list(dict.fromkeys(each.item.benchmark for each in before))
    benchmarks = tuple(_compare(name, _of(name, before), _of(name, after), level) for name in names)
    combined = combine([each.counts for each in benchmarks])
    pooled = _compare("all", before, after, level)
    return Verdict(combined.pooled <= level, level, benchmarks, pooled, combined)


def _of(benchmark: str, answers: Sequence[Answer]) -> list[Answer]:
    return [each for each in answers if each.item.benchmark == benchmark]


def _compare(name: str, before: Sequence[Answer], after: Sequence[Answer], level: float) -> Comparison:
    counts = discordance([each.right for each in before], [each.right for each in after])
    return Comparison(
        benchmark=name,
        before=_accuracy(before),
        after=_accuracy(after),
        counts=counts,
        p_value=mcnemar_one_sided(counts.worse, counts.better),
        smallest_drop=smallest_drop(counts.n, counts.rate, level=level),
        calibration_before=_calibration(before),
        calibration_after=_calibration(after),
    )


def _accuracy(answers: Sequence[Answer]) -> Interval:
    return wilson(sum(each.right for each in answers), len(answers))


def _calibration(answers: Sequence[Answer]) -> float:
    return calibration_error([each.confidence for each in answers], [each.confidently_right for each in answers])


# ---- what is printed ----

HEADERS = (
    "benchmark", "items", "before %", "after %", "worse", "better", "p", "shows drops from %", "ECE before", "ECE after"
)  # fmt: skip


def verdict_table(verdict: Verdict) -> Table:
    """Return a row for each benchmark, and for all items together where there are several."""
    shown = [*verdict.benchmarks, *([verdict.pooled] if len(verdict.benchmarks) > 1 else [])]
    return Table("Accuracy before and after", list(HEADERS), [_row(each) for each in shown])


def _row(each: Comparison) -> list[str]:
    counts = each.counts
    shares = [_percent(each.before), _percent(each.after)]
    numbers = [str(counts.worse), str(counts.better), f"{each.p_value:.3g}", _points(each.smallest_drop)]
    return [
        each.benchmark, str(counts.n), *shares, *numbers,
        f"{each.calibration_before:.3f}", f"{each.calibration_after:.3f}",
    ]  # fmt: skip


def _points(drop: float) -> str:
    return NONE if math.isnan(drop) else f"{100 * drop:.1f}"


def _percent(rate: Interval) -> str:
    return f"{100 * rate.value:.1f} ({100 * rate.low:.1f} to {100 * rate.high:.1f})"


def verdict_notes(verdict: Verdict) -> list[str]:
    """Return the verdict in sentences, the most important one first."""
    combined, pooled = verdict.combined, verdict.pooled
    said = "The model got worse" if verdict.degraded else "No sign that the model got worse"
    drop = f"accuracy {0.0 - 100 * pooled.counts.drop:+.1f} points"
    lines = [f"{said}: {drop}, p = {combined.pooled:.3g} (pooled, level {verdict.level:g})."]
    if len(verdict.benchmarks) > 1:
        lines.append(
            f"Other ways to combine: worst benchmark p = {combined.worst:.3g}, Fisher p = {combined.fisher:.3g}."
        )
    return [*lines, _what_it_could_show(pooled)]


def _what_it_could_show(pooled: Comparison) -> str:
    n = pooled.counts.n
    if math.isnan(pooled.smallest_drop):
        return f"{n} items are too few to show any drop."
    return (
        f"With as many changes as here, {n} items show a drop of {100 * pooled.smallest_drop:.1f} points in "
        f"{100 * POWER:.0f} of 100 cases; a smaller one may go unseen."
    )
