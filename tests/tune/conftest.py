"""A meter whose effects and costs are known, in place of a model and a judge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from edgesteer.controller import Controller
from edgesteer.evaluate.arm import Arm, with_unsteered
from edgesteer.evaluate.record import Record, Score
from edgesteer.evaluate.suite import Suite, SuitePrompt
from edgesteer.tune.meter import Meter

Response = Callable[[Controller, float], tuple[float, float]]
"""Effect and cost of a controller at a strength."""


class Nothing:
    """A judge that nobody asks."""

    name, accuracy, threshold = "judge", None, 0.5

    def score(self, texts: Sequence[str]) -> Any:
        raise AssertionError


SUITE = Suite("known", tuple(SuitePrompt(str(number), f"Prompt {number}") for number in range(20)), (), "judge")


@dataclass(frozen=True)
class KnownMeter(Meter):
    """Texts have the effect and the cost that the response says, and noise."""

    response: Response = field(default=lambda controller, strength: (0.0, 0.0))
    noise: float = 0.0
    broken_beyond: float = np.inf

    def measure(self, arms: Sequence[Arm], texts: int, stage: int) -> list[Record]:
        random = np.random.default_rng(stage)
        n_prompts, samples = self.grid(texts)
        return [
            self.record(arm, strength, prompt, sample, random)
            for prompt in self.suite.prompts[:n_prompts]
            for sample in range(samples)
            for arm in with_unsteered(arms)
            for strength in arm.settings
        ]

    def record(self, arm: Arm, strength: float, prompt: SuitePrompt, sample: int, random: Any) -> Record:
        effect, cost = (0.0, 0.0) if arm.controller is None else self.response(arm.controller, strength)
        effect, cost = (value + self.noise * random.normal() for value in (effect, cost))
        text = "so " * 20 if abs(strength) > self.broken_beyond else "A text with words that are all different."
        score = {"judge": Score(0, 0, 0.5 + effect)}
        return Record(arm.name, strength, prompt.id, "", sample, 0, text, 8, "end", 2 + cost, score, [])


@pytest.fixture
def known_meter() -> Callable[..., Meter]:
    """Return a function that makes a meter of a response."""
    return lambda response, **options: KnownMeter(None, SUITE, Nothing(), response=response, **options)  # type: ignore[arg-type]
