"""Bulk generation: every line of an input through one batch, and its texts to an output.

Reads lazily: it holds the lines that are in flight, and of the others only their ids, to tell repeated ones.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from edgesteer.cli.bulk_lines import Line, Lines
from edgesteer.cli.bulk_output import Outbox, Output
from edgesteer.cli.bulk_progress import BulkProgress
from edgesteer.cli.bulk_task import Settings, Task, decode_table, id_of, parse_task
from edgesteer.cli.console import as_plain, summarize
from edgesteer.cli.interrupt import interrupt_later
from edgesteer.cli.options import check_output
from edgesteer.cli.records import timings_record
from edgesteer.cli.request import SteerValue
from edgesteer.errors import EdgeSteerError
from edgesteer.fingerprint import sha256_of_file

if TYPE_CHECKING:
    from edgesteer.runtime.batch import Batch
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.request import Request
    from edgesteer.runtime.sequence import Generation
    from edgesteer.runtime.sequence import Sequence as TextSequence

QUEUED = 2
"""Texts that wait in the batch, so that a place in it is taken as soon as it is free."""
AHEAD = 16
"""Texts in flight for each one that runs: so far may others get ahead of a long one whose record must come first."""


@dataclass
class Work:
    """An input line in flight. left: its texts that have not ended."""

    line: Line
    left: int


@dataclass(frozen=True)
class Job:
    """One text of a line."""

    work: Work
    task: Task
    sample: int
    request: Request


def open_lines(source: Path, output: Path | None, parallel: int) -> Lines:
    """Return the lines of the input. Raises EdgeSteerError when it cannot be read, or the output not be written."""
    if output is not None and not output.is_char_device() and not output.is_fifo():
        check_output(output, source)
    return Lines(source, QUEUED + parallel)


def generate_lines(
    engine: Engine,
    values: Sequence[SteerValue],
    defaults: Settings,
    lines: Lines,
    output: Path | None,
    *,
    ordered: bool,
) -> None:
    """Generate every text that the lines ask for and the output does not have. Raises Exit(1) when any failed.

    values: of --steer, one for each of the default steerings.
    """
    from edgesteer.runtime.batch import Batch

    settings, bar = settings_record(engine.model, values, defaults), output is not None or not sys.stdout.isatty()
    with Output(output, settings) as file, BulkProgress(lines.size, bar=bar) as progress:
        run = BulkRun(Batch(engine), lines, file, defaults, progress, ordered=ordered)
        run.run()
    if run.cut_off:
        share = engine.context_tokens // engine.n_sequences
        print(
            f"Warning: texts that were cut off where their share of the context ({share} tokens) was full: "
            f"{run.cut_off}; use a larger --ctx-size, or a smaller --parallel",
            file=sys.stderr,
        )
    if progress.failed:
        raise typer.Exit(1)


class BulkRun:
    """One run over an input; as many texts at a time as the batch has places."""

    def __init__(
        self, batch: Batch, lines: Lines, output: Output, defaults: Settings, progress: BulkProgress, *, ordered: bool
    ) -> None:
        self._batch = batch
        self._parallel = batch.engine.n_sequences
        self._lines = lines
        self._output = output
        self._outbox = Outbox(output, ordered=ordered)
        self._defaults = defaults
        self._progress = progress
        self._ids: set[str | int] = set()
        self._warned: set[str] = set()
        self._jobs: deque[Job] = deque()
        self._running: dict[TextSequence, tuple[Job, int]] = {}
        """The job of each sequence, and the place of its record."""
        self.cut_off = 0
        """Texts that ended because the context was full."""

    def run(self) -> None:
        """Go through the input. Ctrl-C leaves in the output what was done."""
        try:
            while self._fill():
                with interrupt_later():
                    self._step()
                self._progress.show()
        except KeyboardInterrupt:
            self._outbox.flush()
            raise

    def _fill(self) -> bool:
        """Start texts while there is room; return whether any runs. Waits for input only when none does."""
        while len(self._running) < self._parallel + QUEUED and self._outbox.open < AHEAD * self._parallel:
            if self._jobs:
                with interrupt_later():
                    self._start(self._jobs.popleft())
            elif line := self._lines.take(wait=not self._running):
                with interrupt_later():
                    self._prepare(line)
            else:
                break
        return bool(self._running)

    def _prepare(self, line: Line) -> None:
        """Read a line, and make a job of each of its texts that the output does not have."""
        work, key, jobs = Work(line, 0), None, []
        try:
            table = decode_table(line)
            key = id_of(table, line)
            jobs = self._jobs_of(work, parse_task(table, key, self._defaults))
        except EdgeSteerError as error:
            self._fail(line, key, None, error, self._outbox.place())
        self._jobs.extend(jobs)
        work.left = len(jobs)
        if not jobs:
            self._progress.advance(line.size, fresh=False)

    def _jobs_of(self, work: Work, task: Task) -> list[Job]:
        if task.id in self._ids:
            raise EdgeSteerError("an earlier line has the same id", found=repr(task.id), remedy="Give it another.")
        self._ids.add(task.id)
        samples = range(task.settings.samples)
        missing = [sample for sample in samples if not self._output.has(task.id, sample, task.digest)]
        self._progress.skipped += len(samples) - len(missing)
        if not missing:
            return []
        prompt = task.prompt(self._batch.engine.model)
        return [Job(work, task, sample, task.request(prompt, sample)) for sample in missing]

    def _start(self, job: Job) -> None:
        place = self._outbox.place()
        try:
            sequence = self._batch.submit(job.request)
        except EdgeSteerError as error:
            self._end(job, place, error)
            return
        self._running[sequence] = job, place
        for warning in self._warnings(job):
            if warning not in self._warned:
                self._warned.add(warning)
                print(f"Warning: {warning}", file=sys.stderr)

    def _warnings(self, job: Job) -> list[str]:
        from edgesteer.runtime.generate import outside_safe_range

        controllers = {each.name: each for each in self._batch.controllers}
        found = [outside_safe_range(controllers[each.controller], each.strength) for each in job.request.steering]
        return [each for each in found if each]

    def _step(self) -> None:
        """Run one decode; write the texts that end with it."""
        for sequence, event in self._batch.step():
            if isinstance(event, EdgeSteerError):
                self._end(*self._running.pop(sequence), event)
                continue
            self._progress.tokens += event.token is not None
            if event.result is not None:
                self._end(*self._running.pop(sequence), event.result)

    def _end(self, job: Job, place: int, result: Generation | EdgeSteerError) -> None:
        """Write what became of a text."""
        if isinstance(result, EdgeSteerError):
            self._fail(job.work.line, job.task.id, job.sample, result, place)
        else:
            self._progress.texts += 1
            self.cut_off += result.stop_reason == "context"
            self._outbox.put(place, text_record(job, result, self._warnings(job)))
        job.work.left -= 1
        if not job.work.left:
            self._progress.advance(job.work.line.size)

    def _fail(self, line: Line, key: str | int | None, sample: int | None, error: EdgeSteerError, place: int) -> None:
        """Report an error on stderr and in the output."""
        self._progress.failed += 1
        message = " ".join(str(error).splitlines())
        print(f"Error: {self._lines.name}, line {line.number}: {message}", file=sys.stderr)
        self._outbox.put(place, {"id": key, "sample": sample, "line": line.number, "error": message})


def text_record(job: Job, generation: Generation, warnings: list[str]) -> dict[str, Any]:
    """Return what the output says of a text."""
    return {
        "id": job.task.id,
        "sample": job.sample,
        "text": generation.text,
        "n_tokens": len(generation.tokens),
        "stop_reason": generation.stop_reason,
        "timings": timings_record(generation.timings),
        "seed": job.request.sampling.seed,
        "steering": job.request.steering,
        "telemetry": {report.controller: summarize(report)._asdict() for report in generation.steering},
        "warnings": warnings,
        "input": job.task.digest,
    }


def settings_record(model: LlamaModel, values: Sequence[SteerValue], defaults: Settings) -> dict[str, Any]:
    """Return what the command line decides of every text: the model, --steer, and what differs from the defaults."""
    name = model.fingerprint.model_name or model.path.stem
    return {
        "model": f"{name}, {model.path.stat().st_size} bytes",
        "steer": [
            {"file": value.file.name, "sha256": sha256_of_file(value.file)[:12], **as_plain(steering)}
            for value, steering in zip(values, defaults.steering, strict=True)
        ],
        **changed(defaults.sampling),
        **{name: value for name, value in changed(defaults).items() if name not in ("sampling", "steering", "samples")},
    }


def changed(options: Any) -> dict[str, Any]:
    """Return the fields of a dataclass that do not have their defaults."""
    values = {field.name: getattr(options, field.name) for field in fields(options)}
    return {field.name: values[field.name] for field in fields(options) if values[field.name] != field.default}
