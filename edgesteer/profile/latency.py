"""Times of requests: to the first token (TTFT), between later tokens (TPOT), and to the last one (TTLT).

Works on anything with the interface of runtime.batch.Batch, and on any clock. Knows no statistics and no tables.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from edgesteer.concept import load_neutral
from edgesteer.errors import EdgeSteerError, EngineError
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Request, Steering, continued_prompt
from edgesteer.runtime.sampling import Sampling

Clock = Callable[[], float]
"""Returns seconds."""
Window = Callable[[], AbstractContextManager[Any]]
"""Opens an energy window: what it yields is its reading, complete after the body."""
NEVER = -1000.0
"""The bias of tokens that would end a text early."""
STRIDE = 31
"""Tokens between the beginnings of the prompts of a batch, so that none can use another's cells."""


class BatchLike(Protocol):
    """What is used of runtime.batch.Batch."""

    def submit(self, request: Request) -> Any: ...
    def step(self) -> list[tuple[Any, Any]]: ...
    def cancel(self, sequence: Any) -> Any: ...
    def clear(self) -> None: ...


class Stopped(Exception):
    """Measuring ends before its end; str() says why."""


class Budget:
    """How long measuring may go on. Anyone may call stop(); measuring asks check() between two decodes."""

    def __init__(self, max_seconds: float | None = None, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._end = None if max_seconds is None else clock() + max_seconds
        self.reason: str | None = None
        """Why it ended; None while it goes on."""

    def stop(self, reason: str) -> None:
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raise Stopped when the time is up or somebody called stop()."""
        if self._end is not None and self._clock() >= self._end:
            self.stop("the time is up")
        if self.reason is not None:
            raise Stopped(self.reason)


@dataclass(frozen=True)
class Repeat:
    """One measurement of requests that were submitted together; the lists have an entry a request.

    Times count from the submission of the first. Two phases follow each other: prefill, until every request has its
    first token, and decode, until each has its last.
    """

    ttft_ms: list[float]
    tpot_ms: list[float]
    """Mean time between a request's tokens; empty when one token each was asked for."""
    ttlt_ms: list[float]
    prefill_ms: float
    decode_ms: float
    decode_tokens: int
    """Tokens that came in the decode phase, of all requests together."""
    prefill_energy: Any = None
    """What the window over the phase gave; None without a meter."""
    decode_energy: Any = None


def measure(
    batch: BatchLike,
    requests: Sequence[Request],
    *,
    clock: Clock = time.perf_counter,
    window: Window = nullcontext,
    check: Callable[[], None] = lambda: None,
) -> Repeat:
    """Run requests together in a batch that does nothing else, from an empty cache, and return their times.

    Opening and closing energy windows takes no time on this clock. check: called before every step.
    Raises what check raises, what a request fails with, and EngineError when one ends early.
    """
    batch.clear()
    watch = _Stopwatch(clock)
    sequences: list[Any] = []
    try:
        with window() as prefill_energy:
            watch.start()
            sequences += [batch.submit(request) for request in requests]
            times = _Times(sequences)
            while not times.all_began:
                check()
                times.note(batch.step(), watch.read)
            prefill = watch.pause()
        began = times.count
        with window() as decode_energy:
            watch.start()
            while not times.all_ended:
                check()
                times.note(batch.step(), watch.read)
            end = watch.pause()
    finally:
        for sequence in sequences:
            batch.cancel(sequence)
    decoded = times.count - began
    return times.repeat(requests, prefill, end - prefill, decoded, prefill_energy, decode_energy)


@dataclass(frozen=True)
class HookTime:
    """The hook's own work in decode steps, measured inside it."""

    us_per_token: float
    """Microseconds for each generated token."""
    share: float
    """Of the time of those steps."""


def measure_hook(
    batch: BatchLike,
    hook_ns: Callable[[], int],
    requests: Sequence[Request],
    *,
    clock: Clock = time.perf_counter,
    check: Callable[[], None] = lambda: None,
) -> HookTime | None:
    """Run requests together and return the hook's time over the decode phase; None when there is none.

    hook_ns: nanoseconds that the hook worked in the last step.
    """
    batch.clear()
    times = _Times(sequences := [batch.submit(request) for request in requests])
    hook = total = 0.0
    tokens = 0
    try:
        while not times.all_ended:
            check()
            decoding, started = times.all_began, clock()
            events = batch.step()
            if decoding:
                total += clock() - started
                hook += hook_ns() / 1e9
                tokens += len(events)
            times.note(events, clock)
    finally:
        for sequence in sequences:
            batch.cancel(sequence)
    return HookTime(1e6 * hook / tokens, hook / total) if tokens else None


class _Stopwatch:
    """A clock in milliseconds that stands still between pause() and the next start()."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._before = 0.0
        self._started = 0.0

    def start(self) -> None:
        self._started = self._clock()

    def pause(self) -> float:
        self._before = self.read()
        return self._before

    def read(self) -> float:
        return self._before + 1000 * (self._clock() - self._started)


class _Times:
    """When each sequence got its tokens, in milliseconds."""

    def __init__(self, sequences: Sequence[Any]) -> None:
        self._times: dict[int, list[float]] = {id(each): [] for each in sequences}
        self._running = set(self._times)

    @property
    def count(self) -> int:
        return sum(map(len, self._times.values()))

    @property
    def all_began(self) -> bool:
        return all(times or number not in self._running for number, times in self._times.items())

    @property
    def all_ended(self) -> bool:
        return not self._running

    def note(self, events: Sequence[tuple[Any, Any]], clock: Clock) -> None:
        now = clock()
        for sequence, piece in events:
            if isinstance(piece, EdgeSteerError):
                raise piece
            if piece.token is not None:
                self._times[id(sequence)].append(now)
            if piece.result is not None:
                self._running.discard(id(sequence))

    def repeat(self, requests: Sequence[Request], prefill: float, decode: float, decoded: int, *energy: Any) -> Repeat:
        all_times = list(self._times.values())
        for request, times in zip(requests, all_times, strict=True):
            if len(times) != request.max_tokens:
                raise EngineError("a text ended early", expected=f"{request.max_tokens} tokens", found=len(times))
        return Repeat(
            [times[0] for times in all_times],
            [(times[-1] - times[0]) / (len(times) - 1) for times in all_times if len(times) > 1],
            [times[-1] for times in all_times],
            prefill,
            decode,
            decoded,
            *energy,
        )


class RequestMaker:
    """Makes requests of given lengths: ordinary English, and texts that go on to the last token."""

    def __init__(self, model: LlamaModel, steering: Sequence[Steering] = ()) -> None:
        self._text = model.tokenize(" ".join(example.completion for example in load_neutral()))
        ends = [token for token in range(model.n_tokens) if model.ends_generation(token)]
        self._sampling = Sampling(temp=0, logit_bias=dict.fromkeys(ends, NEVER))
        self._steering = steering

    def __call__(self, prompt_len: int, gen_len: int, batch: int, *, steered: bool) -> list[Request]:
        """Return `batch` requests with prompts that begin at different places of the text."""
        return [
            Request(self._prompt(prompt_len, number), self._steering if steered else (), self._sampling, gen_len)
            for number in range(batch)
        ]

    def _prompt(self, length: int, number: int) -> Prompt:
        start = number * STRIDE % len(self._text)
        return continued_prompt(list(itertools.islice(itertools.cycle(self._text), start, start + length)))
