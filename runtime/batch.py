"""Batch: continuous batching. Many sequences share one context; each step is one llama_decode.

A step takes one token of every sequence that generates, and chunks of the prompts that are still being read. Rows carry
their own commands, so each sequence has its own controllers and strengths. One thread only; see worker.py for more.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError, EngineError, SteeringError
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.loop import SteeringLoop
from edgesteer.runtime.request import Request, Steering
from edgesteer.runtime.sequence import Generation, Piece, Sequence
from edgesteer.runtime.slots import Slot, choose

Event = tuple[Sequence, Piece | EdgeSteerError]


@dataclass(frozen=True)
class BatchStatus:
    """Numbers of sequences, and KV cells: those of running texts, those kept for reuse, and all there are."""

    waiting: int
    prefilling: int
    generating: int
    cells_used: int
    cells_cached: int
    cells_total: int


class Batch:
    """Runs requests through an engine.

    prefill_tokens: most prompt tokens of a step while other sequences generate; it bounds how long they wait for it.
    """

    def __init__(self, engine: Engine, *, prefill_tokens: int = 128) -> None:
        self.engine = engine
        self._prefill_tokens = prefill_tokens
        self._waiting: deque[Sequence] = deque()
        self._slots = [Slot(number) for number in range(engine.n_sequences)]
        self._clock = itertools.count(1)
        self._numbers = itertools.count(1)
        self._loaded = {next(self._numbers): controller for controller in engine.controllers}
        self._unloaded: set[int] = set()
        """Numbers of controllers that requests can no longer name; running ones may still use them."""
        self.clear()

    # ---- requests ----

    def submit(self, request: Request) -> Sequence:
        """Let a request join the queue.

        Raises EngineError when the prompt or forced tokens do not fit the context, SteeringError for an unknown
        controller.
        """
        limit, reason = self._limit(request)
        loops = dict(self._loop(steering) for steering in request.steering)
        if len(loops) < len(request.steering):
            raise SteeringError("a controller is asked for twice", found=[s.controller for s in request.steering])
        sequence = Sequence(request, loops, limit, reason, self.engine.model)
        self._waiting.append(sequence)
        return sequence

    def cancel(self, sequence: Sequence) -> Piece | None:
        """End a sequence now, waiting or running; its cells are free again. None when it had ended already."""
        if sequence.done:
            return None
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        piece = sequence.cancel()
        self._release(sequence)
        return piece

    def stream(self, request: Request) -> Iterator[Piece]:
        """Submit a request when the first piece is asked for, and run it."""
        yield from self.run(self.submit(request))

    def run(self, sequence: Sequence) -> Iterator[Piece]:
        """Step until a sequence ends, and with it what else is in the batch; closing the iterator cancels it."""
        try:
            while not sequence.done:
                for of, event in self.step():
                    if of is sequence:
                        if isinstance(event, EdgeSteerError):
                            raise event
                        yield event
        finally:
            self.cancel(sequence)

    @property
    def busy(self) -> bool:
        return bool(self._waiting) or any(not slot.idle for slot in self._slots)

    def status(self) -> BatchStatus:
        running = self._running()
        prefilling = sum(sequence.prefilling for sequence in running)
        held = [len(slot.tokens) for slot in self._slots if slot.idle]
        return BatchStatus(
            len(self._waiting),
            prefilling,
            len(running) - prefilling,
            sum(sequence.decoded for sequence in running),
            sum(held),
            self.engine.context_tokens,
        )

    def _limit(self, request: Request) -> tuple[int, str]:
        """Return the most tokens to generate, and why the text ends there."""
        context, length = self.engine.context_tokens, len(request.prompt.tokens)
        if length >= context:
            raise EngineError(
                "the prompt is longer than the context",
                expected=f"< {context} tokens",
                found=f"{length} tokens",
                remedy="Use a larger --ctx-size.",
            )
        share = context // self.engine.n_sequences
        room = (share if request.length is None and length < share else context) - length + 1
        wanted = room if request.length is None else request.length
        if request.forced is not None and wanted > room:
            raise EngineError("the forced tokens do not fit the context", expected=f"at most {room}", found=wanted)
        return (wanted, "length") if wanted < room else (room, "context")

    # ---- controllers ----

    @property
    def controllers(self) -> tuple[Controller, ...]:
        """Those that requests may name."""
        return tuple(each for number, each in self._loaded.items() if number not in self._unloaded)

    def load(self, controller: Controller) -> None:
        """Let requests name one more controller. Raises SteeringError when the name is taken or it does not fit."""
        if controller.name in [each.name for each in self.controllers]:
            raise SteeringError("a controller of this name is loaded", found=controller.name, remedy="Unload it first.")
        self._set_controllers({**self._loaded, next(self._numbers): controller})

    def unload(self, name: str) -> None:
        """Let no further request name a controller; running ones keep it. Raises SteeringError for an unknown name."""
        self._unloaded.add(self._find(name))
        self._drop_unloaded()

    def _drop_unloaded(self) -> None:
        used = {number for sequence in [*self._running(), *self._waiting] for number in sequence.loops}
        unused = self._unloaded - used
        if unused:
            self._set_controllers({n: each for n, each in self._loaded.items() if n not in unused})
            self._unloaded -= unused

    def _set_controllers(self, controllers: dict[int, Controller]) -> None:
        self.engine.set_controllers(list(controllers.values()))
        self._loaded = controllers

    def _find(self, name: str) -> int:
        names = {each.name: n for n, each in self._loaded.items() if n not in self._unloaded}
        if name not in names:
            raise SteeringError(
                "no such controller", found=name, expected=" or ".join(names) or "a loaded sidecar"
            )
        return names[name]

    def _loop(self, steering: Steering) -> tuple[int, SteeringLoop]:
        number = self._find(steering.controller)
        return number, SteeringLoop(steering, self._loaded[number])

    # ---- steps ----

    def step(self) -> list[Event]:
        """Run one llama_decode; return what each sequence in it got. Empty when there was nothing to do."""
        self._admit()
        events = self._decode(self._schedule())
        self._drop_unloaded()
        return events

    def clear(self) -> None:
        """Forget all cells that no running sequence holds."""
        for slot in self._slots:
            if slot.idle:
                self._forget(slot, 0)

    def _running(self) -> list[Sequence]:
        return [slot.sequence for slot in self._slots if slot.sequence is not None]

    def _admit(self) -> None:
        """Give slots to those who wait longest, as far as slots and cells reach; nobody overtakes."""
        while self._waiting:
            sequence = self._waiting[0]
            reserved = sum(each.cells for each in self._running())
            chosen = choose(self._slots, sequence)
            if chosen is None or reserved + sequence.cells > self.engine.context_tokens:
                return
            self._waiting.popleft()
            self._occupy(*chosen, sequence)
            self._evict(self.engine.context_tokens - reserved - sequence.cells)

    def _occupy(self, slot: Slot, source: Slot, length: int, sequence: Sequence) -> None:
        """Let a slot hold the first tokens of a source and no others, and run a sequence from there."""
        if not self.engine.can_reuse:
            length = 0
        if slot is not source or not length:
            self._forget(slot, 0)
        if length and slot is not source:
            self.engine.share(source.number, slot.number, length)
            slot.begin_with(source, length)
        self._forget(slot, length)
        slot.sequence = sequence
        sequence.begin(length)

    def _evict(self, room: int) -> None:
        """Forget idle slots, those used longest ago first, until what they hold fits in so many cells."""
        idle = sorted((slot for slot in self._slots if slot.idle), key=lambda slot: slot.last_used)
        excess = sum(len(slot.tokens) for slot in idle) - room
        for slot in idle:
            if excess <= 0:
                return
            excess -= len(slot.tokens)
            self._forget(slot, 0)

    def _forget(self, slot: Slot, from_position: int) -> None:
        self.engine.forget(slot.number, from_position)
        slot.truncate(from_position)

    def _release(self, sequence: Sequence) -> None:
        """Make the slot of a finished sequence idle; its cells wait there for a prompt that begins like it."""
        for slot in self._slots:
            if slot.sequence is sequence:
                slot.sequence = None
                slot.last_used = next(self._clock)

    def _schedule(self) -> list[tuple[Slot, int]]:
        """Return the slots of the next decode with their numbers of rows.

        Prompts share what is left of the batch evenly, so that a short one is not held up by long ones.
        """
        running = [(slot, slot.sequence) for slot in self._slots if slot.sequence is not None]
        plan = [(slot, 1) for slot, sequence in running if not sequence.prefilling]
        budget = self.engine.batch_tokens - len(plan)
        if plan:
            budget = min(budget, self._prefill_tokens)
        prompts = sorted(
            ((sequence.prompt_length - sequence.decoded, slot) for slot, sequence in running if sequence.prefilling),
            key=lambda each: each[0],
        )
        for index, (left, slot) in enumerate(prompts):
            rows = min(left, budget // (len(prompts) - index))
            budget -= rows
            if rows:
                plan.append((slot, rows))
        return plan

    def _decode(self, plan: list[tuple[Slot, int]]) -> list[Event]:
        """Decode the planned rows; when that fails, each sequence alone, so that one cannot fail the others."""
        if not plan:
            return []
        try:
            self._decode_rows(plan)
        except EdgeSteerError as error:
            for slot, _ in plan:
                self._forget(slot, len(slot.tokens))
            if len(plan) == 1:
                return [self._fail(plan[0][0], error)]
            return [event for each in plan for event in self._decode([each])]
        return self._take_in(plan)

    def _decode_rows(self, plan: list[tuple[Slot, int]]) -> None:
        tokens: list[int] = []
        positions: list[int] = []
        outputs: list[bool] = []
        slots: list[int] = []
        commands = self.engine.idle(sum(rows for _, rows in plan))
        for slot, rows in plan:
            sequence = slot.sequence
            assert sequence is not None
            start = sequence.decoded
            sequence.write_commands(commands[len(tokens) : len(tokens) + rows], self.engine)
            tokens += sequence.tokens[start : start + rows]
            positions += range(start, start + rows)
            outputs += [False] * (rows - 1) + [sequence.pending == rows]
            slots += [slot.number] * rows
        self.engine.decode(tokens, positions, outputs, commands, slots)

    def _fail(self, slot: Slot, error: EdgeSteerError) -> Event:
        sequence = slot.sequence
        assert sequence is not None
        sequence.close()
        self._release(sequence)
        self._forget(slot, 0)
        return sequence, error

    def _take_in(self, plan: list[tuple[Slot, int]]) -> list[Event]:
        events: list[Event] = []
        first = 0
        for slot, rows in plan:
            sequence = slot.sequence
            assert sequence is not None
            self._note_rows(slot, sequence, first, rows)
            first += rows
            if not sequence.pending:
                events.append((sequence, sequence.sample(self.engine, first - 1)))
                if sequence.done:
                    self._release(sequence)
        return events

    def _note_rows(self, slot: Slot, sequence: Sequence, first: int, rows: int) -> None:
        """Take note of rows first .. first + rows - 1 of the batch, which are now in the cache."""
        start, stop = sequence.decoded, sequence.decoded + rows
        slot.marks += sequence.marks(start, stop)
        slot.tokens += sequence.tokens[start:stop]
        if not sequence.prefilling:
            sequence.observe(self.engine, first)
            sequence.decoded = stop
            return
        sequence.decoded = stop
        for number, words in sequence.sensed_positions().items():
            known = slot.sensed.setdefault(number, {})
            alpha = self.engine.measured(self._loaded[number])[0][-1]
            known.update((int(at), float(alpha[first + at - start])) for at in words if start <= at < stop)
            if not sequence.prefilling:
                readings = np.array([known[int(at)] for at in words], dtype=np.float32)
                sequence.loops[number].start(readings, sequence.request.prompt.continued)


def generate_all(
    engine: Engine, requests: Iterable[Request], on_text: Callable[[], None] = lambda: None
) -> list[Generation]:
    """Return the texts of all requests, in a batch of their own. on_text: called as each of them ends.

    Raises what Batch.submit raises, and the first error that ended a text.
    """
    batch = Batch(engine)
    sequences = [batch.submit(request) for request in requests]
    while batch.busy:
        for _, event in batch.step():
            if isinstance(event, EdgeSteerError):
                raise event
            if event.result is not None:
                on_text()
    return [sequence.result for sequence in sequences]
