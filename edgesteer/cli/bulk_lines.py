"""Lines of a file or of standard input, read ahead by a thread. Knows nothing of what they say."""

from __future__ import annotations

import codecs
import io
import itertools
import queue
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from edgesteer.cli.request import STANDARD_INPUT
from edgesteer.errors import EdgeSteerError

LINE_BYTES = 16 << 20
"""Longest line that is kept: a file that is no JSONL may be one line of gigabytes."""


class Line(NamedTuple):
    """One line as it was read. number: from 1. size: its bytes, newline included. data: None if it is too long."""

    number: int
    size: int
    data: bytes | None


class Lines:
    """The lines that are not blank, read ahead, so that a slow input holds up nothing that runs.

    ahead: most lines to hold. Raises EdgeSteerError when the file cannot be opened; `-` is standard input.
    """

    def __init__(self, path: Path, ahead: int) -> None:
        stream, self.name, self.size = open_input(path)
        self.ended = False
        """Whether `take` has nothing more to give."""
        self._queue: queue.Queue[Line | Exception | None] = queue.Queue(ahead)
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    def take(self, *, wait: bool) -> Line | None:
        """Return the next line; None when there is none, or, unless it may wait, none yet. Raises OSError."""
        if self.ended:
            return None
        try:
            item = self._queue.get(block=wait)
        except queue.Empty:
            return None
        if isinstance(item, Line):
            return item
        self.ended = True
        if item is not None:
            raise item
        return None

    def _read(self, stream: IO[bytes]) -> None:
        try:
            with stream:
                for line in split_lines(stream):
                    self._queue.put(line)
            self._queue.put(None)
        except Exception as error:  # it belongs to the thread that takes the lines
            self._queue.put(error)


def open_input(path: Path) -> tuple[IO[bytes], str, int | None]:
    """Return the bytes of a path, what to call it, and its size in bytes if it has one. Raises EdgeSteerError."""
    if str(path) == "-":
        stdin: Any = sys.stdin.buffer
        # In a buffer of its own: Python would wait at its end for the lock of sys.stdin's, which the thread may hold.
        return io.BufferedReader(getattr(stdin, "raw", stdin)), STANDARD_INPUT, None
    try:
        return path.open("rb"), str(path), path.stat().st_size if path.is_file() else None
    except OSError as error:
        raise EdgeSteerError("the input cannot be read", where=path, found=error.strerror) from error


def split_lines(stream: IO[bytes]) -> Iterator[Line]:
    """Yield the lines that are not blank; the first one loses its byte order mark."""
    for number in itertools.count(1):
        rest = data = stream.readline(LINE_BYTES)
        size = len(data)
        while rest and not rest.endswith(b"\n"):
            rest = stream.readline(LINE_BYTES)
            size += len(rest)
        if not size:
            return
        text = data.removeprefix(codecs.BOM_UTF8) if number == 1 else data
        if text.strip():
            yield Line(number, size, text if size == len(data) else None)
