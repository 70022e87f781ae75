"""How results look: rich in a terminal, plain text in a pipe, JSON for programs. Knows no model and no file format."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from edgesteer.runtime.sequence import Timings
    from edgesteer.runtime.telemetry import SteeringReport


def console(stream: TextIO | None = None) -> Console:
    """Return a rich console on a stream, stdout by default."""
    return Console(file=stream or sys.stdout, highlight=False, markup=False)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns on stdout; a pipe gets them without lines, colours and folded cells."""
    cells = [headers, *rows]
    if sys.stdout.isatty():
        table = Table(*headers, box=box.SIMPLE_HEAD, pad_edge=False)
        for row in cells[1:]:
            table.add_row(*row)
        console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def print_json(value: object) -> None:
    """Print a JSON value on stdout, in one line."""
    print(json.dumps(as_plain(value), allow_nan=False))


def as_plain(value: Any) -> Any:
    """Return a value as JSON has it: dataclasses become objects, numbers that are not finite become null."""
    if is_dataclass(value):
        return {field.name: as_plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {key: as_plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(each) for each in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def format_bytes(count: int) -> str:
    """Return a size in decimal units: 169 kB."""
    size, units = float(count), iter(("B", "kB", "MB", "GB"))
    unit = next(units)
    while size >= 999.5 and unit != "GB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}"


class LoopSummary(NamedTuple):
    """What the closed loop measured over one text, in a few numbers; nan where nothing was measured."""

    alpha: float
    running_mean: float
    error_before: float
    error_after: float
    effort: float
    error_bound: float
    violations: int
    checks: int

    def __str__(self) -> str:
        means = {"alpha mean": self.alpha, "running mean": self.running_mean, "effort": self.effort}
        shown = [f"{name} {value:.2f}" for name, value in means.items() if math.isfinite(value)]
        shown.append(f"tracking error {self.error_before:.2f} -> {self.error_after:.2f}")
        if self.checks:
            shown.append(f"bound {self.error_bound:.2f} exceeded {self.violations} times in {self.checks}")
        return ", ".join(shown)


def summarize(report: SteeringReport) -> LoopSummary:
    last_mean = report.running_mean[-1] if report.running_mean else math.nan
    return LoopSummary(
        _mean(report.alpha),
        last_mean,
        report.error_before,
        report.error_after,
        _mean(report.effort),
        report.error_bound,
        sum(report.violations),
        sum(report.checks),
    )


def speed(timings: Timings) -> str:
    return f"{timings.predicted_per_second:.1f} tokens/s"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


class Bars:
    """The exporter's Progress: a bar a stage with the time left in a terminal, a line a stage in a pipe."""

    def __init__(self, progress: Progress | None, quiet: bool, *, animated: bool = True) -> None:
        self._progress = progress
        self._quiet = quiet
        self._animated = animated

    def stage(self, name: str, total: int) -> Callable[[], None]:
        if self._progress is None:
            if not self._quiet:
                print(f"{name} ({total} steps)", file=sys.stderr, flush=True)
            return lambda: None
        progress, task = self._progress, self._progress.add_task(name, total=total)
        if not self._animated:
            progress.refresh()
        return lambda: progress.update(task, advance=1, refresh=not self._animated)


@contextmanager
def progress_bars(*, quiet: bool = False, animated: bool = True) -> Iterator[Bars]:
    """Draw stages on stderr for the time of the body. animated: several times a second, else after each step only."""
    target = console(sys.stderr)
    if quiet or not target.is_terminal:
        yield Bars(None, quiet)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=target, auto_refresh=animated) as progress:
        yield Bars(progress, quiet, animated=animated)
