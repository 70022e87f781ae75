"""What a text cost that can be read off the text itself: variety, repetition, length; and which texts are broken.

Words are runs of letters and digits, and single characters in scripts that put no spaces between words. Knows no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

SPACELESS = r"\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
WORD = re.compile(rf"[{SPACELESS}]|[^\W{SPACELESS}]+")
REPEATED = 4
"""Words of the n-grams whose repetition is counted."""

MOST_REPETITION = 0.5
LEAST_DISTINCT = 0.3
MOST_NATS = 2.0
"""Beyond any of these a text is broken; nats are per token, above the mean of the unsteered texts."""


def words(text: str) -> list[str]:
    """Return the words of a text in lower case."""
    return WORD.findall(text.lower())


def distinct(text: str, n: int) -> float:
    """Return the share of a text's n-grams that are different: distinct-n of Li et al. 2016; 1 where there are none."""
    found = ngrams(words(text), n)
    return len(set(found)) / len(found) if found else 1.0


def repetition(text: str) -> float:
    """Return the share of a text's 4-grams that came before in it."""
    return 1 - distinct(text, REPEATED)


def ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return list(zip(*(tokens[start:] for start in range(n)), strict=False))


def is_broken(text: str, nll: float, unsteered_nll: float) -> bool:
    """Whether a text repeats itself, hardly varies, or is far less likely than unsteered ones.

    nll, unsteered_nll: nats per token; nan is no sign of anything.
    """
    worn = repetition(text) > MOST_REPETITION or distinct(text, 1) < LEAST_DISTINCT
    return worn or nll - unsteered_nll > MOST_NATS
