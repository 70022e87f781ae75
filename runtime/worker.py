"""Worker: a batch in a thread of its own, for callers in other threads (a server's event loop).

The batch is touched by that thread alone: what others want done is put in its inbox, and it works through that between
two steps.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout  # another class before Python 3.11
from dataclasses import dataclass
from typing import Any, TypeVar

from edgesteer.controller import Controller
from edgesteer.errors import BusyError, EdgeSteerError, EngineError
from edgesteer.runtime.batch import Batch, BatchStatus
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.request import Request
from edgesteer.runtime.sequence import Piece, Sequence

logger = logging.getLogger(__name__)
T = TypeVar("T")
Deliver = Callable[[Piece | EdgeSteerError], None]


@dataclass(frozen=True, eq=False)
class Ticket:
    """A request that was taken on; for `Worker.cancel`."""

    sequence: Sequence
    deliver: Deliver


class Worker:
    """Runs requests of any thread in one batch. Use as a context manager, or call close().

    engine: belongs to the worker until it is closed, and is closed with it. max_waiting: most requests in the queue.
    options: of Batch.
    """

    def __init__(self, engine: Engine, *, max_waiting: int = 64, **options: Any) -> None:
        self._batch = Batch(engine, **options)
        self._max_waiting = max_waiting
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._tickets: dict[Sequence, Ticket] = {}
        self._closing = False
        self._deadline = float("inf")
        self._thread = threading.Thread(target=self._work, name="edgesteer-batch", daemon=True)
        self._thread.start()

    def submit(self, request: Request, deliver: Deliver) -> Ticket:
        """Take on a request; its pieces are given to `deliver`, in the worker's thread, as they come.

        The last call has a Piece with a result, or the error that ended the request; `deliver` must not raise or block.
        Raises BusyError when too many are waiting or the worker is closing, and what Batch.submit raises.
        """
        return self._call(lambda: self._submit(request, deliver))

    def cancel(self, ticket: Ticket) -> None:
        """End a request soon; `deliver` gets its last piece, stop_reason `cancelled`, unless it had ended already."""
        self._inbox.put(lambda: self._cancel(ticket))

    @property
    def controllers(self) -> tuple[Controller, ...]:
        """Those that requests may name."""
        return self._batch.controllers

    def load(self, controller: Controller) -> None:
        """As Batch.load; returns when it is loaded."""
        self._call(lambda: self._batch.load(controller))

    def unload(self, name: str) -> None:
        """As Batch.unload; requests that were taken on keep the controller."""
        self._call(lambda: self._batch.unload(name))

    def status(self) -> BatchStatus:
        return self._call(self._batch.status)

    def close(self, *, drain_seconds: float = 0.0) -> None:
        """Take on nothing more, let what runs end within so many seconds, cancel the rest, and free the engine."""
        self._inbox.put(lambda: self._shut(drain_seconds))
        self._thread.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- in the worker's thread ----

    def _call(self, function: Callable[[], T]) -> T:
        """Run a function between two steps, and return what it returns or raise what it raises."""
        answer: Future[T] = Future()

        def run() -> None:
            try:
                answer.set_result(function())
            except Exception as error:  # belongs to the thread that asked
                answer.set_exception(error)

        self._inbox.put(run)
        while True:
            try:
                return answer.result(timeout=1)
            except FutureTimeout:
                if not self._thread.is_alive() and not answer.done():
                    raise BusyError("the engine has been shut down") from None

    def _work(self) -> None:
        while not (self._closing and (not self._batch.busy or time.monotonic() > self._deadline)):
            self._read_inbox(wait=not self._batch.busy)
            try:
                events = self._batch.step()
            except Exception as error:  # a defect of ours must not leave clients waiting for ever
                logger.exception("a step of the batch failed")
                events = self._drop_all(EngineError("the engine failed", found=repr(error)))
            for sequence, event in events:
                self._give(sequence, event)
        for sequence in list(self._tickets):
            self._cancel(self._tickets[sequence])
        self._read_inbox(wait=False)
        self._batch.engine.close()

    def _read_inbox(self, *, wait: bool) -> None:
        """Do what others want done; wait until there is something when the batch has nothing to do."""
        try:
            self._inbox.get(block=wait)()
            while True:
                self._inbox.get_nowait()()
        except queue.Empty:
            return

    def _submit(self, request: Request, deliver: Deliver) -> Ticket:
        if self._closing:
            raise BusyError("the engine is shutting down")
        if len(self._tickets) >= self._batch.engine.n_sequences + self._max_waiting:
            raise BusyError("too many requests are waiting", expected=f"at most {self._max_waiting}")
        ticket = Ticket(self._batch.submit(request), deliver)
        self._tickets[ticket.sequence] = ticket
        return ticket

    def _cancel(self, ticket: Ticket) -> None:
        piece = self._batch.cancel(ticket.sequence)
        if piece is not None:
            self._give(ticket.sequence, piece)

    def _shut(self, drain_seconds: float) -> None:
        self._closing = True
        self._deadline = time.monotonic() + drain_seconds

    def _drop_all(self, error: EdgeSteerError) -> list[tuple[Sequence, Piece | EdgeSteerError]]:
        dropped = list(self._tickets)
        for sequence in dropped:
            self._batch.cancel(sequence)
        return [(sequence, error) for sequence in dropped]

    def _give(self, sequence: Sequence, event: Piece | EdgeSteerError) -> None:
        ticket = self._tickets[sequence] if not sequence.done else self._tickets.pop(sequence)
        ticket.deliver(event)
