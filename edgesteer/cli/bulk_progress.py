"""How far bulk generation is, on stderr: a bar in a terminal, a line now and then in a pipe. Knows only numbers."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from types import TracebackType

from rich.progress import BarColumn, Progress, TextColumn

from edgesteer.cli.console import console

LINE_SECONDS = 10.0
"""Between two lines in a pipe."""


class BulkProgress:
    """Counts what is done and shows it. Use as a context manager.

    size: of the input in bytes, None if unknown; the bar and the time left go by the bytes whose texts are done.
    bar: whether a terminal gets a bar; not where the texts go there too. clock: seconds.
    """

    def __init__(self, size: int | None, clock: Callable[[], float] = time.monotonic, *, bar: bool = True) -> None:
        self.texts = self.failed = self.skipped = self.tokens = 0
        self._size = size
        self._done = self._fresh = 0
        self._clock = clock
        self._started = self._shown = clock()
        self._bar: Progress | None = None
        target = console(sys.stderr)
        if bar and target.is_terminal:
            self._bar = Progress(BarColumn(), TextColumn("{task.description}"), console=target)
            self._task = self._bar.add_task(str(self), total=size)

    def __enter__(self) -> BulkProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.update(self._task, visible=False)
            self._bar.stop()
        print(self, file=sys.stderr)

    def advance(self, size: int, *, fresh: bool = True) -> None:
        """Take note of an input line of so many bytes that is done; fresh: it took a text, and so time."""
        self._done += size
        self._fresh += size if fresh else 0

    def show(self) -> None:
        """Bring what is shown up to date."""
        if self._bar is not None:
            self._bar.update(self._task, description=self.status(), completed=self._done)
        elif self._clock() - self._shown >= LINE_SECONDS:
            self._shown = self._clock()
            print(self.status(), file=sys.stderr, flush=True)

    def __str__(self) -> str:
        """What was done, and how fast."""
        counts = {"failed": self.failed, "done before": self.skipped}
        parts = [f"{self.texts} {'text' if self.texts == 1 else 'texts'}"]
        parts += [f"{count} {name}" for name, count in counts.items() if count]
        return ", ".join([*parts, f"{self.tokens / self._seconds() if self._seconds() else 0:.1f} tokens/s"])

    def status(self) -> str:
        """Return what was done, the share of the input that this is, and the time left, as far as they are known."""
        if not self._size:
            return str(self)
        share = f"{self}, {self._done / self._size:.0%}"
        if not self._fresh:
            return share
        left = round(self._seconds() * (self._size - self._done) / self._fresh)
        return f"{share}, {left // 3600}:{left // 60 % 60:02}:{left % 60:02} left"

    def _seconds(self) -> float:
        return self._clock() - self._started
