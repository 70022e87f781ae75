"""Personality: what steering does to the five traits, and how stable that is.

After Handa et al. 2025, "Personality as a Probe for LLM Evaluation": deltas within one run, against the unsteered
model on the same prompts and seeds, and stability over methods (arms), traits and combinations (arm x trait). Pure
functions of records; `section(runs)`, with a run's records by the trait that it steered, is their part of the report.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate import markdown
from edgesteer.evaluate.paired import by_strength, changes, outcome, unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import Interval, paired_bootstrap

TRAITS = {
    "O": "openness",
    "C": "conscientiousness",
    "E": "extraversion",
    "A": "agreeableness",
    "N": "neuroticism",
}
"""The Big Five by the letter that questionnaires use. A judge of a trait is named after it."""

Array = NDArray[np.float64]
Runs = Mapping[str, Sequence[Record]]
"""The records of each run, by the trait that it steered."""


# ---- deltas ----


@dataclass(frozen=True)
class Delta:
    """What steering one trait with one arm did to one trait, at the end of the dial.

    by_prompt: (prompts,) paired changes; towards: the sign of the strength; change: their mean.
    """

    arm: str
    steered: str
    measured: str
    strength: float
    by_prompt: Array
    change: Interval

    @property
    def on_target(self) -> bool:
        return self.steered == self.measured

    @property
    def towards(self) -> float:
        return math.copysign(1.0, self.strength)


def deltas(runs: Runs, measure: str = "mean") -> list[Delta]:
    """Return the changes of every trait that a run's judges know, for each run and arm.

    Taken at the strength furthest from 0. Raises EdgeSteerError without unsteered texts, or when a run has no judge
    named after the trait that it steers.
    """
    found = []
    for trait, records in runs.items():
        judges = [judge for judge in TRAITS.values() if all(judge in record.scores for record in records)]
        if trait not in judges:
            raise EdgeSteerError(
                "no judge of the trait that is steered",
                where=trait,
                expected=f"a judge named {trait}, in a run of one of {', '.join(TRAITS.values())}",
                remedy="Name the suite's judges after the traits.",
            )
        base = unsteered(records)
        for arm, strengths in by_strength(records).items():
            strength = max(strengths, key=lambda each: (abs(each), each))
            for judge in judges:
                change = changes(strengths[strength], base, outcome(judge, measure))
                found.append(Delta(arm, trait, judge, strength, change, paired_bootstrap(change)))
    return found


# ---- stability ----


@dataclass(frozen=True)
class Stability:
    """Of n changes: the share that has the asked sign (none has no sign), and their coefficient of variation.

    variation: standard deviation over |mean|, the smaller the steadier; nan for one change or a mean of 0.
    """

    n: int
    agreement: float
    variation: float


def stability(values: ArrayLike) -> Stability:
    """values: (n,) changes, counted in the asked direction."""
    array = np.asarray(values, dtype=np.float64)
    mean = abs(float(array.mean()))
    variation = float(array.std(ddof=1)) / mean if len(array) > 1 and mean > 0 else math.nan
    return Stability(len(array), float((array > 0).mean()), variation)


def over_traits(found: Iterable[Delta]) -> dict[str, Stability]:
    """Return each method's stability: of the mean changes of the steered traits."""
    return _grouped((delta.arm, delta) for delta in found if delta.on_target)


def over_methods(found: Iterable[Delta]) -> dict[str, Stability]:
    """Return each trait's stability: of the mean changes that the arms that steered it made."""
    return _grouped((delta.steered, delta) for delta in found if delta.on_target)


def over_prompts(found: Iterable[Delta]) -> dict[tuple[str, str], Stability]:
    """Return the stability of each combination of arm and trait: of its changes over prompts."""
    return {
        (delta.arm, delta.steered): stability(delta.towards * delta.by_prompt) for delta in found if delta.on_target
    }


def _grouped(pairs: Iterable[tuple[str, Delta]]) -> dict[str, Stability]:
    values: dict[str, list[float]] = defaultdict(list)
    for name, delta in pairs:
        values[name].append(delta.towards * delta.change.value)
    return {name: stability(each) for name, each in values.items()}


# ---- the report ----

HOW_TO_READ = """\
Changes of the traits' judges against the unsteered texts of the same prompts and seeds, at the end of the dial."""
STEADY = """\
*Asked sign* is the share of changes that went the way that was asked; the coefficient of variation is the standard
deviation over the mean, the smaller the steadier."""


def section(runs: Runs, measure: str = "mean") -> str:
    """Return the report's part: all deltas, and the three levels of stability. See `deltas` for what it raises."""
    found = deltas(runs, measure)
    parts = ["## Personality", HOW_TO_READ, _deltas_table(found), STEADY, _stability_table(found)]
    return "\n\n".join(parts) + "\n"


def _deltas_table(found: Sequence[Delta]) -> str:
    traits = [trait for trait in TRAITS.values() if any(delta.measured == trait for delta in found)]
    rows: dict[tuple[str, str, float], dict[str, str]] = defaultdict(dict)
    for delta in found:
        rows[delta.steered, delta.arm, delta.strength][delta.measured] = markdown.interval(delta.change)
    return markdown.table(
        ["steered", "arm", "strength", *traits],
        [
            [steered, arm, f"{strength:g}", *(cells.get(trait, markdown.NONE) for trait in traits)]
            for (steered, arm, strength), cells in rows.items()
        ],
    )


def _stability_table(found: Sequence[Delta]) -> str:
    levels: list[tuple[str, str, Stability]] = [
        *(("method, over traits", arm, each) for arm, each in over_traits(found).items()),
        *(("trait, over methods", trait, each) for trait, each in over_methods(found).items()),
        *(("combination, over prompts", f"{arm}, {trait}", each) for (arm, trait), each in over_prompts(found).items()),
    ]
    return markdown.table(
        ["stability of", "", "n", "asked sign", "coefficient of variation"],
        [
            [level, name, str(each.n), markdown.percent(each.agreement), markdown.number(each.variation)]
            for level, name, each in levels
        ],
    )
