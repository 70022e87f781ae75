"""The output of bulk generation: a JSON object a line, and what earlier runs have left there.

A line is written whole and flushed, or cut off by the next run. Knows no engine and no input.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from edgesteer.cli.console import as_plain
from edgesteer.errors import EdgeSteerError
from edgesteer.files import atomic_write

Record = Mapping[str, Any]
Key = str | int

START = b'{"id": '
"""How every line begins; a file that begins otherwise is somebody else's."""


class Output:
    """Where the records go. Use as a context manager.

    path: of the file; None is standard output, which remembers nothing. settings: what every text of this output is
    made with; each one's record repeats it.
    Raises EdgeSteerError when the file is no output of bulk generation, or was made with other settings.
    """

    def __init__(self, path: Path | None, settings: Record) -> None:
        self._settings: dict[str, Any] = json.loads(json.dumps(as_plain(dict(settings))))
        self._finished: dict[Key, tuple[str, set[int]]] = {}
        self._file: IO[bytes] | None = None
        if path is not None:
            if path.is_file():
                self._resume(path.resolve())
            self._file = path.open("ab")

    def has(self, key: Key, sample: int, digest: str) -> bool:
        """Return whether the file holds a text. Raises EdgeSteerError when it was made from another line."""
        if key not in self._finished:
            return False
        made_from, samples = self._finished[key]
        if made_from != digest:
            raise EdgeSteerError(
                "the output has texts of this id that were made from another line",
                remedy="Give the line another id, or take those texts out of the output.",
            )
        return sample in samples

    def write(self, record: Record) -> None:
        """Write a record as a line of its own: of a text, with the settings, or of an error."""
        settings = {} if "error" in record else {"settings": self._settings}
        line = json.dumps(as_plain({**record, **settings}), allow_nan=False)
        if self._file is None:
            print(line, flush=True)
            return
        self._file.write(f"{line}\n".encode())
        self._file.flush()

    def __enter__(self) -> Output:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    # ---- what earlier runs have left ----

    def _resume(self, path: Path) -> None:
        """Take note of the texts in the file; take out a torn line, and errors, whose lines are tried again."""
        length, failed = 0, False
        for line, data in enumerate(whole_lines(path), start=1):
            length += len(data)
            failed |= self._note(data, f"{path}, line {line}")
        if length < path.stat().st_size:
            with path.open("rb+") as file:
                file.truncate(length)
        if failed:
            with atomic_write(path) as temporary, temporary.open("wb") as file:
                file.writelines(data for data in whole_lines(path) if "error" not in json.loads(data))

    def _note(self, data: bytes, where: str) -> bool:
        """Take note of one line; return whether it is an error."""
        record = decode_record(data, where)
        if "error" in record:
            return True
        if record["settings"] != self._settings:
            raise EdgeSteerError(
                "this text was made with other settings",
                where=where,
                found=difference(record["settings"], self._settings),
                remedy="Give those settings again, or another --output.",
            )
        self._finished.setdefault(record["id"], (record["input"], set()))[1].add(record["sample"])
        return False


def whole_lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of an output, less a last one that was torn. Raises EdgeSteerError for another kind of file."""
    with path.open("rb") as file:
        head = file.read(len(START))
        if not START.startswith(head):
            raise not_ours(str(path))
        file.seek(0)
        yield from (data for data in file if data.endswith(b"\n"))


def decode_record(data: bytes, where: str) -> dict[str, Any]:
    """Return the record of a line. Raises EdgeSteerError when it is none."""
    try:
        record: dict[str, Any] = json.loads(data)
        whole = record.keys() >= {"sample", "input", "settings"} and isinstance(record.get("id"), str | int)
        if "error" in record or whole:
            return record
    except (ValueError, TypeError, AttributeError):
        pass
    raise not_ours(where)


def not_ours(where: str) -> EdgeSteerError:
    return EdgeSteerError("not a line of bulk generation's output", where=where, remedy="Give another --output.")


def difference(old: Record, new: Record) -> str:
    """Return what sets two settings apart: `temp 0.8, now 1`."""
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return ", ".join(f"{name} {shown(old, name)}, now {shown(new, name)}" for name in names)


def shown(settings: Record, name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "as by default"


class Outbox:
    """Passes records on to be written: at once, or in the order in which their places were taken."""

    def __init__(self, output: Output, *, ordered: bool) -> None:
        self._output = output
        self._ordered = ordered
        self._taken = self._written = self._next = 0
        self._held: dict[int, Record] = {}

    @property
    def open(self) -> int:
        """Places that were taken and whose records are not written yet."""
        return self._taken - self._written

    def place(self) -> int:
        """Take the next place."""
        self._taken += 1
        return self._taken - 1

    def put(self, place: int, record: Record) -> None:
        """Write a record now, or once all before it are there."""
        self._held[place] = record
        if not self._ordered:
            self.flush()
        while self._next in self._held:
            self._write(self._next)
            self._next += 1

    def flush(self) -> None:
        """Write what is held back, without what is missing before it."""
        for place in sorted(self._held):
            self._write(place)

    def _write(self, place: int) -> None:
        self._output.write(self._held.pop(place))
        self._written += 1
