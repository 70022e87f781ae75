"""Sequence: one request while it runs: its tokens, how each row is steered, its sampler, and the text so far.

Knows no other sequence and no KV cache; the batch tells it which of its rows were decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgesteer.runtime.engine import Commands, Engine
from edgesteer.runtime.hook import OFF, STEER
from edgesteer.runtime.loop import SteeringLoop
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Request
from edgesteer.runtime.sampling import ForcedTokens, Sampler, TokenLogprob, token_logprob
from edgesteer.runtime.telemetry import Reading, SteeringReport
from edgesteer.runtime.text import TextBuffer

Mark = tuple[tuple[object, ...], ...]
"""How a row was steered; () if not at all. Rows with the same past, token and mark have the same keys and values."""


@dataclass(frozen=True)
class Timings:
    """Wall-clock times, named as llama.cpp's server names them. cache_n: of the prompt, those in the cache."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float
    cache_n: int = 0

    @property
    def predicted_per_second(self) -> float:
        return 1000 * self.predicted_n / self.predicted_ms if self.predicted_ms else 0.0

    @property
    def prompt_per_second(self) -> float:
        return 1000 * (self.prompt_n - self.cache_n) / self.prompt_ms if self.prompt_ms else 0.0


@dataclass(frozen=True)
class Generation:
    """A text. stop_reason: `end` (the model ended it), `length`, `stop` (a stop string), `context` or `cancelled`."""

    text: str
    tokens: list[int]
    stop_reason: str
    timings: Timings
    steering: list[SteeringReport]
    logprobs: list[TokenLogprob] = field(default_factory=list)


@dataclass(frozen=True)
class Piece:
    """What one decode added to a text.

    text: what can be shown now; may be "". token: None in a last piece that only ends the text. readings: by
    controller, what its loop measured at the token before this one; empty at the first. result: the whole text, in the
    last piece only.
    """

    text: str
    token: int | None
    readings: dict[str, Reading]
    logprob: TokenLogprob | None
    result: Generation | None


class Sequence:
    """One request, from the queue to its last token.

    loops: by the unique number of the controller that each one works with. limit: most tokens to generate; reaching it
    ends the text with limit_reason.
    """

    def __init__(
        self, request: Request, loops: dict[int, SteeringLoop], limit: int, limit_reason: str, model: LlamaModel
    ) -> None:
        self.request = request
        self.loops = loops
        self.limit = limit
        self._limit_reason = limit_reason
        self._model = model
        self._commands = {number: loop.prompt_commands(request.prompt) for number, loop in loops.items()}
        self.tokens = list(request.prompt.tokens)
        self.decoded = 0
        """Tokens that are in the KV cache."""
        self.reused = 0
        self.done = False
        self._stop_reason = "cancelled"
        self._sampler = (
            Sampler(request.sampling, model) if request.forced is None else ForcedTokens(request.forced, model)
        )
        self._text = TextBuffer(request.stop)
        self._logprobs: list[TokenLogprob] = []
        self._readings: dict[str, Reading] = {}
        self._started = self._now = self._first = 0.0

    # ---- what the batch asks before a decode ----

    @property
    def prompt_length(self) -> int:
        return len(self.request.prompt.tokens)

    @property
    def generated(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    @property
    def pending(self) -> int:
        """Tokens that are known and not decoded yet."""
        return len(self.tokens) - self.decoded

    @property
    def prefilling(self) -> bool:
        return self.decoded < self.prompt_length

    @property
    def cells(self) -> int:
        """KV cells that the text takes at most: its last token is never decoded."""
        return self.prompt_length + self.limit - 1

    def begin(self, reused: int) -> None:
        """Start, with so many tokens of the prompt in the cache already."""
        self.decoded = self.reused = reused
        self._started = self._now = time.perf_counter()

    def write_commands(self, commands: Commands, engine: Engine) -> None:
        """Fill in the commands of the next rows: (rows, n_controllers)."""
        start, stop = self.decoded, self.decoded + len(commands)
        for number, loop in self.loops.items():
            if loop.action != OFF:
                column = engine.column(loop.controller)
                commands[:, column] = self._commands[number][start:stop] if self.prefilling else loop.command()

    def marks(self, start: int, stop: int) -> list[Mark]:
        """Return how rows of the prompt are steered, or how the next row is."""
        return [tuple(self._steered(position)) for position in range(start, stop)]

    def _steered(self, position: int) -> Iterator[tuple[object, ...]]:
        for number, loop in self.loops.items():
            row = tuple(self._commands[number][position]) if position < self.prompt_length else loop.command()
            level, effort, action, phi = row
            if action == STEER and effort:
                yield number, float(np.float32(level)), float(np.float32(effort)), int(phi)

    def sensed_positions(self) -> dict[int, NDArray[np.intp]]:
        """Return, for each controller whose loop starts from the prompt, the positions that its sensor must read."""
        words = np.flatnonzero(self.request.prompt.content)
        return {number: words for number, loop in self.loops.items() if loop.senses_prompt}

    # ---- what it is told after a decode ----

    def observe(self, engine: Engine, row: int) -> None:
        """Take in what the hook measured at a generated token, in this row of the batch."""
        for loop in self.loops.values():
            if loop.action != OFF:
                before, after, control = (values[:, row] for values in engine.measured(loop.controller))
                self._readings[loop.controller.name] = loop.observe(before, after, control)

    def sample(self, engine: Engine, row: int) -> Piece:
        """Choose the next token from the logits of this row; the text may end here."""
        token = self._sampler.sample(engine.context, row)
        self._now = time.perf_counter()
        self._first = self._first or self._now
        if self.request.forced is None and self._model.ends_generation(token):
            return self._end("end", None, None)
        logprob = None
        if self.request.n_likeliest is not None:
            logprob = token_logprob(engine.logits(row), token, self.request.n_likeliest, self._model.piece)
            self._logprobs.append(logprob)
        self.tokens.append(token)
        shown = self._text.add(self._model.piece(token))
        if self._text.stopped:
            return self._end("stop", token, logprob, shown)
        if len(self.tokens) - self.prompt_length >= self.limit:
            return self._end(self._limit_reason, token, logprob, shown)
        return Piece(shown, token, self._take_readings(), logprob, None)

    def cancel(self) -> Piece:
        """End the text here."""
        return self._end("cancelled", None, None)

    def _end(self, reason: str, token: int | None, logprob: TokenLogprob | None, shown: str = "") -> Piece:
        self._stop_reason = reason
        shown += self._text.finish()
        self.close()
        return Piece(shown, token, self._take_readings(), logprob, self.result)

    def close(self) -> None:
        """Free the sampler; the text ends here."""
        self.done = True
        self._sampler.close()

    def _take_readings(self) -> dict[str, Reading]:
        taken, self._readings = self._readings, {}
        return taken

    @property
    def result(self) -> Generation:
        """The text so far."""
        generated = self.generated
        first = self._first or self._now
        timings = Timings(
            self.prompt_length,
            1000 * (first - self._started),
            len(generated),
            1000 * (self._now - first),
            self.reused,
        )
        reports = [loop.report() for loop in self.loops.values()]
        return Generation(self._text.text, generated, self._stop_reason, timings, reports, self._logprobs)
