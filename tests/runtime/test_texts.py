"""Given texts in llama.cpp: the exporter's tokens, and what PyTorch computes of the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from edgesteer.concept import Example
from edgesteer.controller import LAWS, Command, Controller
from edgesteer.export.activations import collect_activations, next_token_entropies
from edgesteer.export.calibrate import TorchTexts
from edgesteer.export.weights import LoadedModel
from edgesteer.runtime import texts as module
from edgesteer.runtime.texts import LlamaTexts, TextReader
from edgesteer.tokens import completion_rows, neutral_rows

pytestmark = pytest.mark.torch

EXAMPLES = [
    Example("What about the boats?", "There are boats in the house of a friend."),
    Example("And the other?", "In the tin there is one."),
    Example("", "The thin one runs on and on."),
    Example("Where is it?", "Here.", system="Be brief."),
]


@pytest.fixture
def reader(tiny_model: Any) -> Iterator[TextReader]:
    with TextReader(tiny_model.gguf, threads=1) as reader:
        yield reader


def assert_same_tokens(reader: TextReader, model: LoadedModel, example: Example) -> None:
    ours, theirs = reader.tokenize(example), model.tokenize(example)
    assert ours.tokens == theirs.tokens.tolist()
    assert (ours.completion_start, ours.words) == (theirs.completion_start, theirs.words)


@pytest.mark.parametrize("example", EXAMPLES)
@pytest.mark.parametrize("changes", [{}, {"adds_bos": True}, {"source": None}])
def test_tokens_are_the_exporters(
    reader: TextReader, tiny_torch: LoadedModel, example: Example, changes: dict[str, Any]
) -> None:
    reader.model.chat = replace(reader.model.chat, **changes)
    assert_same_tokens(reader, replace(tiny_torch, chat=replace(tiny_torch.chat, **changes)), example)


@pytest.mark.parametrize("rows", [completion_rows, neutral_rows])
@pytest.mark.parametrize("batch_tokens", [128, 16])
def test_residual_stream_and_entropies_are_pytorchs(
    reader: TextReader,
    tiny_torch: LoadedModel,
    monkeypatch: pytest.MonkeyPatch,
    rows: Callable[[Any], slice],
    batch_tokens: int,
) -> None:
    """Whether a text is one decode or several."""
    monkeypatch.setattr(module, "BATCH_TOKENS", batch_tokens)
    steps: list[None] = []
    texts = [reader.tokenize(each) for each in EXAMPLES]
    ours, entropies = reader.activations(texts, rows, lambda: steps.append(None))
    tokenized = [tiny_torch.tokenize(each) for each in EXAMPLES]
    theirs = collect_activations(tiny_torch, tokenized, rows=rows)
    np.testing.assert_allclose(entropies, next_token_entropies(tiny_torch, tokenized, theirs), rtol=5e-3)
    np.testing.assert_array_equal(ours.text, theirs.text)
    np.testing.assert_array_equal(ours.position, theirs.position)
    for boundary in range(5):
        expected = theirs.at(boundary)
        assert np.abs(ours.at(boundary) - expected).max() < 0.01 * np.abs(expected).max()  # keys and values are F16
    assert len(steps) == len(EXAMPLES)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("batch_tokens", [128, 16])
def test_steered_text_is_pytorchs(
    reader: TextReader,
    tiny_torch: LoadedModel,
    make_controller: Callable[..., Controller],
    monkeypatch: pytest.MonkeyPatch,
    law: str,
    batch_tokens: int,
) -> None:
    monkeypatch.setattr(module, "BATCH_TOKENS", batch_tokens)
    controller = make_controller(4, 32, law=law, blocks=(0, 1, 3), size=0.2)
    texts = [reader.tokenize(each) for each in EXAMPLES]
    theirs = TorchTexts(tiny_torch, [tiny_torch.tokenize(each) for each in EXAMPLES])
    with reader.engine(texts) as engine:
        ours = LlamaTexts(engine, texts)
        assert len(ours) == len(EXAMPLES)
        for command in (Command(1.0, 0.5, "hold"), Command(-1.0, 1.0, "ceiling"), Command(0.0, 0.0, "hold")):
            for a, b in zip(ours.steered(controller, command), theirs.steered(controller, command), strict=True):
                for name in ("logits", "control", "sensor"):
                    found, expected = getattr(a, name), getattr(b, name)
                    assert found.shape == expected.shape
                    assert np.abs(found - expected).max() <= 0.02 * np.abs(expected).max() + 1e-6


def test_controllers_take_turns(reader: TextReader, make_controller: Callable[..., Controller]) -> None:
    """The calibration changes a controller's dial between runs; the last one steers."""
    texts = [reader.tokenize(EXAMPLES[0])]
    first, second = (make_controller(4, 32, seed=seed) for seed in (0, 1))
    command = Command(1.0, 1.0, "hold")
    with reader.engine(texts) as engine:
        runs = LlamaTexts(engine, texts)
        controls = [next(runs.steered(each, command)).control for each in (first, second, first)]
    np.testing.assert_array_equal(controls[0], controls[2])
    assert not np.allclose(controls[0], controls[1])
