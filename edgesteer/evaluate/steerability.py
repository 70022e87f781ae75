"""Steerability of one concept: how far the dial reaches, how straight it is, and what else it moves.

After Chang et al. 2025, "A Course Correction in Steerability Evaluation": a text is a point in a space with one axis
a judge, steering asks it to move along the axis of the concept, and what goes wrong is coverage, miscalibration or a
side effect. Pure functions of the records of one run; `section(records, primary)` is their part of the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats  # type: ignore[import-untyped]

from edgesteer.evaluate import markdown
from edgesteer.evaluate.frontier import resamples
from edgesteer.evaluate.paired import Array, by_strength, matched, outcome, unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import Interval, fit_line, paired_bootstrap, spearman, wilson
from edgesteer.profile.statistics import CONFIDENCE

LEVELS = (0.25, 0.5, 0.75)
"""Goals for which the report says how many prompts reach them."""


@dataclass(frozen=True)
class Dial:
    """What a judge found at every strength of one arm; strength 0 is the unsteered arm.

    strengths: (k,) ascending; outcomes: (prompts, k).
    """

    strengths: Array
    outcomes: Array

    @property
    def response(self) -> Array:
        """(k,) mean change of the outcome over prompts, against strength 0."""
        return np.asarray((self.outcomes - self.outcomes[:, [self.zero]]).mean(axis=0))

    @property
    def zero(self) -> int:
        return int(np.flatnonzero(self.strengths == 0)[0])

    @property
    def end(self) -> int:
        """The place of the strength furthest from 0; of two such, the positive one."""
        return int(np.lexsort((self.strengths, np.abs(self.strengths)))[-1])


def make_dial(records: Sequence[Record], arm: str, judge: str, measure: str = "mean") -> Dial:
    """Return one arm's dial. Raises EdgeSteerError without unsteered texts, or when no prompt has all strengths."""
    columns = {**by_strength(records).get(arm, {}), 0.0: unsteered(records)}
    strengths = sorted(columns)
    return Dial(np.array(strengths), matched([columns[each] for each in strengths], outcome(judge, measure)))


# ---- coverage ----


def coverage(dial: Dial) -> Interval:
    """Return the share of the goal range 0..1 that lies between the outcomes at the dial's two ends; mean over prompts.

    A prompt on which the dial runs backwards counts negative, so that noise alone covers nothing on average.
    """
    return paired_bootstrap(dial.outcomes[:, -1] - dial.outcomes[:, 0])


def reached(dial: Dial, level: float) -> Interval:
    """Return the share of prompts for which the goal `level` lies between the outcomes at the dial's two ends."""
    low, high = dial.outcomes[:, 0], dial.outcomes[:, -1]
    return wilson(int(((low <= level) & (level <= high)).sum()), len(low))


# ---- miscalibration ----


@dataclass(frozen=True)
class Calibration:
    """Asked strength against measured effect, on the mean over prompts.

    slope_ratio: of the far half of the dial over that of the near half: 1 is linear, below 1 saturates, above 1 starts
    late. largest_deviation: from the least-squares line, as a share of the range of the response. miscalibration, of
    which overshoot is the part beyond what was asked: mean distance from the asked effect, as a share of it, where a
    strength s asks for s / s_end of the effect at the dial's end. nan where the dial does nothing, or has too few
    strengths.
    """

    rank_correlation: Interval
    slope: Interval
    r_squared: float
    slope_ratio: float
    largest_deviation: float
    miscalibration: float
    overshoot: float


def calibration(dial: Dial) -> Calibration:
    response = dial.response
    line = fit_line(dial.strengths, response)
    off, over = _from_asked(dial)
    return Calibration(
        rank_correlation=rank_correlation(dial),
        slope=paired_bootstrap(_slopes(dial)),
        r_squared=line.r_squared,
        slope_ratio=_slope_ratio(dial),
        largest_deviation=_divide(line.largest_deviation, float(np.ptp(response))),
        miscalibration=off,
        overshoot=over,
    )


def rank_correlation(dial: Dial) -> Interval:
    """Return Spearman's correlation of strength and mean outcome, with an interval over prompts."""
    ranks = stats.rankdata(dial.strengths)

    def correlation(means: Array) -> Array:
        found = stats.rankdata(means, axis=-1) - ranks.mean()
        sizes = np.sqrt((found**2).sum(axis=-1) * ((ranks - ranks.mean()) ** 2).sum())
        return _ratios(found @ (ranks - ranks.mean()), sizes)

    value = spearman(dial.strengths, dial.outcomes.mean(axis=0))
    return _over_prompts(dial.outcomes, correlation, value)


def _slopes(dial: Dial) -> Array:
    """(prompts,) least-squares slope of each; their mean is the slope of the mean."""
    centred = dial.strengths - dial.strengths.mean()
    return np.asarray(dial.outcomes @ centred / (centred @ centred))


def _slope_ratio(dial: Dial) -> float:
    """Of the side of the dial that reaches furthest; half way is interpolated."""
    end = dial.strengths[dial.end]
    half = float(np.interp(end / 2, dial.strengths, dial.response))
    whole = float(dial.response[dial.end])
    inner = np.count_nonzero((dial.strengths * np.sign(end) > 0) & (dial.strengths != end))
    return _divide(whole - half, half) if inner else math.nan


def _from_asked(dial: Dial) -> tuple[float, float]:
    end, response = dial.end, dial.response
    between = (dial.strengths != 0) & (np.arange(len(response)) != end)
    if not between.any() or response[end] == 0:
        return math.nan, math.nan
    asked = dial.strengths[between] / dial.strengths[end] * response[end]
    beyond = response[between] / asked - 1
    return float(np.abs(beyond).mean()), float(np.maximum(beyond, 0).mean())


