"""Pairs: what steering changed of each prompt's texts, against the unsteered texts of the same prompt and seed.

The prompt is the unit: the samples of one prompt are averaged first, because they are not independent. Knows no
statistics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.record import Record

Array: TypeAlias = NDArray[np.float64]
Value: TypeAlias = Callable[[Record], float]
"""What is measured of one text."""

UNSTEERED = "none"
"""The arm that the others are compared with."""
MEASURES = ("presence", "density", "mean")
"""The fields of a Score."""


def outcome(judge: str, measure: str = "mean") -> Value:
    """Return what reads one measure of one judge off a record.

    It raises EdgeSteerError for a record that this judge has not seen.
    """

    def value(record: Record) -> float:
        if judge not in record.scores:
            raise EdgeSteerError(
                "a text was not judged by this judge",
                where=judge,
                expected=" or ".join(record.scores) or "a score",
                remedy="Judge the run again with the suite that names it.",
            )
        return float(getattr(record.scores[judge], measure))

    return value


def unsteered(records: Iterable[Record]) -> list[Record]:
    """Return the texts of the arm that is not steered. Raises EdgeSteerError when there are none."""
    found = [record for record in records if record.arm == UNSTEERED]
    if not found:
        raise EdgeSteerError(
            "there are no unsteered texts to compare with",
            expected=f"an arm named {UNSTEERED}",
            remedy="Run the suite with the unsteered arm.",
        )
    return found


def by_strength(records: Iterable[Record]) -> dict[str, dict[float, list[Record]]]:
    """Return the steered texts by arm, in the order of the records, and by strength, ascending."""
    arms: dict[str, dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        if record.arm != UNSTEERED:
            arms[record.arm][record.strength].append(record)
    return {arm: dict(sorted(strengths.items())) for arm, strengths in arms.items()}


def prompt_means(records: Iterable[Record], value: Value) -> dict[str, float]:
    """Return the mean of a value over the samples of each prompt."""
    values: dict[str, list[float]] = defaultdict(list)
    for record in records:
        values[record.prompt].append(value(record))
    return {prompt: float(np.mean(found)) for prompt, found in values.items()}


def matched(columns: Sequence[Sequence[Record]], value: Value) -> Array:
    """Return prompt means of several ways to answer: (prompts that all of them answered, columns).

    Only samples that every column has count, so that each row is paired. Raises EdgeSteerError when there are none.
    """
    held = [{(record.prompt, record.sample) for record in column} for column in columns]
    shared = set.intersection(*held)
    if not shared:
        raise EdgeSteerError(
            "the arms share no prompt and sample", remedy="Let the run finish, or compare arms of one run."
        )
    means = [prompt_means((r for r in column if (r.prompt, r.sample) in shared), value) for column in columns]
    return np.array([[mean[prompt] for mean in means] for prompt in sorted(means[0])])


def changes(steered: Sequence[Record], base: Sequence[Record], value: Value) -> Array:
    """Return by how much steering changed the value: (prompts,). Raises what `matched` raises."""
    before, after = matched((base, steered), value).T
    return np.asarray(after - before)
