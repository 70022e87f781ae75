"""Judge: what every way of judging texts offers, and Score out of it. Knows no kind of judge and no files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate.judges.sentences import split_sentences
from edgesteer.evaluate.record import Score


@dataclass(frozen=True)
class Accuracy:
    """How often a judge is right on labelled texts that it was not made from."""

    value: float
    """Share of the texts that it judges right."""
    low: float
    high: float
    """The 95 percent Wilson interval of that share."""
    n: int
    """Number of texts."""
    chance: float
    """What the commonest label alone would get right."""

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}] right of {self.n} (chance {self.chance:.3f})"


class Judge(Protocol):
    """Says of texts how much they carry one concept."""

    @property
    def name(self) -> str: ...

    @property
    def accuracy(self) -> Accuracy | None:
        """On held-out labels; None when nobody measured it."""

    @property
    def threshold(self) -> float:
        """A sentence, or text, carries the concept from this score on."""

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Return the score of each text, (n,) in 0..1. It depends on this text alone, never on its neighbours."""


def judge_text(judge: Judge, texts: Sequence[str]) -> list[Score]:
    """Return what the judge finds in each text: in any sentence, in which share of them, and in the whole.

    A text without a sentence carries nothing.
    """
    sentences = [split_sentences(text) for text in texts]
    judged = [text for text, found in zip(texts, sentences, strict=True) if found]
    wholes = iter(judge.score(judged).tolist())
    verdicts = iter((judge.score([each for found in sentences for each in found]) >= judge.threshold).tolist())
    return [_score([next(verdicts) for _ in found], next(wholes)) if found else Score(0, 0, 0) for found in sentences]


def _score(verdicts: list[bool], mean: float) -> Score:
    return Score(presence=float(any(verdicts)), density=sum(verdicts) / len(verdicts), mean=mean)
