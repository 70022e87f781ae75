"""Judge by a list of words, parts of words or regular expressions: a sentence carries the concept if it holds one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import SuiteError
from edgesteer.evaluate.judges.judge import Accuracy
from edgesteer.evaluate.judges.sentences import split_sentences

ANY = 1e-6
"""A threshold that one sentence is enough for, however many there are."""
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\u0e00-\u0e7f]")
"""Japanese, Chinese and Thai are written without spaces between words."""


@dataclass(frozen=True)
class WordJudge:
    """The score is the share of sentences that match: 0 or 1 for one sentence, and the density for a text."""

    name: str
    pattern: re.Pattern[str]
    threshold: float = ANY
    accuracy: Accuracy | None = None

    def score(self, texts: Sequence[str]) -> NDArray[np.float64]:
        return np.array([self._share(text) for text in texts], dtype=np.float64)

    def _share(self, text: str) -> float:
        sentences = split_sentences(text)
        return sum(bool(self.pattern.search(straight(each))) for each in sentences) / max(1, len(sentences))


def word_judge(
    name: str, words: Sequence[str] = (), stems: Sequence[str] = (), patterns: Sequence[str] = ()
) -> WordJudge:
    """Return a judge that looks for whole words, beginnings of words and regular expressions, in any case.

    Raises SuiteError for an empty list or a regular expression that cannot be read.
    """
    if not (words or stems or patterns):
        raise SuiteError("there is nothing to look for", where=f"judge {name}", expected="words, stems or patterns")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise SuiteError(
                f"not a regular expression: {error}", where=f"judge {name}", found=repr(pattern)
            ) from error
    whole = [_bounded(word) for word in words]
    begun = [rf"{_bounded(stem, ends=False)}" for stem in stems]
    return WordJudge(name, re.compile("|".join(f"(?:{each})" for each in [*whole, *begun, *patterns]), re.IGNORECASE))


def straight(text: str) -> str:
    """Return the text with typewriter apostrophes, so that don’t is don't."""
    return text.replace("’", "'")


def _bounded(word: str, *, ends: bool = True) -> str:
    literal = re.escape(straight(word))
    if UNSPACED.search(word):
        return literal
    return rf"(?<!\w){literal}(?!\w)" if ends else rf"(?<!\w){literal}"
