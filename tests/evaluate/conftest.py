"""Records made by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from edgesteer.evaluate.record import Record, Score


def record(
    arm: str = "none",
    strength: float = 0.0,
    prompt: str = "p",
    *,
    sample: int = 0,
    group: str = "",
    text: str = "Some text.",
    nll: float = 2.0,
    steering: list[dict[str, Any]] | None = None,
    **scores: float,
) -> Record:
    """Return a record; each judge's three scores are the same number."""
    return Record(
        arm=arm,
        strength=strength,
        prompt=prompt,
        group=group,
        sample=sample,
        seed=sample,
        text=text,
        tokens=len(text.split()),
        stop_reason="end",
        nll=nll,
        scores={judge: Score(value, value, value) for judge, value in scores.items()},
        steering=steering or [],
    )


@pytest.fixture(scope="session")
def make_record() -> Callable[..., Record]:
    return record
