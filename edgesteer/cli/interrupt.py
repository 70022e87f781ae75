"""Ctrl-C where it does no harm: not in the middle of a decode or of a line that is being written.

Python raises it wherever it is, and what is raised in a function that C calls, such as llama.cpp's log, is lost.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgesteer.progress import Progress


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


class _Steps:
    """Passes a Progress on, and lets Ctrl-C through at its steps."""

    def __init__(self, progress: Progress, came: Callable[[], None]) -> None:
        self._progress, self._check = progress, came

    def stage(self, name: str, total: int) -> Callable[[], None]:
        advance = self._progress.stage(name, total)

        def step() -> None:
            advance()
            self._check()

        return step


@contextmanager
def interrupt_at_steps(progress: Progress) -> Iterator[Progress]:
    """Hold Ctrl-C back until the next step that the given Progress is told of, or the body's end. Main thread only."""
    handler = signal.getsignal(signal.SIGINT)
    came: list[int] = []

    def check() -> None:
        if came and callable(handler):
            handler(came.pop(), None)

    if callable(handler):
        signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield _Steps(progress, check)
    finally:
        signal.signal(signal.SIGINT, handler)
    check()
