"""TextBuffer: from tokens' bytes to text that may be shown: whole characters, and nothing of a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextBuffer:
    """Collects one text. stop: strings that end it; empty ones are ignored."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = [each for each in stop if each]
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._held = ""
        self.text = ""
        self.stopped = False
        """Whether a stop string was found; the text ends before it."""

    def add(self, data: bytes) -> str:
        """Take in the bytes of one token; return the text that can be shown now, perhaps none yet."""
        shown, self._held, self.stopped = split_at_stop(self._held + self._decoder.decode(data), self._stop)
        self.text += shown
        return shown

    def finish(self) -> str:
        """Return what was held back, at the end of the text; the bytes of an unfinished character are left out."""
        shown, self._held = self._held, ""
        self.text += shown
        return shown


def split_at_stop(text: str, stops: Sequence[str]) -> tuple[str, str, bool]:
    """Return (text that can be shown, text held back, whether a stop string was found).

    Held back is the longest end of the text that a stop string may begin with.
    """
    found = [text.find(stop) for stop in stops if stop in text]
    if found:
        return text[: min(found)], "", True
    held = max((n for stop in stops for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
    return text[: len(text) - held], text[len(text) - held :], False
