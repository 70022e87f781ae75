"""TextStream: one text from one request, for callers that want no batch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgesteer.controller import Controller
from edgesteer.errors import EngineError, SafeRangeWarning
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.request import Prompt, Request, Steering
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.sequence import Generation


@dataclass
class TextStream:
    """Generates one text; iterate once for its pieces, then read .result, which breaking off leaves valid.

    Raises EngineError when the prompt is empty or does not fit, SteeringError for an unknown controller. Warns with
    SafeRangeWarning when a strength lies outside the controller's safe range.
    """

    engine: Engine
    prompt: Prompt
    steering: Sequence[Steering] = ()
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    stop: Sequence[str] = ()

    def __post_init__(self) -> None:
        request = Request(self.prompt, self.steering, self.sampling, self.max_tokens, self.stop)
        self._batch = Batch(self.engine)
        self._sequence = self._batch.submit(request)
        self._began = False
        for steering in self.steering:
            controller = next(each for each in self.engine.controllers if each.name == steering.controller)
            warn_outside_safe_range(controller, steering.strength)

    @property
    def result(self) -> Generation:
        return self._sequence.result

    def __iter__(self) -> Iterator[str]:
        if self._began:
            raise EngineError("this text has been generated", remedy="Make another TextStream for another text.")
        self._began = True
        self._batch.clear()  # of what another one left there meanwhile
        for piece in self._batch.run(self._sequence):
            if piece.text:
                yield piece.text

    def run(self) -> Generation:
        """Generate to the end and return the result."""
        for _ in self:
            pass
        return self.result


def outside_safe_range(controller: Controller, strength: float) -> str | None:
    """Return a line that says so when a strength lies outside the controller's safe range."""
    low, high = controller.safe_range
    if low <= strength <= high:
        return None
    return (
        f"{controller.name}: strength {strength:g} is outside the safe range {low:g} to {high:g}; the text may break"
    )


def warn_outside_safe_range(controller: Controller, strength: float) -> None:
    """Warn with SafeRangeWarning when the strength lies outside the controller's safe range."""
    line = outside_safe_range(controller, strength)
    if line:
        warnings.warn(line, SafeRangeWarning, stacklevel=3)
