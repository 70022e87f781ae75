"""Labelled texts: read from a TSV file, and how often a judge agrees with them. Knows no kind of judge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesteer.concept import read_text
from edgesteer.errors import ConceptError, JudgeError
from edgesteer.evaluate.judges.judge import Accuracy, Judge
from edgesteer.extras import needs_extra

HEADER = ["text", "label"]
NUMBERS = ("0", "1")


@dataclass(frozen=True)
class Labelled:
    """Texts of which each carries the concept or not; none stands twice."""

    texts: tuple[str, ...]
    carries: NDArray[np.bool_]
    """(n,)"""
    names: tuple[str, str]
    """What the file calls the texts that do not carry it, and those that do."""


def read_labelled(labelled: Path, positive: str | None = None) -> Labelled:
    """Read lines of text, tab, label, each text once; a first line `text<TAB>label` is skipped.

    positive: the label of the texts that carry the concept; 1 if the labels are 0 and 1.
    Raises JudgeError when the file cannot be read, a line is malformed, or there are not exactly two labels.
    """
    try:
        lines = read_text(labelled).split("\n")  # str.splitlines would also split at characters within texts
    except ConceptError as error:
        raise JudgeError(str(error)) from error
    rows: dict[str, str] = {}
    for text, label in _rows(lines, str(labelled)):
        rows.setdefault(text, label)
    names = _names(Counter(rows.values()), positive, str(labelled))
    return Labelled(tuple(rows), np.array([label == names[1] for label in rows.values()]), names)


def _rows(lines: Sequence[str], path: str) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(lines, start=1):
        cells = [cell.strip() for cell in line.split("\t")]
        if cells == [""] or (number == 1 and cells == HEADER):
            continue
        if len(cells) != 2 or not all(cells):
            raise JudgeError(
                "not a labelled text",
                where=f"{path}: line {number}",
                expected="a text, one tab and a label",
                found=f"{len(cells)} column{'s'[: len(cells) != 1]}" if len(cells) != 2 else "an empty column",
            )
        yield cells[0], cells[1]


def _names(counts: Counter[str], positive: str | None, path: str) -> tuple[str, str]:
    """Return the labels' names, the positive one last."""
    shown = ", ".join(f"{name!r} ({count})" for name, count in counts.most_common(5))
    if len(counts) != 2:
        raise JudgeError("the texts need two labels", where=path, expected="two", found=shown or "no texts")
    if positive is None and set(counts) == set(NUMBERS):
        positive = NUMBERS[1]
    if positive is None or positive not in counts:
        raise JudgeError(
            "which label carries the concept is not clear",
            where=path,
            expected=f"one of {shown}",
            found=positive or "no choice",
            remedy="Name it: --positive LABEL, or positive = in a suite.",
        )
    (other,) = counts.keys() - {positive}
    return other, positive


def measure(judge: Judge, labelled: Labelled) -> Accuracy:
    """Return how often the judge, at its threshold, agrees with the labels."""
    return accuracy_of(judge.score(labelled.texts) >= judge.threshold, labelled.carries)


def accuracy_of(verdicts: NDArray[np.bool_], carries: NDArray[np.bool_]) -> Accuracy:
    """Return how often verdicts (n,) agree with labels (n,)."""
    with needs_extra("eval"):
        from edgesteer.evaluate.statistics import wilson
    rate = wilson(int((verdicts == carries).sum()), len(carries))
    share = float(carries.mean())
    return Accuracy(rate.value, rate.low, rate.high, len(carries), chance=max(share, 1 - share))
