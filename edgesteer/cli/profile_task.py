"""What one `edgesteer profile` does: measure, print, write. Tables go to stdout, progress to stderr.

The first Ctrl-C ends measuring and lets the rest happen, the second one ends the program.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgesteer.cli.console import print_table, progress_bars
from edgesteer.cli.options import check_output
from edgesteer.cli.request import read_bytes, require_utf8
from edgesteer.errors import EdgeSteerError
from edgesteer.plot import picture_kind

if TYPE_CHECKING:
    from edgesteer.profile.document import Document
    from edgesteer.profile.latency import Budget
    from edgesteer.profile.report import Table
    from edgesteer.profile.run import Surroundings
    from edgesteer.profile.sweep import Progress, Settings, SteerWith, Sweeper

INTERRUPTED = "interrupted"


@dataclass(frozen=True)
class Files:
    """What is written, and the folder and text of --quantizations."""

    json: Path | None
    csv: Path | None
    trace: Path | None
    plot: Path | None
    folder: Path | None
    text: Path | None

    def check(self, *inputs: Path) -> None:
        """Raise EdgeSteerError now when one could not be written later, or does not go with the others.

        inputs: files that are read, beside those of the folder.
        """
        if self.folder is not None and (self.csv or self.trace):
            raise EdgeSteerError("--csv and --trace do not go with --quantizations", remedy="Use --json.")
        if (self.folder is None) != (self.text is None):
            raise EdgeSteerError("--quantizations and --text go together")
        for path in (self.json, self.csv, self.trace, self.plot):
            if path is not None:
                check_output(path, *inputs, *(self.folder.glob("*.gguf") if self.folder is not None else ()))
        if self.plot is not None:
            picture_kind(self.plot)


@dataclass(frozen=True)
class Task:
    """What one command line asks for. quantities: among report.QUANTITIES."""

    settings: Settings
    quantities: tuple[str, ...]
    files: Files
    steer: SteerWith | None
    budget: Budget

    @property
    def sidecars(self) -> tuple[Path, ...]:
        return self.steer.sidecars if self.steer is not None else ()

    def sweeper(self, surroundings: Surroundings, progress: Progress) -> Sweeper:
        from edgesteer.profile.sweep import Sweeper

        return Sweeper(
            self.settings, progress, steer=self.steer, instruments=surroundings.instruments, budget=self.budget
        )

    def profile_model(self, path: Path) -> None:
        """Measure one model; print and write what there is, also after a failure."""
        from edgesteer.profile import report, run

        with progress_bars(animated=False) as progress:  # drawing would take time from what is measured
            surroundings = run.survey(self.quantities, progress)
            sweep = self.sweeper(surroundings, progress).run(path)
            traced, failure = None, sweep.error
            try:
                if self.files.trace is not None:
                    traced = run.trace_model(path, self.settings, self.steer, self.budget)
            except EdgeSteerError as error:  # what was measured before is shown all the same
                failure = failure or error
            memory = run.bandwidths_for(self.settings, self.quantities, self.budget, progress)
        found = run.document_of(sweep, surroundings, steering_files=self.sidecars, bandwidths=memory, trace=traced)
        print_report(report.heading(found), report.tables(found, self.quantities), report.notes(found, self.quantities))
        self.write(found)
        if self.files.trace is not None and traced is not None:
            traced.write(self.files.trace)
        if failure is not None:
            raise failure

    def write(self, found: Document) -> None:
        from edgesteer.profile import document, plot

        if self.files.json is not None:
            document.write_json(self.files.json, found)
        if self.files.csv is not None:
            document.write_csv(self.files.csv, found)
        if self.files.plot is not None and (found.get("series") or found.get("models")):
            draw = plot.plot_profile if self.files.folder is None else plot.plot_quantizations
            draw(found, self.files.plot)

    def profile_folder(self) -> None:
        """Measure all quantizations in a folder; print and write what there is."""
        from edgesteer.profile import quantizations, report, run

        assert self.files.folder is not None
        assert self.files.text is not None
        models, text = quantizations.find_models(self.files.folder), read_text(self.files.text)
        with progress_bars(animated=False) as progress:  # drawing would take time from what is measured
            surroundings = run.survey(self.quantities, progress)
            measure = self.sweeper(surroundings, progress).run
            result = quantizations.measure_quantizations(models, text, measure, self.settings, self.budget, progress)
            memory = run.bandwidths_for(self.settings, self.quantities, self.budget, progress)
        profiles = [
            run.document_of(each.sweep, surroundings, steering_files=self.sidecars, bandwidths=memory)
            for each in result.files
        ]
        found = quantizations.make_quantizations_document(result, profiles, self.files.text)
        notes = [note for each in profiles[:1] for note in report.energy_notes(each, self.quantities)]
        table = quantizations.quantizations_table(found)
        print_report("", [table] if table.rows else [], [*quantizations.quantizations_notes(found), *notes])
        self.write(found)


@contextmanager
def ended_by_interrupt(budget: Budget) -> Iterator[None]:
    """Let the first Ctrl-C end measuring between two decodes; a second one does what Ctrl-C does. Main thread only."""
    handler = signal.getsignal(signal.SIGINT)

    def end(*_: object) -> None:
        signal.signal(signal.SIGINT, handler)
        budget.stop(INTERRUPTED)

    if callable(handler):  # else ignored, as for a job in the background
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def read_text(path: Path) -> str:
    """Raises EdgeSteerError when the file cannot be read or is not UTF-8."""
    text, where = read_bytes(path)
    return require_utf8(text.decode("utf-8-sig", "surrogateescape"), where)


def print_report(heading: str, tables: Sequence[Table], notes: Sequence[str]) -> None:
    if heading:
        print(heading)
    for table in tables:
        print(f"\n{table.title}")
        print_table(table.headers, table.rows)
    if notes:
        print()
    for note in notes:
        print(note)
