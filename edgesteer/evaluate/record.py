"""Record: one generation as the lab keeps it, and the line of results.jsonl that holds it. Knows no files."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

EXACT = 17
"""Significant digits that tell every two numbers apart."""

Key = tuple[str, float, str, int]


@dataclass(frozen=True)
class Score:
    """What one judge found in one text; all three are in 0..1."""

    presence: float
    """1 if any sentence of the text carries the concept, else 0."""
    density: float
    """Share of the sentences that carry it."""
    mean: float
    """The judge's score of the whole text."""


@dataclass(frozen=True)
class Record:
    """One generation."""

    arm: str
    """Name of the way of steering: lqr, static, decay, system-prompt, none ..."""
    strength: float
    """Of the dial; 0 for arms without one."""
    prompt: str
    """The prompt's id in the suite."""
    group: str
    """The prompt's group in the suite, or ""."""
    sample: int
    """Which sample of this prompt."""
    seed: int
    """The same for all arms and strengths, so that they are paired."""
    text: str
    tokens: int
    stop_reason: str
    nll: float
    """Mean -log p per token under the unsteered model given the same prompt without system text, in nats; nan for a
    text without tokens."""
    scores: dict[str, Score]
    """By the judge's name."""
    steering: list[dict[str, Any]]
    """Each steering report as JSON; empty when unsteered."""

    @property
    def key(self) -> Key:
        """What tells this generation from all others of a run."""
        return self.arm, self.strength, self.prompt, self.sample

    def to_line(self) -> str:
        """Return the record as one line of JSON, in which nan is null."""
        return json.dumps(plain(asdict(self)), ensure_ascii=False, allow_nan=False)

    @staticmethod
    def from_line(line: str) -> Record:
        """Return the record of a line. Raises ValueError when it is none."""
        try:
            values = json.loads(line)
            scores = {name: Score(**score) for name, score in values.pop("scores").items()}
            nll = math.nan if values["nll"] is None else values.pop("nll")
            return Record(**{**values, "nll": nll}, scores=scores)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError("not a record") from error


def plain(value: Any, digits: int = EXACT) -> Any:
    """Return a value whose numbers have so many significant digits, with null in place of those that are not finite."""
    if isinstance(value, Mapping):
        return {key: plain(each, digits) for key, each in value.items()}
    if isinstance(value, list):
        return [plain(each, digits) for each in value]
    if not isinstance(value, float):
        return value
    return float(f"{value:.{digits}g}") if math.isfinite(value) else None
