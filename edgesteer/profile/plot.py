"""Pictures of a profile and of quantizations, from their documents. Needs matplotlib, which is imported to draw."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgesteer.errors import EdgeSteerError
from edgesteer.extras import needs_extra
from edgesteer.plot import save
from edgesteer.profile.consumption import joules_per_token
from edgesteer.profile.document import CELL, STEERED, Document, per_repeat
from edgesteer.profile.report import HEADERS

PANEL_INCHES = (4.5, 3.2)
COLOURS = {False: "tab:gray", True: "tab:purple"}
LINES = ("-", "--", "-.", ":")
CONTEXT = "context"
"""What prompt_len and gen_len come to: for TTFT the prompt, else the mean context while a text is generated."""
MOST_TICKS = 8
LABELS = {CONTEXT: "tokens of context", "batch": "requests at once", "threads": "threads", "n_gpu_layers": "GPU layers"}
REPEAT = "repeat"

Series = Mapping[str, Any]
Point = tuple[float, float]


def plot_profile(document: Document, path: str | os.PathLike[str]) -> None:
    """Draw latency and energy against everything that was swept; against the repeats where nothing was.

    The path's suffix is the format; none is png. Raises MissingExtraError without matplotlib, EdgeSteerError when there
    is nothing to draw or the file cannot be written.
    """
    if not document["series"]:
        raise EdgeSteerError("nothing was measured that could be drawn", where=path)
    axes_names = _swept(document) or [REPEAT]
    quantities = [name for name in ("ttft_ms", "tpot_ms", "joules_per_token") if _is_known(document, name)]
    figure, panels = _figure(len(quantities), len(axes_names))
    for row, quantity in zip(panels, quantities, strict=True):
        for panel, name in zip(row, axes_names, strict=True):
            _draw(panel, document, quantity, name)
    save(figure, Path(path))


def _figure(rows: int, columns: int) -> tuple[Any, Any]:
    with needs_extra("profile"):
        from matplotlib.figure import Figure
    width, height = PANEL_INCHES
    figure = Figure(figsize=(columns * width, rows * height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _swept(document: Document) -> list[str]:
    return [name for name in LABELS if len({_coordinate(series, name, "") for series in document["series"]}) > 1]


def _coordinate(series: Series, name: str, quantity: str) -> float:
    if name == CONTEXT:
        return float(series["prompt_len"] + (0 if quantity == "ttft_ms" else series["gen_len"] / 2))
    return float(series[name])


def _is_known(document: Document, quantity: str) -> bool:
    return any(_value(document, series, quantity) is not None for series in document["series"])


def _value(document: Document, series: Series, quantity: str) -> float | None:
    if quantity == "joules_per_token":
        return joules_per_token(series, document["energy"]["meters"])
    summary = series["summary"][quantity]
    return None if summary is None else float(summary["median"])


def _draw(panel: Any, document: Document, quantity: str, name: str) -> None:
    """Draw a line for each combination of everything else; dots are single repeats."""
    titles = {"ttft_ms": "time to the first token, ms", "tpot_ms": "time per token, ms", "joules_per_token": "J/token"}
    panel.set(xlabel=LABELS.get(name, name), ylabel=titles[quantity])
    lines: dict[tuple[Any, ...], list[Series]] = {}
    for series in document["series"]:
        lines.setdefault(_others(document, series, name, quantity), []).append(series)
    for number, (others, members) in enumerate(lines.items()):
        steered = members[0]["variant"] == STEERED
        style = {"color": COLOURS[steered], "linestyle": LINES[number // 2 % len(LINES)]}
        repeats = name == REPEAT
        points = _repeats(document, members[0], quantity) if repeats else _points(document, members, quantity, name)
        panel.plot(*zip(*points, strict=True), marker=".", label=", ".join(map(str, others)), **style)
    places = {_coordinate(series, name, quantity) for series in document["series"]} if name != REPEAT else set()
    if 0 < len(places) <= MOST_TICKS:
        panel.set_xticks(sorted(places))
    panel.set_ylim(bottom=0)
    panel.legend(fontsize="small")


def _others(document: Document, series: Series, name: str, quantity: str) -> tuple[Any, ...]:
    """Return what tells a line from the others, in words."""
    names = [each for each in CELL if len({one[each] for one in document["series"]}) > 1]
    own: tuple[str, ...] = (name,)
    if name == CONTEXT:
        own = ("prompt_len",) if quantity == "ttft_ms" else ("prompt_len", "gen_len")
    return (series["variant"], *(f"{HEADERS[each]} {series[each]}" for each in names if each not in own))


def _points(document: Document, members: Sequence[Series], quantity: str, name: str) -> list[Point]:
    values = [(_coordinate(series, name, quantity), _value(document, series, quantity)) for series in members]
    return sorted((at, value) for at, value in values if value is not None)


def _repeats(document: Document, series: Series, quantity: str) -> list[Point]:
    if quantity == "joules_per_token":
        value = _value(document, series, quantity)
        return [] if value is None else [(0.0, value)]
    return list(enumerate(map(float, per_repeat(series["samples"], quantity))))


def plot_quantizations(document: Document, path: str | os.PathLike[str]) -> None:
    """Draw the quality of every file against its speed, and against its joules per token where they were measured.

    Files on the line are those that no other file beats in both. Raises as plot_profile does.
    """
    found = [each for each in document["models"] if each["profile"]["series"]]
    if not found:
        raise EdgeSteerError("nothing was measured that could be drawn", where=path)
    drawn = {}
    for label, quantity in (("tokens/s", _speed), ("J/token", _joules)):
        values = [quantity(each["profile"]) for each in found]
        if None not in values:
            drawn[label] = values
    if not drawn:
        raise EdgeSteerError("nothing was measured that could be drawn", where=path)
    figure, axes = _figure(1, len(drawn))
    for panel, (label, values) in zip(axes[0], drawn.items(), strict=True):
        _draw_quality(panel, found, values, more_is_better=label == "tokens/s")
        panel.set(xlabel=label, ylabel="-log p, nats per token")
    save(figure, Path(path))


def _speed(document: Document) -> float | None:
    speed: float | None = document["series"][0]["decode_tokens_per_second"]
    return speed


def _joules(document: Document) -> float | None:
    return _value(document, document["series"][0], "joules_per_token")


def _draw_quality(
    panel: Any, models: Sequence[Mapping[str, Any]], values: Sequence[Any], *, more_is_better: bool
) -> None:
    points = [(value, each["quality"]["nll"]) for each, value in zip(models, values, strict=True)]
    for each, (value, nll) in zip(models, points, strict=True):
        name = Path(each["profile"]["model"]["path"]).stem
        panel.plot(value, nll, "o", color="tab:blue")
        panel.annotate(name, (value, nll), xytext=(4, 4), textcoords="offset points", fontsize="small")
    best = frontier(points, more_is_better=more_is_better)
    panel.plot(*zip(*best, strict=True), color="tab:blue", alpha=0.4)


def frontier(points: Sequence[Point], *, more_is_better: bool) -> list[Point]:
    """Return, in order of x, the points that no other is at least as good as in both and better in one.

    Less y is better; more_is_better is said of x.
    """
    sign = -1 if more_is_better else 1

    def beaten(point: Point) -> bool:
        x, y = sign * point[0], point[1]
        return any(sign * a <= x and b <= y and (sign * a < x or b < y) for a, b in points)

    return sorted(point for point in points if not beaten(point))
