"""Tables and numbers of the report, as Markdown. Knows nothing of what they say."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from edgesteer.evaluate.statistics import Interval

NONE = "-"


def table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table; a bar in a cell stays a bar."""
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def number(value: float, digits: int = 2) -> str:
    """Return a number with so many digits after the point; what could not be computed is a dash."""
    if not math.isfinite(value):
        return NONE
    return f"{round(value, digits) + 0.0:.{digits}f}"


def percent(share: float) -> str:
    return NONE if not math.isfinite(share) else f"{100 * share:.0f} %"


def interval(found: Interval, digits: int = 2) -> str:
    """Return an estimate and its limits, if it has any."""
    value = number(found.value, digits)
    if not (math.isfinite(found.low) and math.isfinite(found.high)) or value == NONE:
        return value
    return f"{value} ({number(found.low, digits)} to {number(found.high, digits)})"


def rate(found: Interval) -> str:
    """Return a share and its limits in percent."""
    if not math.isfinite(found.value):
        return NONE
    return f"{percent(found.value)} ({percent(found.low)} to {percent(found.high)})"
