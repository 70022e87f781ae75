"""Judge of how easy English is to read, by textstat."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate.judges.judge import Accuracy
from edgesteer.evaluate.judges.poles import check_pole
from edgesteer.evaluate.judges.sentences import split_sentences
from edgesteer.extras import needs_extra

POLES = ("easy", "hard")
THRESHOLDS = {"easy": 0.6, "hard": 0.5}
"""Flesch called 60 and more plain English, and less than 50 difficult."""


@dataclass(frozen=True)
class ReadabilityJudge:
    """The score is the Flesch reading ease (1948) over 100, cut to 0..1, and one less that for `hard`.

    A text without words is 0.
    """

    name: str
    wanted: str
    threshold: float
    accuracy: Accuracy | None = None

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self._score(text) if split_sentences(text) else 0 for text in texts], dtype=np.float64)

    def _score(self, text: str) -> float:
        ease = min(max(_reading_ease()(text) / 100, 0), 1)
        return ease if self.wanted == POLES[0] else 1 - ease


def readability_judge(name: str, wanted: str = POLES[0], threshold: float | None = None) -> ReadabilityJudge:
    """Return a judge of text that is easy, or hard, to read. Raises SuiteError for another pole."""
    check_pole(name, wanted, POLES)
    return ReadabilityJudge(name, wanted, THRESHOLDS[wanted] if threshold is None else threshold)


@cache
def _reading_ease() -> Callable[[str], float]:
    with needs_extra("eval"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports pkg_resources, which says that it will go
        from textstat import textstat  # type: ignore[import-untyped]
    ease: Callable[[str], float] = textstat.flesch_reading_ease
    return ease
