"""Sums of finished prompts, kept in a folder beside an export's output until it is there, so that a rerun continues.

A file holds one process's sum of one mean, and which prompts are in it. Knows no torch and no processes.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EdgeSteerError
from edgesteer.files import atomic_write

SAVING_SHARE = 0.05
"""How much of the time may go into saving, but for one save at the end of each sum."""


def unfinished(output: Path) -> Path:
    """Return the folder of the checkpoint of an export to a file."""
    return output.with_name(f"{output.name}.unfinished")


@dataclass(frozen=True)
class Sum:
    """A sum over some prompts."""

    prompts: frozenset[int] = frozenset()
    total: NDArray[np.float64] | None = None
    """None while there are no prompts."""

    def __add__(self, other: Sum) -> Sum:
        """Return the sum over the prompts of both, or this one where the other has a prompt of it."""
        if self.total is None or other.total is None or self.prompts & other.prompts:
            return other if self.total is None else self
        return Sum(self.prompts | other.prompts, self.total + other.total)


@dataclass
class Checkpoint:
    """The sums of one export. The folder is made when there is something to keep."""

    folder: Path
    settings: str
    """A digest of all that decides the sums."""
    _not_before: float = field(default=0.0, init=False)

    def check(self) -> None:
        """Raise EdgeSteerError when the folder belongs to an export with other settings."""
        if self._settings_file.exists() and self._settings_file.read_bytes() != self.settings.encode():
            raise EdgeSteerError(
                "holds an unfinished export of another model, concept, options or version",
                where=self.folder,
                remedy="Finish that one, delete the folder, or write to another file.",
            )

    def load(self, name: str, rank: int, size: int) -> Sum:
        """Return what earlier runs have left for process `rank` of `size`, of however many those had.

        Raises EdgeSteerError when a file is damaged.
        """
        left = Sum()
        for number in range(rank, 1 + max(self._numbers(name), default=-1), size):
            if (path := self._file(name, number)).exists():
                left += read_sum(path)
        return left

    def save(self, name: str, rank: int, size: int, kept: Sum, *, now: bool) -> None:
        """Keep a sum in place of those that `load` gave; now: even if that was done a moment ago.

        Raises EdgeSteerError when the disk is full.
        """
        if kept.total is None or (not now and time.monotonic() < self._not_before):
            return
        started = time.monotonic()
        if not self._settings_file.exists():
            self.folder.mkdir(exist_ok=True)
            with atomic_write(self._settings_file) as temporary:
                temporary.write_text(self.settings, "utf-8")
        with atomic_write(self._file(name, rank)) as temporary, open(temporary, "wb") as file:
            np.savez(file, prompts=sorted(kept.prompts), total=kept.total)
        for number in self._numbers(name):
            if number % size == rank and number != rank:
                self._file(name, number).unlink(missing_ok=True)
        took = time.monotonic() - started
        self._not_before = started + took / SAVING_SHARE

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def _settings_file(self) -> Path:
        return self.folder / "settings"

    def _file(self, name: str, number: int) -> Path:
        return self.folder / f"{name}.{number}.npz"

    def _numbers(self, name: str) -> list[int]:
        return [int(path.name.split(".")[-2]) for path in self.folder.glob(f"{name}.*.npz")]


def checkpoint_of(output: Path, *settings: object) -> Checkpoint:
    """Return the checkpoint of an export to a file; settings: all that decides the sums, by their repr.

    Raises EdgeSteerError when there is one with other settings.
    """
    digest = hashlib.sha256("\n".join(map(repr, settings)).encode()).hexdigest()
    checkpoint = Checkpoint(unfinished(output), digest)
    checkpoint.check()
    return checkpoint


def read_sum(path: Path) -> Sum:
    """Return the sum in a file. Raises EdgeSteerError when it is damaged."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Sum(frozenset(arrays["prompts"].tolist()), arrays["total"])
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise EdgeSteerError(
            "the sums of an unfinished export are damaged", where=path, found=error, remedy="Delete this file."
        ) from error
