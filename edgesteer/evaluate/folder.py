"""The files of one experiment: run.json says what it is, results.jsonl holds a record a line, as far as it has come.

A line is written whole and flushed, or dropped by the next run. Knows no model and no engine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.record import Key, Record, plain
from edgesteer.files import atomic_write

SETTINGS = "run.json"
RESULTS = "results.jsonl"


class ResultsFolder:
    """Where the records of an experiment go. Use as a context manager.

    settings: all that decides the results, as plain data. force: drop what another run left in the folder.
    Raises EdgeSteerError when the folder holds another experiment, or cannot be written.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any], *, force: bool = False) -> None:
        self.path = path
        self.records: list[Record] = []
        """What earlier runs have left, each text once."""
        self._results = path / RESULTS
        self._file: IO[bytes] | None = None
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EdgeSteerError("the folder cannot be made", where=path, found=error.strerror) from error
        wanted = plain(json.loads(json.dumps(settings)))
        if not force and (self._results.exists() or (path / SETTINGS).exists()):
            check_same(read_settings(path), wanted, path)
            self.records = read_records(path)
        self._write(self.records)
        with atomic_write(path / SETTINGS) as temporary:
            temporary.write_text(json.dumps(wanted, indent=1) + "\n", encoding="utf-8")

    def append(self, record: Record) -> None:
        assert self._file is not None
        self._file.write(f"{record.to_line()}\n".encode())
        self._file.flush()

    def finish(self, records: Iterable[Record]) -> None:
        """Let the file hold these records in their order, whatever a kill left between them."""
        self._write(records)

    def _write(self, records: Iterable[Record]) -> None:
        with atomic_write(self._results) as temporary:
            temporary.write_text("".join(f"{record.to_line()}\n" for record in records), encoding="utf-8")

    def __enter__(self) -> ResultsFolder:
        self._file = self._results.open("ab")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._file is not None
        self._file.close()


def read_records(path: Path) -> list[Record]:
    """Return the records of a folder; of two of one text the later, and no torn last line.

    Raises EdgeSteerError when the file is missing or a line is no record.
    """
    results = path / RESULTS
    found: dict[Key, Record] = {}
    try:
        lines = results.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    except OSError as error:
        raise EdgeSteerError("the results cannot be read", where=results, found=error.strerror) from error
    for number, line in enumerate(lines, start=1):
        try:
            record = Record.from_line(line)
        except ValueError as error:
            remedy = "Take the line out, or start anew with --force."
            raise EdgeSteerError("not a record", where=f"{results}, line {number}", remedy=remedy) from error
        found[record.key] = record
    return list(found.values())


def read_settings(path: Path) -> dict[str, Any]:
    """Return what an experiment is. Raises EdgeSteerError when its file cannot be used."""
    try:
        settings = json.loads((path / SETTINGS).read_text(encoding="utf-8"))
        return dict(settings)
    except (OSError, ValueError, TypeError) as error:
        raise EdgeSteerError("not the header of an experiment", where=path / SETTINGS, found=error) from error


def check_same(old: Mapping[str, Any], new: Mapping[str, Any], path: Path) -> None:
    """Raise EdgeSteerError, with what differs, unless both are the same experiment."""
    if differing := [name for name in {**old, **new} if old.get(name) != new.get(name)]:
        raise EdgeSteerError(
            "the folder holds another experiment",
            where=path,
            expected=", ".join(f"{name} {json.dumps(new.get(name))}" for name in differing),
            found=", ".join(f"{name} {json.dumps(old.get(name))}" for name in differing),
            remedy="Give another folder with -o, or start anew with --force.",
        )
