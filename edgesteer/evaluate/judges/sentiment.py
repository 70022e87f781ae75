"""Judge of sentiment by VADER, a lexicon with rules for English (Hutto and Gilbert 2014)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate.judges.judge import Accuracy
from edgesteer.evaluate.judges.poles import check_pole
from edgesteer.extras import needs_extra

POLES = ("positive", "negative")
THRESHOLD = 0.525
"""VADER's authors call a text positive from a compound score of 0.05 on."""


@dataclass(frozen=True)
class SentimentJudge:
    """The score is VADER's compound score moved from -1..1 to 0..1; 0.5 is neutral. Turned around for `negative`."""

    name: str
    wanted: str
    threshold: float
    accuracy: Accuracy | None = None

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        sign = 1 if self.wanted == POLES[0] else -1
        scores = [_analyzer()(text)["compound"] for text in texts]
        return 0.5 + sign * np.array(scores, dtype=np.float64) / 2


def sentiment_judge(name: str, wanted: str = POLES[0], threshold: float = THRESHOLD) -> SentimentJudge:
    """Return a judge of positive or of negative sentiment. Raises SuiteError for another pole."""
    check_pole(name, wanted, POLES)
    return SentimentJudge(name, wanted, threshold)


@cache
def _analyzer() -> Callable[[str], Any]:
    with needs_extra("eval"):
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer  # type: ignore[import-untyped]
    scores: Callable[[str], Any] = SentimentIntensityAnalyzer().polarity_scores
    return scores
