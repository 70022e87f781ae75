"""Ctrl-C where it does no harm: not in the middle of a decode or of a line that is being written."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def interrupt_later() -> Iterator[None]:
    """Hold Ctrl-C back while the body runs, and let it do then what it would have done. Main thread only."""
    handler = signal.getsignal(signal.SIGINT)
    if not callable(handler):  # ignored, as for a job in the background
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
    if came:
        handler(came[0], None)