# ---- side effects ----


@dataclass(frozen=True)
class SideEffect:
    """What the dial's end does to another judge. relative: the change over that of the concept's own judge."""

    judge: str
    change: Interval
    relative: float


def side_effects(
    records: Sequence[Record], arm: str, primary: str, others: Sequence[str], measure: str = "mean"
) -> list[SideEffect]:
    """Return the change of other judges at the dial's end; their intervals hold together with 95 % (Bonferroni)."""
    dials = {judge: make_dial(records, arm, judge, measure) for judge in (primary, *others)}
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(others))
    wanted = float(dials[primary].response[dials[primary].end])
    found = [(judge, paired_bootstrap(_at_end(dials[judge]), confidence=confidence)) for judge in others]
    return [SideEffect(judge, change, _divide(change.value, wanted)) for judge, change in found]


def orthogonality(
    records: Sequence[Record], arm: str, primary: str, others: Sequence[str], measure: str = "mean"
) -> Interval:
    """Return how much of the movement at the dial's end is sideways: 0 none of it, 1 all.

    The paper's |rejection of the movement from the asked direction| / |movement|, for the mean movement over prompts,
    with a judge's 0..1 as the unit of every axis. Noise has a direction too, and raises it where nothing moved.
    """
    dials = [make_dial(records, arm, judge, measure) for judge in (primary, *others)]

    def sideways(means: Array) -> Array:
        return _ratios(np.linalg.norm(means[..., 1:], axis=-1), np.linalg.norm(means, axis=-1))

    moved = np.stack([_at_end(dial) for dial in dials], axis=1)
    value = float(sideways(moved.mean(axis=0, keepdims=True))[0]) if moved.mean(axis=0).any() else math.nan
    return _over_prompts(moved, sideways, value)


def _at_end(dial: Dial) -> Array:
    return np.asarray(dial.outcomes[:, dial.end] - dial.outcomes[:, dial.zero])


def _over_prompts(values: Array, statistic: Callable[[Array], Array], value: float) -> Interval:
    """Return an interval by bootstrap over prompts of a statistic of means. values: (prompts, k)."""
    if len(values) < 2 or not math.isfinite(value):
        return Interval(value, -math.inf, math.inf)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(statistic(resamples(len(values)) @ values), (tail, 1 - tail))
    return Interval(value, float(low), float(high))


def _ratios(parts: Array, wholes: Array) -> Array:
    """Element by element; 0 where the whole is 0."""
    return np.asarray(np.divide(parts, wholes, out=np.zeros_like(wholes), where=wholes > 0))


def _divide(part: float, whole: float) -> float:
    return part / whole if whole else math.nan


# ---- the report ----

HOW_TO_READ = """\
At the two ends of the dial. *Coverage* is the share of the goal range 0..1 between the outcomes there, *reach 0.5* the
share of prompts for which the goal 0.5 lies between them. *Rank correlation*, *slope* and *R²* relate strength and mean
outcome; *slope ratio* is that of the far half of the dial over the near half (1 is linear), *largest deviation* that
from the least-squares line as a share of the range. *Miscalibration* is how far off the effect is from strength times
the effect at the end, as a share of it; *overshoot* is the part of that beyond what was asked."""
SIDEWAYS = """\
The intervals of an arm's side effects hold together. *Orthogonality* is the share of the movement that was not asked
for: 0 none, 1 all of it."""


def section(records: Sequence[Record], primary: str, measure: str = "mean") -> str:
    """Return the report's part on every arm with two strengths or more; empty when there is none.

    primary: the judge of the concept; measure: presence, density or mean.
    """
    arms = [arm for arm, strengths in by_strength(records).items() if len(set(strengths) - {0.0}) > 1]
    if not arms:
        return ""
    others = sorted(set.intersection(*(set(record.scores) for record in records)) - {primary})
    parts = ["## Steerability", HOW_TO_READ, _dials_table(records, arms, primary, measure)]
    if others:
        parts += [SIDEWAYS, _side_effects_table(records, arms, primary, others, measure)]
    return "\n\n".join(parts) + "\n"


def _dials_table(records: Sequence[Record], arms: Sequence[str], primary: str, measure: str) -> str:
    rows = []
    for arm in arms:
        dial = make_dial(records, arm, primary, measure)
        found = calibration(dial)
        numbers = (found.r_squared, found.slope_ratio, found.largest_deviation, found.miscalibration, found.overshoot)
        intervals = (coverage(dial), found.rank_correlation, found.slope)
        shares = [markdown.percent(reached(dial, level).value) for level in LEVELS]
        rows.append([arm, *map(markdown.interval, intervals), *map(markdown.number, numbers), *shares])
    headers = (
        "arm", "coverage", "rank correlation", "slope", "R²", "slope ratio", "largest deviation", "miscalibration",
        "overshoot", *(f"reach {level:g}" for level in LEVELS),
    )  # fmt: skip
    return markdown.table(headers, rows)


def _side_effects_table(
    records: Sequence[Record], arms: Sequence[str], primary: str, others: Sequence[str], measure: str
) -> str:
    rows = []
    for arm in arms:
        aside = markdown.interval(orthogonality(records, arm, primary, others, measure))
        for effect in side_effects(records, arm, primary, others, measure):
            change = markdown.interval(effect.change)
            rows.append([arm, effect.judge, change, markdown.number(effect.relative), aside])
    headers = ("arm", "other judge", "change at the dial's end", "relative to the concept's", "orthogonality")
    return markdown.table(headers, rows)
