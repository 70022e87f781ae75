"""Replies: pieces and generations in the shapes of OpenAI's chat and plain completions, whole or in chunks.

Pure functions of what the runtime gives; knows no HTTP and no worker.
"""

from __future__ import annotations

import codecs
import math
import secrets
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from edgesteer import __version__
from edgesteer.runtime.sampling import TokenLogprob
from edgesteer.runtime.sequence import Generation, Piece, Timings

Json = dict[str, Any]

FINISH_REASONS = {"end": "stop", "stop": "stop", "length": "length", "context": "length", "cancelled": "length"}
LEAST_LOGPROB = -9999.0
"""What OpenAI says of a token that cannot come."""


class Reply(ABC):
    """The reply to one request, whose bodies share an id. telemetry, warnings: of what is ours, `edgesteer`."""

    prefix: str
    whole: str
    part: str
    """What `object` says of a whole body and of a chunk."""

    def __init__(self, model: str, *, telemetry: bool = False, warnings: Sequence[str] = ()) -> None:
        self._telemetry = telemetry
        self._warnings = list(warnings)
        self._frame = {
            "id": f"{self.prefix}-{secrets.token_hex(12)}",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": f"edgesteer-{__version__}",
        }
        self._began: set[int] = set()

    def body(self, texts: Sequence[Generation], usage: Json) -> Json:
        """Return the whole reply."""
        choices = [
            {"index": index, **self.content(text), "finish_reason": FINISH_REASONS[text.stop_reason]}
            for index, text in enumerate(texts)
        ]
        body = {**self._frame, "object": self.whole, "choices": choices, "usage": usage}
        return {**body, "edgesteer": self._summary(texts[0])} if self._telemetry else body

    def chunks(self, index: int, piece: Piece) -> Iterator[Json]:
        """Yield the chunks that tell of a piece: none while its text is held back and nobody asked for more."""
        opening = self.opening() if index not in self._began else None
        self._began.add(index)
        if opening is not None:
            yield self._chunk(index, opening)
        if piece.text or piece.logprob or self._telemetry:
            chunk = self._chunk(index, self.delta(index, piece))
            yield {**chunk, "edgesteer": describe_piece(piece)} if self._telemetry else chunk
        if piece.result is not None:
            chunk = self._chunk(index, self.ending(), FINISH_REASONS[piece.result.stop_reason])
            yield {**chunk, "edgesteer": self._summary(piece.result)} if self._telemetry else chunk

    def usage_chunk(self, usage: Json) -> Json:
        """Return the chunk after the last choice, for those who asked for usage."""
        return {**self._frame, "object": self.part, "choices": [], "usage": usage}

    def _chunk(self, index: int, delta: Json, finish_reason: str | None = None) -> Json:
        choice = {"index": index, "logprobs": None, **delta, "finish_reason": finish_reason}
        return {**self._frame, "object": self.part, "choices": [choice]}

    def _summary(self, text: Generation) -> Json:
        return {
            "steering": as_json([asdict(report) for report in text.steering]),
            "timings": describe_timings(text.timings),
            "warnings": self._warnings,
        }

    @abstractmethod
    def content(self, text: Generation) -> Json:
        """Return a whole choice's text and log probabilities."""

    @abstractmethod
    def opening(self) -> Json | None:
        """Return what a choice's first chunk says before any text, if anything."""

    @abstractmethod
    def delta(self, index: int, piece: Piece) -> Json:
        """Return a chunk's share of the text."""

    @abstractmethod
    def ending(self) -> Json:
        """Return what goes with the finish reason."""


class ChatReply(Reply):
    prefix, whole, part = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def content(self, text: Generation) -> Json:
        logprobs = chat_logprobs(text.logprobs) if text.logprobs else None
        message = {"role": "assistant", "content": text.text, "refusal": None}
        return {"message": message, "logprobs": logprobs}

    def opening(self) -> Json:
        return {"delta": {"role": "assistant", "content": ""}}

    def delta(self, index: int, piece: Piece) -> Json:
        logprobs = chat_logprobs([piece.logprob]) if piece.logprob else None
        return {"delta": {"content": piece.text}, "logprobs": logprobs}

    def ending(self) -> Json:
        return {"delta": {}}


class TextReply(Reply):
    prefix, whole, part = "cmpl", "text_completion", "text_completion"

    def __init__(self, model: str, *, telemetry: bool = False, warnings: Sequence[str] = ()) -> None:
        super().__init__(model, telemetry=telemetry, warnings=warnings)
        self._logprobs: dict[int, TextLogprobs] = defaultdict(TextLogprobs)

    def content(self, text: Generation) -> Json:
        return {"text": text.text, "logprobs": TextLogprobs().take(text.logprobs) if text.logprobs else None}

    def opening(self) -> None:
        return None

    def delta(self, index: int, piece: Piece) -> Json:
        logprobs = self._logprobs[index].take([piece.logprob]) if piece.logprob else None
        return {"text": piece.text, "logprobs": logprobs}

    def ending(self) -> Json:
        return {"text": ""}


# ---- log probabilities ----


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> Json:
    content = [
        {**describe_logprob(token), "top_logprobs": [describe_logprob(each) for each in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def describe_logprob(token: TokenLogprob) -> Json:
    return {"token": spell(token.text), "logprob": finite(token.logprob), "bytes": list(token.text)}


class TextLogprobs:
    """The log probabilities of plain completions, for the tokens of one text in turn; keeps their place in the text."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0

    def take(self, tokens: Sequence[TokenLogprob]) -> Json:
        offsets = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._decoder.decode(token.text))
        return {
            "tokens": [spell(token.text) for token in tokens],
            "token_logprobs": [finite(token.logprob) for token in tokens],
            "top_logprobs": [{spell(each.text): finite(each.logprob) for each in token.top} for token in tokens],
            "text_offset": offsets,
        }


def spell(data: bytes) -> str:
    """Return a token's text; bytes that are no whole characters are spelt as OpenAI does, `bytes:\\xe2\\x82`."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


# ---- what is ours ----


def describe_piece(piece: Piece) -> Json:
    readings = {name: asdict(reading) for name, reading in piece.readings.items()}
    return {"text": piece.text, "token": piece.token, **({"readings": as_json(readings)} if readings else {})}


def describe_timings(timings: Timings) -> Json:
    return {
        **asdict(timings),
        "prompt_per_second": timings.prompt_per_second,
        "predicted_per_second": timings.predicted_per_second,
    }


def as_json(value: Any) -> Any:
    """Return a value with null for the numbers that JSON does not have."""
    if isinstance(value, dict):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [as_json(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# ---- usage ----


def usage_of(texts: Sequence[Generation], per_prompt: int) -> Json:
    """Return the tokens of some texts, of which so many belong to each prompt; a prompt counts once."""
    firsts = [text.timings for text in texts[::per_prompt]]
    prompt, generated = sum(each.prompt_n for each in firsts), sum(len(text.tokens) for text in texts)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": generated,
        "total_tokens": prompt + generated,
        "prompt_tokens_details": {"cached_tokens": sum(each.cache_n for each in firsts)},
    }
