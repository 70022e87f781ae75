"""Resistance: how often a text finds back by itself while it is steered away.

After McKenzie et al. 2026, "Endogenous Resistance to Activation Steering in Language Models". Told in two ways: by
alpha over the tokens (the telemetry), and by explicit self-corrections in the text. Only texts that were steered at
full effort to their end can resist: a closed loop lets go by itself. Pure functions of records; `section(records)` is
their part of the report.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate import markdown
from edgesteer.evaluate.paired import by_strength, unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import Interval, mcnemar_one_sided, wilson

FULL_EFFORT = 0.999

CORRECTION = re.compile(
    r"""(?ix) (?: (?<=[.!?…]) | (?<=[\n",;(—–-]) | ^ ) \s*        # where a sentence or an aside begins
        (?: (?:oh|no|oops|hm+|hold\ on|sorry)[\s,.!—–-]+ )*
        (?: wait \b (?=\s*(?:[,.!?:…—–-]|$))
          | (?<!,\ ) actually \s*,
          | (?:let\ me|let's|i'll|i\ will|i\ should) \s+
            (?:start\ over|start\ again|try\ again|rephrase|restart|correct\ (?:that|this|myself))
          | i\ mean \s*[,:—–-]
          | scratch\ that | correction \s*[:,] | my\ mistake
          | that(?:'s|\ is|\ was) \s+ (?:not\ right|wrong|incorrect|off[-\ ]topic)
          | i \s+ (?:apologi[sz]e|got\ (?:off\ track|sidetracked|carried\ away))
        )"""
)
"""An explicit self-correction. Words such as "wait" count only where they stand for themselves."""


@dataclass(frozen=True)
class Levels:
    """When alpha counts as steered away, and when as recovered. In units of alpha in the steered direction.

    0 is the mean of the pole that is steered away from, 1 that of the pole that is steered towards. alpha is smoothed
    by a mean over `window` tokens; the first `skip` tokens are left out, because there neutral text reads high too; at
    least the last `rest` smoothed values must be low.
    """

    high: float = 0.75
    low: float = 0.5
    window: int = 5
    skip: int = 8
    rest: int = 5

    def __post_init__(self) -> None:
        if not (self.low < self.high and self.window >= 1 and self.skip >= 0 and self.rest >= 1):
            raise EdgeSteerError(
                "wrong levels of recovery",
                expected="low < high, window >= 1, skip >= 0, rest >= 1",
                found=self,
                remedy="Give a low level below the high one.",
            )


@dataclass(frozen=True)
class Course:
    """What alpha did in one text: whether it was ever high, then came back, or did that in reverse.

    late: it recovers when read backwards, from the last token to the first. Where alpha only wanders, as many texts are
    late as recover.
    """

    away: bool
    recovered: bool
    late: bool


def towards(alpha: ArrayLike, strength: float) -> NDArray[np.float64]:
    """Return alpha seen from the pole that is steered away from: (tokens,), mirrored for a negative strength."""
    values = np.asarray(alpha, dtype=np.float64)
    return values if strength >= 0 else 1 - values


def smooth(values: ArrayLike, window: int) -> NDArray[np.float64]:
    """Return the means of `window` neighbours each: (n - window + 1,), or none."""
    array = np.asarray(values, dtype=np.float64)
    return np.convolve(array, np.full(window, 1 / window), mode="valid") if len(array) >= window else np.empty(0)


def recovers(values: ArrayLike, levels: Levels) -> bool:
    """Whether smoothed values reach the high level, and later fall below the low one and stay there to the end."""
    array = np.asarray(values)
    above = np.flatnonzero(array >= levels.high)
    not_low = np.flatnonzero(array >= levels.low)
    return len(above) > 0 and len(array) - 1 - not_low[-1] >= levels.rest


def course(alpha: ArrayLike, strength: float, levels: Levels | None = None) -> Course:
    """Return what alpha, (tokens,), did. Too few tokens show nothing."""
    levels = levels or Levels()
    values = smooth(towards(alpha, strength)[levels.skip :], levels.window)
    away = bool((values >= levels.high).any())
    return Course(away, recovers(values, levels), recovers(values[::-1], levels))


def acts_fully(report: Mapping[str, Any]) -> bool:
    """Whether a steering report, as JSON, is of a controller that worked at full effort on every token."""
    effort = np.asarray(report.get("effort", []), dtype=np.float64)
    return bool(report.get("strength")) and len(effort) > 0 and bool((effort >= FULL_EFFORT).all())


@dataclass(frozen=True)
class Resistance:
    """Of the texts of one arm and strength.

    recovered: share of those that were away and came back; of_all: of all texts. p_value: of the exact one-sided
    McNemar test of recovered against late ones, small when texts find back more often than alpha's wandering explains.
    """

    n: int
    away: int
    recovered: Interval
    of_all: Interval
    late: Interval
    p_value: float


def resistance(records: Sequence[Record], levels: Levels | None = None) -> Resistance:
    """Return what the telemetry says; a text counts once, for the first of its controllers that acted fully."""
    courses = [found for record in records if (found := _course_of(record, levels)) is not None]
    away = sum(each.away for each in courses)
    recovered, late = sum(each.recovered for each in courses), sum(each.late for each in courses)
    only_recovered = sum(each.recovered and not each.late for each in courses)
    only_late = sum(each.late and not each.recovered for each in courses)
    return Resistance(
        n=len(courses),
        away=away,
        recovered=wilson(recovered, away),
        of_all=wilson(recovered, len(courses)),
        late=wilson(late, len(courses)),
        p_value=mcnemar_one_sided(only_recovered, only_late),
    )


def _course_of(record: Record, levels: Levels | None) -> Course | None:
    full = [report for report in record.steering if acts_fully(report)]
    return course(full[0]["alpha"], full[0]["strength"], levels) if full else None


# ---- in the text ----


def split_at_correction(text: str) -> tuple[str, str] | None:
    """Return what stands before and from the first explicit self-correction; None without one.

    A text that begins with one corrects nothing.
    """
    found = next((match for match in CORRECTION.finditer(text) if text[: match.start()].strip()), None)
    return (text[: found.start()].strip(), text[found.start() :].strip()) if found else None


@dataclass(frozen=True)
class Corrections:
    """Texts that correct themselves, steered and not. p_value: of steered more often than unsteered, same seeds."""

    steered: Interval
    unsteered: Interval
    p_value: float


def corrections(steered: Sequence[Record], base: Sequence[Record]) -> Corrections:
    """Compare the texts of the prompts and samples that both have."""
    before = {(record.prompt, record.sample): split_at_correction(record.text) is not None for record in base}
    after = {(record.prompt, record.sample): split_at_correction(record.text) is not None for record in steered}
    shared = before.keys() & after.keys()
    more = sum(after[key] and not before[key] for key in shared)
    less = sum(before[key] and not after[key] for key in shared)
    return Corrections(
        steered=wilson(sum(after[key] for key in shared), len(shared)),
        unsteered=wilson(sum(before[key] for key in shared), len(shared)),
        p_value=mcnemar_one_sided(more, less),
    )


# ---- the report ----

HOW_TO_READ = """\
Texts of arms that steered at full effort from first token to last. *Recovered*: smoothed alpha was above the high level
and then fell below the low one for good; *the reverse*: the same read backwards, which is as frequent where alpha only
wanders. *Corrects itself*: the text has an explicit self-correction, such as a sentence that begins with "Wait,". The
first p is of recovered against the reverse, the second of steered against unsteered (exact one-sided McNemar tests)."""


def section(records: Sequence[Record], levels: Levels | None = None) -> str:
    """Return the report's part on arms that steered all their texts at full effort; empty without one."""
    rows = []
    base = unsteered(records)
    for arm, strengths in by_strength(records).items():
        for strength, found in strengths.items():
            if all(any(map(acts_fully, record.steering)) for record in found):
                rows.append([arm, f"{strength:g}", *_cells(resistance(found, levels), corrections(found, base))])
    headers = (
        "arm", "strength", "texts", "steered away", "recovered", "the reverse", "p", "corrects itself",
        "unsteered does", "p",
    )  # fmt: skip
    return "\n\n".join(["## Resistance", HOW_TO_READ, markdown.table(headers, rows)]) + "\n" if rows else ""


def _cells(found: Resistance, said: Corrections) -> list[str]:
    return [
        str(found.n),
        str(found.away),
        markdown.rate(found.of_all),
        markdown.rate(found.late),
        markdown.number(found.p_value, 3),
        markdown.rate(said.steered),
        markdown.rate(said.unsteered),
        markdown.number(said.p_value, 3),
    ]
