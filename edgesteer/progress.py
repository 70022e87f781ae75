"""Progress: where long work reports its stages. Knows neither who works nor who watches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class Progress(Protocol):
    """The command line draws the stages as bars with the time left."""

    def stage(self, name: str, total: int) -> Callable[[], None]:
        """Begin a stage of `total` steps; the returned function is called after each."""
        ...
