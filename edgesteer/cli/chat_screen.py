"""What a chat looks like: styles in a terminal, the same words without them in a pipe. Draws only, and asks nothing."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from edgesteer.cli.console import console
from edgesteer.cli.conversation import Token
from edgesteer.controller import Controller

if TYPE_CHECKING:
    from edgesteer.runtime.telemetry import Reading

GAUGE_WIDTH = 41
CONTROL_CODES = dict.fromkeys([*range(32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}") | {9: "\t", 10: "\n"}
NEGATIVE, NEUTRAL, POSITIVE = (64, 128, 255), (160, 160, 160), (64, 200, 96)
"""Red, green and blue of a token at alpha 0, 0.5 and 1."""


class Screen:
    """Prints to stdout, and errors and warnings to stderr."""

    def __init__(self) -> None:
        self._out = console()
        self._err = console(sys.stderr)

    @property
    def colours(self) -> bool:
        return self._out.color_system is not None

    def piece(self, text: str) -> None:
        """Print a part of an answer at once."""
        print(visible(text), end="", flush=True)

    def line(self, text: str | Text = "", style: str = "") -> None:
        self._out.print(text, style=style, soft_wrap=True)

    def note(self, text: str) -> None:
        """Say something beside the conversation."""
        self._err.print(text, style="dim", soft_wrap=True)

    def warning(self, text: str) -> None:
        self._err.print(f"Warning: {text}", style="yellow", soft_wrap=True)

    def error(self, error: Exception) -> None:
        self._err.print(f"Error: {' '.join(str(error).splitlines())}", style="red", soft_wrap=True)


def visible(text: str) -> str:
    """Return a text without the codes that a terminal obeys."""
    return text.translate(CONTROL_CODES)


def gauge(strength: float, safe_range: tuple[float, float]) -> str:
    """Return a scale with 0 in the middle, `+` at 1 and -1, `-` where it is safe, and the dial: `..-+-o|--+-..`."""
    low, high = safe_range
    end = max(1.0, abs(low), abs(high), abs(strength)) * 1.25
    step = 2 * end / (GAUGE_WIDTH - 1)
    values = [-end + step * cell for cell in range(GAUGE_WIDTH)]
    marks = ["-" if low <= value <= high else "." for value in values]
    for value, mark in ((-1.0, "+"), (0.0, "|"), (1.0, "+"), (strength, "o")):
        marks[round((value + end) / step)] = mark
    return "".join(marks)


def dial_lines(controller: Controller, strength: float, reading: Reading | None) -> list[str]:
    """Return a controller's name, poles, gauge and strength, and what its loop measured last."""
    low, high = controller.safe_range
    scale = f"{controller.negative} {gauge(strength, controller.safe_range)} {controller.positive}"
    lines = [f"{controller.name} {strength:g}, safe {low:g} to {high:g}", f"  {scale}"]
    return [*lines, f"  {measured(reading)}"] if reading is not None else lines


def measured(reading: Reading) -> str:
    values = {
        "alpha": reading.alpha,
        "setpoint": reading.setpoint,
        "running mean": reading.running_mean,
        "effort": reading.effort,
    }
    return ", ".join(f"{name} {value:.2f}" for name, value in values.items() if math.isfinite(value))


def coloured_tokens(tokens: Sequence[Token], controller: str) -> Text:
    """Return the tokens, each in the colour of its alpha; those that were not measured are plain."""
    text = Text()
    for token in tokens:
        reading = token.readings.get(controller)
        text.append(visible(token.text), style=colour(reading.alpha) if reading is not None else "")
    return text


def colour(alpha: float) -> str:
    """Return the colour between the poles': blue at 0, grey at a half, green at 1."""
    if not math.isfinite(alpha):
        return ""
    share = 2 * min(1.0, max(0.0, alpha)) - 1
    far = POSITIVE if share > 0 else NEGATIVE
    parts = [round(near + abs(share) * (there - near)) for near, there in zip(NEUTRAL, far, strict=True)]
    return f"rgb({','.join(map(str, parts))})"


def numbered_tokens(tokens: Sequence[Token], controller: str) -> str:
    """Return the tokens with their alphas, for where there are no colours: `the[0.42] sea[0.90]`."""
    return "".join(
        visible(token.text) + (f"[{token.readings[controller].alpha:.2f}]" if controller in token.readings else "")
        for token in tokens
    )
