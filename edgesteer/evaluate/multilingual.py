"""Language steering: does the answer come in the wanted language, and is it still about the question?

After Gurgurov et al. 2026, "CLaS-Bench": language control and relevance, joined by the harmonic mean. Pure functions of
records; `section(records, control, relevance)` is their part of the report.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate import markdown
from edgesteer.evaluate.paired import UNSTEERED, Value, by_strength, outcome, prompt_means
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import Interval, paired_bootstrap, wilson

IN_LANGUAGE = 0.5
"""From which score of the language judge on an answer is in the language."""
AVERAGE = "average"

Embed = Callable[[Sequence[str]], NDArray[Any]]
"""From n texts to (n, width)."""


@dataclass(frozen=True)
class LanguageSteering:
    """Of n answers: the share in the wanted language, their mean relevance over prompts, and the harmonic mean."""

    n: int
    control: Interval
    relevance: Interval

    @property
    def score(self) -> float:
        return harmonic_mean(self.control.value, self.relevance.value)


def harmonic_mean(first: float, second: float) -> float:
    """Return the harmonic mean of two shares; 0 as soon as one of them is 0."""
    return 2 * first * second / (first + second) if first > 0 and second > 0 else 0.0


def language_steering(records: Sequence[Record], control: str, relevance: Value) -> LanguageSteering:
    """Return the three figures of some answers.

    control: the judge of the wanted language; relevance: of one record, in 0..1, by `relevances` or by a judge.
    """
    value = outcome(control)
    inside = sum(value(record) >= IN_LANGUAGE for record in records)
    means = list(prompt_means(records, relevance).values())
    return LanguageSteering(len(records), wilson(inside, len(records)), paired_bootstrap(means))


def relevances(records: Sequence[Record], questions: Mapping[str, str], embed: Embed) -> Value:
    """Return what gives the relevance of each record: the cosine of answer and question, no less than 0.

    questions: their texts by the prompt's id. An answer without a word has relevance 0. An encoder of English hears
    other languages badly; then compare within one language only, or give the questions in the wanted language.
    """
    unknown = sorted({record.prompt for record in records} - questions.keys())
    if unknown:
        raise EdgeSteerError(
            "no question for an answer",
            where=unknown[0],
            expected="the text of every prompt",
            remedy="Give the suite that the run was made with.",
        )
    asked = sorted({record.prompt for record in records})
    vectors = dict(zip(asked, unit(embed([questions[prompt] for prompt in asked])), strict=True))
    answers = unit(embed([record.text for record in records])) if records else np.empty((0, 1))
    found = {
        record.key: max(0.0, float(vectors[record.prompt] @ answer)) if record.text.strip() else 0.0
        for record, answer in zip(records, answers, strict=True)
    }
    return lambda record: found[record.key]


def unit(vectors: NDArray[Any]) -> NDArray[Any]:
    """Return vectors of length 1, (n, width); of length 0 what was so."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0))


def by_group(records: Sequence[Record], control: str, relevance: Value) -> dict[str, LanguageSteering]:
    """Return the figures for each group of prompts (the language of the question)."""
    groups: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        groups[record.group].append(record)
    return {group: language_steering(found, control, relevance) for group, found in sorted(groups.items())}


def average(languages: Mapping[str, LanguageSteering]) -> float:
    """Return the mean score over languages, each of the same weight, wanted or asked in."""
    return float(np.mean([each.score for each in languages.values()])) if languages else float("nan")


HOW_TO_READ = """\
*Language control* is the share of answers in the wanted language, *relevance* the mean likeness of answer and question
in 0..1; the score is their harmonic mean. The encoder knows English best: compare relevance within a language only."""


def section(records: Sequence[Record], control: str, relevance: Value) -> str:
    """Return the report's part: a row for every arm, strength and group, the unsteered ones first."""
    base = [record for record in records if record.arm == UNSTEERED]
    arms = {**({UNSTEERED: {0.0: base}} if base else {}), **by_strength(records)}
    rows: list[list[str]] = []
    for arm, strengths in arms.items():
        for strength, found in strengths.items():
            groups = by_group(found, control, relevance)
            rows += [[arm, f"{strength:g}", group, *_cells(each)] for group, each in groups.items()]
            if len(groups) > 1:
                rows.append([arm, f"{strength:g}", AVERAGE, "", "", "", markdown.number(average(groups))])
    headers = ("arm", "strength", "prompts", "answers", "language control", "relevance", "harmonic mean")
    return "\n\n".join(["## Language steering", HOW_TO_READ, markdown.table(headers, rows)]) + "\n"


def _cells(found: LanguageSteering) -> list[str]:
    control, relevance = markdown.rate(found.control), markdown.interval(found.relevance)
    return [str(found.n), control, relevance, markdown.number(found.score)]
