"""Request: what is asked of the engine: a prompt's tokens, what steers them, how to sample, and where to end.

Plain data and its checks; knows no context and no batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgesteer.chat import Message
from edgesteer.errors import EngineError, SteeringError
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.sampling import Sampling

ROWS = ("last", "all", "generated", "none")
LOOPS = ("closed", "open", "decay")


@dataclass(frozen=True)
class Steering:
    """What a request asks of one controller.

    strength: the dial; 0 = off, 1 = the calibrated setting. mode: None = the controller's own.
    rows: which rows of the batch are steered. `last`: the prompt's last token and every generated one; `all`: the whole
    prompt too; `generated`: as `last`, and tokens of earlier answers when they are prefilled again; `none`: none, alpha
    is measured only.
    loop: across tokens, `closed` (outer loop, if the controller has a sensor), `open` or `decay` (with decay_tokens).
    """

    controller: str
    strength: float
    mode: str | None = None
    rows: str = "last"
    loop: str = "closed"
    decay_tokens: float = 8.0

    def __post_init__(self) -> None:
        for value, allowed, what in ((self.rows, ROWS, "rows"), (self.loop, LOOPS, "loop")):
            if value not in allowed:
                raise SteeringError(
                    f"unknown {what}", where=self.controller, expected=" or ".join(allowed), found=value
                )
        if not self.decay_tokens > 0:
            raise SteeringError("decay must be positive", where=self.controller, found=self.decay_tokens)


@dataclass(frozen=True)
class Prompt:
    """Tokens of a prompt. content: which of them are the user's own words (they start the outer loop's mean).

    generated: which of them the model wrote in an earlier turn. continued: the text goes on with those words, rather
    than answering them.
    """

    tokens: list[int]
    content: NDArray[np.bool_]
    generated: NDArray[np.bool_]
    continued: bool = False


@dataclass(frozen=True)
class Request:
    """One text to generate.

    max_tokens: None = until the model ends the text or its share of the context is full. stop: strings that end the
    text. logprobs: None = none; k = each token's log probability, and the k most likely tokens at its place.
    forced: the tokens of the text, to be scored in place of sampling them; the steering acts as it would while
    generating them. All of them are taken, whatever they are, and each has its log probability.
    Raises EngineError when there is no prompt or no token to generate, or when forced tokens are to end early.
    """

    prompt: Prompt
    steering: Sequence[Steering] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int | None = None
    stop: Sequence[str] = ()
    logprobs: int | None = None
    forced: Sequence[int] | None = None

    def __post_init__(self) -> None:
        if not self.prompt.tokens:
            raise EngineError("the prompt is empty", remedy="Give at least one token.")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise EngineError("no tokens are asked for", expected="at least 1", found=self.max_tokens)
        if self.forced is not None:
            self._check_forced(self.forced)

    def _check_forced(self, tokens: Sequence[int]) -> None:
        if not tokens:
            raise EngineError("no tokens are forced", expected="at least 1")
        if self.max_tokens is not None or self.stop or self.sampling.grammar:
            raise EngineError("forced tokens end by themselves", remedy="Leave out max_tokens, stop and grammar.")

    @property
    def length(self) -> int | None:
        """Most tokens to generate, or as many as are forced; None: as long as there is room."""
        return self.max_tokens if self.forced is None else len(self.forced)

    @property
    def n_likeliest(self) -> int | None:
        """How many likely tokens to give with each token's log probability; None: no log probabilities."""
        return 0 if self.logprobs is None and self.forced is not None else self.logprobs


def plain_prompt(model: LlamaModel, text: str) -> Prompt:
    """Return the prompt of a text that the model continues, without a chat template."""
    return continued_prompt(model.tokenize(text))


def continued_prompt(tokens: list[int]) -> Prompt:
    """Return the prompt of tokens that the model continues."""
    content = np.arange(len(tokens)) > 0  # the first token reads far from all others, whatever it is
    return Prompt(tokens, content, np.zeros(len(tokens), dtype=bool), continued=True)


def chat_prompt(model: LlamaModel, messages: Sequence[Message]) -> Prompt:
    """Return the prompt of a conversation in the model's chat template.

    messages: dicts with keys role and content. The content is the last user message. Raises ModelError as
    ChatTemplate.render does.
    """
    text, spans = model.chat.render_spans(messages)
    tokens = model.tokenize(text)
    starts = token_starts(model, tokens, text)
    content, generated = np.zeros(len(tokens), dtype=bool), np.zeros(len(tokens), dtype=bool)
    users = [span for message, span in zip(messages, spans, strict=True) if message["role"] == "user"]
    answers = [span for message, span in zip(messages, spans, strict=True) if message["role"] == "assistant"]
    for mask, found in ((content, users[-1:]), (generated, answers)):
        for start, end in found:
            mask[np.searchsorted(starts, start) : np.searchsorted(starts, end)] = True
    return Prompt(tokens, content, generated)


def token_starts(model: LlamaModel, tokens: Sequence[int], text: str) -> NDArray[np.intp]:
    """Return the index of the character in the text with which each token begins: (tokens,).

    A token that begins within a character counts as beginning with it; what a tokenizer puts before the text (BOS, a
    space) begins at 0.
    """
    data = text.encode()
    sizes = np.array([len(model.piece(token, special=True)) for token in tokens])
    ends = np.cumsum(sizes) - (sizes.sum() - len(data))
    characters = np.cumsum(np.frombuffer(data, np.uint8) & 0xC0 != 0x80) - 1
    starts: NDArray[np.intp] = np.append(characters, len(text))[np.clip(ends - sizes, 0, len(data))]
    return starts
