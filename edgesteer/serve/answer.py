"""Answer: from the worker's thread into the event loop: the pieces of one request's texts, and no piece for nobody.

Knows the worker and asyncio; knows no HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from functools import partial

from anyio.to_thread import run_sync

from edgesteer.errors import EdgeSteerError
from edgesteer.runtime.request import Request
from edgesteer.runtime.sequence import Piece
from edgesteer.runtime.worker import Ticket, Worker
from edgesteer.serve.errors import ApiError
from edgesteer.serve.metrics import Meter, Metrics


class Answer:
    """The texts of some requests that are answered together. Start it, iterate, and cancel it at the end, always."""

    def __init__(self, worker: Worker, metrics: Metrics, requests: Sequence[Request]) -> None:
        self._worker = worker
        self._metrics = metrics
        self._requests = requests
        self._pieces: asyncio.Queue[tuple[int, Piece | EdgeSteerError]] = asyncio.Queue()
        self._tickets: dict[int, Ticket] = {}
        self._cancelled = False

    async def start(self) -> None:
        """Submit the requests. Raises what Worker.submit raises; then none of them runs."""
        try:
            await run_sync(self._submit, asyncio.get_running_loop())
        except BaseException:
            self.cancel()
            raise

    def _submit(self, loop: asyncio.AbstractEventLoop) -> None:
        for index, request in enumerate(self._requests):
            deliver = partial(self._deliver, loop, Meter(self._metrics), index)
            self._tickets[index] = self._worker.submit(request, deliver)
            if self._cancelled:  # while this thread was waiting for the worker
                self.cancel()
                return

    def _deliver(
        self, loop: asyncio.AbstractEventLoop, meter: Meter, index: int, piece: Piece | EdgeSteerError
    ) -> None:
        if isinstance(piece, Piece):
            meter.take(piece)
        with suppress(RuntimeError):  # the loop has been closed: nobody is left to read this
            loop.call_soon_threadsafe(self._pieces.put_nowait, (index, piece))

    def cancel(self) -> None:
        """End what has not ended; may be called from any thread, at any time and twice."""
        self._cancelled = True
        for ticket in list(self._tickets.values()):
            self._worker.cancel(ticket)

    async def __aiter__(self) -> AsyncIterator[tuple[int, Piece]]:
        """Yield (number of the request, piece) as they come. Raises ApiError, 500, when the engine failed."""
        running = len(self._requests)
        while running:
            index, piece = await self._pieces.get()
            if isinstance(piece, EdgeSteerError):
                raise ApiError(500, str(piece), code="generation_failed")
            yield index, piece
            running -= piece.result is not None
