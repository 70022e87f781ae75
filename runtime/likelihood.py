"""Log likelihoods of given texts: what the model held of every token, from the tokens before it.

A text that is longer than a window is scored in windows that overlap, each token once. Nothing is sampled and nothing
is steered.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EngineError
from edgesteer.runtime.engine import Engine

LOGIT_BYTES = 1 << 27
"""Of one decode: llama.cpp keeps the logits of all its rows, and a row of a large vocabulary has a megabyte."""

Array = NDArray[np.float64]
Check = Callable[[], None]


@dataclass(frozen=True)
class Window:
    """Tokens start .. stop - 1 of a text, of which scored .. stop - 1 are scored.

    with_bos: the text's first token stands before them; many models read nothing well without it.
    """

    text: int
    start: int
    scored: int
    stop: int
    with_bos: bool = False

    @property
    def n_rows(self) -> int:
        """Tokens to decode: the last one only has to be scored."""
        return self.with_bos + self.stop - 1 - self.start


@dataclass(frozen=True)
class Row:
    """One row of a batch, and the token after it if that is to be scored."""

    sequence: int
    position: int
    token: int
    text: int
    following: int | None
    """Its place in the text."""


def negative_log_likelihood(
    engine: Engine, tokens: Sequence[int], *, window: int | None = None, check: Check = lambda: None
) -> Array:
    """Return -log p of every token of a text but the first, in nats: (len(tokens) - 1,). See log_likelihoods."""
    return -log_likelihoods(engine, [tokens], window=window, check=check)[0]


def log_likelihoods(
    engine: Engine, texts: Sequence[Sequence[int]], *, window: int | None = None, check: Check = lambda: None
) -> list[Array]:
    """Return the log probability of every token of each text but the first, in nats: one (len(text) - 1,) a text.

    window: most tokens that are read together; the engine's context by default. In a longer text, every token after the
    first window has at least window // 2 - 1 tokens before it, and BOS if the text begins with it. As many windows as
    the engine has sequences and cells for are decoded at once. check: called before every decode; what it raises ends
    the work. The engine's KV cache is empty afterwards, so no batch may be at work in it.

    Raises EngineError for a window that is too small or does not fit the context, for tokens that the model does not
    have, and what Engine.decode raises.
    """
    size = engine.context_tokens if window is None else window
    if not 4 <= size <= engine.context_tokens:
        raise EngineError("wrong window", expected=f"4 to {engine.context_tokens} tokens", found=size)
    for text in texts:
        engine.model.check_tokens(text)
    bos = llama_cpp.llama_vocab_bos(engine.model.vocabulary)
    windows = [
        each
        for number, text in enumerate(texts)
        for each in windows_of(number, len(text), size, has_bos=len(text) > 0 and text[0] == bos)
    ]
    scores = [np.full(max(0, len(text) - 1), math.nan) for text in texts]
    _forget_all(engine)
    try:
        for group in groups_of(windows, engine.n_sequences, engine.context_tokens):
            _score(engine, list(rows_of(group, texts)), texts, scores, check)
            _forget_all(engine)
    finally:
        _forget_all(engine)
    return scores


def continuation_log_likelihoods(
    engine: Engine, prompt: Sequence[int], continuations: Sequence[Sequence[int]], *, check: Check = lambda: None
) -> list[Array]:
    """Return the log probability of every token of some continuations of one prompt, in nats: one (len,) each.

    The prompt is decoded once, and each continuation after it alone, so that no neighbour moves its digits. check: as
    in log_likelihoods, and so is the KV cache afterwards. Raises EngineError for an empty prompt, for tokens that the
    model does not have, and what Engine.decode raises.
    """
    if not prompt:
        raise EngineError("the prompt is empty", remedy="Give at least one token.")
    for text in (prompt, *continuations):
        engine.model.check_tokens(text)
    start = len(prompt) - 1
    _forget_all(engine)
    try:
        _decode_all(engine, prompt[:-1], 0, wanted=[None] * start, check=check)
        scores = []
        for text in continuations:
            scores.append(_decode_all(engine, [prompt[-1], *text[:-1]][: len(text)], start, wanted=text, check=check))
            engine.forget(0, start)
        return scores
    finally:
        _forget_all(engine)


def _decode_all(
    engine: Engine, tokens: Sequence[int], position: int, *, wanted: Sequence[int | None], check: Check
) -> Array:
    """Decode tokens in sequence 0; return the log probability of the one wanted after each, (len,), nan for None."""
    scores = np.full(len(tokens), math.nan)
    size = rows_with_logits(engine)
    for first in range(0, len(tokens), size):
        check()
        part = range(first, min(first + size, len(tokens)))
        outputs = [wanted[each] is not None for each in part]
        engine.decode([tokens[each] for each in part], [position + each for each in part], outputs)
        for row, each in enumerate(part):
            if (token := wanted[each]) is not None:
                scores[each] = log_probability(engine.logits(row), token)
    return scores


def windows_of(text: int, length: int, size: int, *, has_bos: bool = False) -> Iterator[Window]:
    """Yield windows that hold at most `size` tokens and score tokens 1 .. length - 1 once each."""
    stop = min(length, size)
    if length > 1:
        yield Window(text, 0, 1, stop)
    room = size - has_bos
    while stop < length:
        scored = stop
        start = scored - room // 2
        stop = min(length, start + room)
        yield Window(text, start, scored, stop, has_bos)


def groups_of(windows: Sequence[Window], n_sequences: int, cells: int) -> Iterator[list[Window]]:
    """Yield runs of windows that fit in so many sequences and cells together."""
    group: list[Window] = []
    for window in windows:
        held = sum(each.n_rows for each in group)
        if group and (len(group) == n_sequences or held + window.n_rows > cells):
            yield group
            group = []
        group.append(window)
    if group:
        yield group


def rows_of(group: Sequence[Window], texts: Sequence[Sequence[int]]) -> Iterator[Row]:
    """Yield the rows of windows, each a sequence of its own."""
    for sequence, window in enumerate(group):
        text = texts[window.text]
        if window.with_bos:
            yield Row(sequence, 0, text[0], window.text, None)
        for position, at in enumerate(range(window.start, window.stop - 1), window.with_bos):
            yield Row(sequence, position, text[at], window.text, at + 1 if at + 1 >= window.scored else None)


def _score(engine: Engine, rows: list[Row], texts: Sequence[Sequence[int]], scores: list[Array], check: Check) -> None:
    """Decode rows, and fill in the scores that they give."""
    most = rows_with_logits(engine)
    for first in range(0, len(rows), most):
        check()
        part = rows[first : first + most]
        engine.decode(
            [row.token for row in part],
            [row.position for row in part],
            [row.following is not None for row in part],
            sequences=[row.sequence for row in part],
        )
        for number, row in enumerate(part):
            if row.following is not None:
                token = texts[row.text][row.following]
                scores[row.text][row.following - 1] = log_probability(engine.logits(number), token)


def rows_with_logits(engine: Engine) -> int:
    """Return how many rows of one decode may ask for logits."""
    return max(1, min(engine.batch_tokens, LOGIT_BYTES // (4 * engine.model.n_tokens)))


def log_probability(logits: NDArray[np.float32], token: int) -> float:
    """Return the log of a token's softmax. logits: (vocabulary,)."""
    highest = logits.max()
    return float(logits[token] - highest) - math.log(np.exp(logits - highest).sum(dtype=np.float64))


def _forget_all(engine: Engine) -> None:
    for sequence in range(engine.n_sequences):
        engine.forget(sequence)
