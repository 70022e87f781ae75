"""Steering steers: the built-in concept `ocean` on SmolLM2, judged by a word list that no probe has seen.

Unsteered answers to the questions below hardly mention the sea, those to questions about it do; strength moves both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import bootstrap

from edgesteer.chat import conversation
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.generate import TextStream
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Steering, chat_prompt, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.sidecar import read_sidecar

pytestmark = [pytest.mark.torch, pytest.mark.llama, pytest.mark.slow]

LENGTH = 40

FAR = (
    "What should I do this weekend?",
    "Tell me a short story.",
    "Describe your favourite place.",
    "What is a good gift for a friend?",
    "Write a few lines about happiness.",
    "How can I become more creative?",
    "What do you dream about?",
    "Recommend a book to me.",
    "What makes a day perfect?",
    "Describe a painting that you like.",
    "How should I spend my holiday?",
    "Tell me about a memorable meal.",
    "What would you do with a million dollars?",
    "Invent a character for a novel.",
    "What is the best way to start a morning?",
    "Describe the view from a window.",
    "Give me an idea for a birthday party.",
    "What does freedom feel like?",
    "Write a short letter to a friend.",
    "What should a child learn first?",
)
"""Questions with nothing of the sea in them; none is in the concept file or among the neutral texts."""

ON = (
    "What lives at the bottom of the ocean?",
    "Describe a day at the beach.",
    "How do sailors find their way at sea?",
    "Why is the sea salty?",
    "What do whales eat?",
    "Tell me about coral reefs.",
    "What causes the tides?",
    "Write a few lines about waves.",
    "How does a ship float?",
    "What is it like to live on an island?",
)
"""Questions about the sea."""

FAR_BEGINNINGS = (
    "The train was late again, so",
    "After lunch my aunt told us that",
    "The new library in our street",
    "In the evening he likes to",
    "Our neighbours have painted their house, and",
    "The best cook I know",
    "When the lesson was over, the teacher",
    "My first job was in a shop where",
    "The winter was long, and the farmers",
    "She opened the old box and found",
)
ON_BEGINNINGS = (
    "The tide came in, and the boats in the harbour",
    "Whales sing in the deep ocean because",
    "The sailors saw the coast, and the captain",
    "We swam in the sea until the waves",
    "Along the beach the gulls and crabs",
    "The island's fishermen mend their nets and",
    "Salt water and waves have shaped the cliffs, and the shore",
    "Sharks and dolphins live in the ocean, where",
    "The lighthouse stands above the bay, and ships",
    "Under the surface of the sea, coral reefs",
)
"""Beginnings of a text, to be continued without a chat template."""

AsPrompt = Callable[[LlamaModel, str], Prompt]


def as_question(model: LlamaModel, text: str) -> Prompt:
    return chat_prompt(model, conversation(text))


@dataclass(frozen=True)
class Judged:
    """What the model wrote for the same prompts at one strength; one entry a prompt."""

    presence: NDArray[np.float64]
    """Share of its words that are in the word list, in percent."""
    nats: NDArray[np.float64]
    """Negative log likelihood per token under the model without steering."""


class Judge:
    """Generates under a strength, and judges without it."""

    def __init__(self, model: LlamaModel, sidecar: Path, as_prompt: AsPrompt) -> None:
        (controller,) = read_sidecar(sidecar).controllers.values()
        lines = (Path(__file__).parents[1] / "data" / "lexicon_ocean.txt").read_text("utf-8").splitlines()
        self._name, self._lexicon = controller.name, frozenset(line for line in lines if not line.startswith("#"))
        self._as_prompt = as_prompt
        self._steered = Engine(model, [controller], context_tokens=512)
        self._plain = Engine(model, context_tokens=512)
        self._known: dict[tuple[Sequence[str], float], Judged] = {}

    def close(self) -> None:
        self._steered.close()
        self._plain.close()

    def judge(self, questions: Sequence[str], strength: float) -> Judged:
        key = questions, strength
        if key not in self._known:
            answers = [self._answer(question, strength, seed) for seed, question in enumerate(questions)]
            self._known[key] = Judged(*(np.array(column) for column in zip(*answers, strict=True)))
        return self._known[key]

    def _answer(self, question: str, strength: float, seed: int) -> tuple[float, float]:
        prompt = self._as_prompt(self._steered.model, question)
        steering = [Steering(self._name, strength)]
        result = TextStream(self._steered, prompt, steering, Sampling(seed=seed), LENGTH).run()
        words = re.findall(r"[a-z]+", result.text.lower())
        return 100 * float(np.mean([word in self._lexicon for word in words])), self._nats(prompt.tokens, result.tokens)

    def _nats(self, prompt: list[int], answer: list[int]) -> float:
        tokens = prompt + answer[:-1]
        wanted = [row >= len(prompt) - 1 for row in range(len(tokens))]
        self._plain.forget()
        self._plain.decode(tokens, range(len(tokens)), wanted)
        logits = np.stack([self._plain.logits(row) for row in np.flatnonzero(wanted)]).astype(np.float64)
        chosen = logits[np.arange(len(answer)), answer]
        return float(np.mean(np.logaddexp.reduce(logits, axis=1) - chosen))


@pytest.fixture(scope="module")
def judge(smollm2_llama: LlamaModel, smollm2_sidecar: Path) -> Iterator[Judge]:
    judge = Judge(smollm2_llama, smollm2_sidecar, as_question)
    yield judge
    judge.close()


@pytest.fixture(scope="module")
def scheduled(smollm2_llama: LlamaModel, smollm2_laws: dict[str, Path]) -> Iterator[Judge]:
    judge = Judge(smollm2_llama, smollm2_laws["scheduled"], plain_prompt)
    yield judge
    judge.close()


def interval(differences: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the mean difference over questions."""
    found = bootstrap((differences,), np.mean, rng=np.random.default_rng(0), method="percentile")
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def test_strength_brings_the_concept_in_at_a_small_cost(judge: Judge) -> None:
    """Measured: the share of words rises from 0.0 % to 2.5 % (interval of the rise 1.5 to 3.5), in 12 of 20 answers,
    for 0.34 nats a token (0.20 to 0.48).
    """
    plain, steered = judge.judge(FAR, 0.0), judge.judge(FAR, 1.0)
    low, _ = interval(steered.presence - plain.presence)
    assert low > 0
    assert steered.nats.mean() - plain.nats.mean() < 0.8


