"""Which tokens a text of a contrast set becomes, whoever tokenizes it: PyTorch's exporter or llama.cpp on the device.

Knows no tokenizer; `encode` is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from typing import NamedTuple, Protocol

import numpy as np

from edgesteer.chat import ChatTemplate
from edgesteer.concept import Example
from edgesteer.control.activations import Activations
from edgesteer.errors import ConceptError


class ExampleTokens(NamedTuple):
    """Token ids of one text; the completion is the part whose activations count."""

    tokens: list[int]
    completion_start: int
    words: slice
    """The user's own words in the prompt, without the chat template around them."""


def tokenize_example(
    example: Example, chat: ChatTemplate, bos: int | None, encode: Callable[[str], list[int]]
) -> ExampleTokens:
    """Return the tokens of a chat turn and its answer, or of a plain text when the prompt is empty.

    Prompt and completion are tokenized apart, because that is where generation starts. The very first token of a
    sequence never counts as completion: it reads far from all others, whatever it is.

    bos: the token that goes before every text; None: none does. encode: from a text to its tokens alone.
    """
    before, prompt, after, completion = "", example.prompt, "", example.completion
    if prompt and chat.source is not None:
        before, prompt, after = chat.render_turn(prompt, example.system)
    elif prompt:
        completion = f" {completion}"  # belongs to the next word's token
    first = [] if bos is None else [bos]
    head = first + encode(before + prompt + after)
    words = slice(len(first + encode(before)), len(head) - len(encode(after)))
    return ExampleTokens(head + encode(completion), max(1, len(head)), words)


class Tokenized(Protocol):
    """ExampleTokens, whatever holds the tokens."""

    @property
    def tokens(self) -> Sized: ...

    @property
    def completion_start(self) -> int: ...

    @property
    def words(self) -> slice: ...


def completion_rows(text: Tokenized) -> slice:
    return slice(text.completion_start, len(text.tokens))


def neutral_rows(text: Tokenized) -> slice:
    """Return the rows that a neutral text is read at: the user's words, and all that follows."""
    return slice(text.words.start, len(text.tokens))


def neutral_parts(neutral: Activations, texts: Sequence[Tokenized]) -> tuple[Activations, Activations]:
    """Return the activations of the completions, and of the words of the prompts, out of those at neutral_rows."""
    starts, ends = np.transpose([(text.completion_start, text.words.stop) for text in texts])[:, neutral.text]
    return neutral.where(neutral.position >= starts), neutral.where(neutral.position < ends)


def check_completions(examples: Sequence[Example], texts: Sequence[Tokenized]) -> None:
    """Raise ConceptError unless every text has a completion to read."""
    for example, text in zip(examples, texts, strict=True):
        if text.completion_start >= len(text.tokens):
            raise ConceptError("a completion has no tokens", found=repr(example.completion))