def test_negative_strength_takes_the_concept_out(judge: Judge) -> None:
    """Measured: the share of words falls from 5.4 % to 0.3 % (interval of the fall 3.2 to 7.2), for 1.0 nats."""
    plain, steered = judge.judge(ON, 0.0), judge.judge(ON, -1.0)
    _, high = interval(steered.presence - plain.presence)
    assert high < 0
    assert steered.nats.mean() - plain.nats.mean() < 1.8


def test_text_that_is_on_target_is_left_alone(judge: Judge) -> None:
    """What the loop across tokens is for. Measured: 0.00 nats a token (-0.12 to 0.12) for 0.34 where the sea is far."""
    cost = {questions: judge.judge(questions, 1.0).nats - judge.judge(questions, 0.0).nats for questions in (FAR, ON)}
    assert cost[ON].mean() < 0.2
    assert cost[ON].mean() < cost[FAR].mean()


def test_a_scheduled_gain_brings_the_concept_in_and_leaves_beginnings_on_target_alone(scheduled: Judge) -> None:
    """Measured: the share of words rises from 1.5 % to 6.5 % (interval of the rise 1.8 to 8.5) for 0.13 nats a token
    (-0.12 to 0.36); beginnings that are about the sea pay -0.05 nats (-0.38 to 0.25).
    """
    far, on = (
        [scheduled.judge(beginnings, strength) for strength in (0.0, 1.0)]
        for beginnings in (FAR_BEGINNINGS, ON_BEGINNINGS)
    )
    low, _ = interval(far[1].presence - far[0].presence)
    assert low > 0
    assert (far[1].nats - far[0].nats).mean() < 0.5
    assert (on[1].nats - on[0].nats).mean() < 0.2
