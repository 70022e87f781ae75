"""Workers: the processes that share an export's prompts, each of which holds the whole model. Alone by default.

Prompts are independent, so all that processes exchange are sums and lists, through gloo: the sums are kept in main
memory anyway. This file knows no model and no concept.
"""

from __future__ import annotations

import itertools
import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NoReturn, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch.distributed.rendezvous import rendezvous

from edgesteer.errors import EdgeSteerError
from edgesteer.export.checkpoint import Checkpoint, Sum

SILENCE = timedelta(hours=3)
"""How long a process waits for a slower one. One that has ended is noticed at once."""
VERDICT = timedelta(seconds=2)
"""How long the others wait for the first process to say who has ended."""
REMEDY = "Run the same command again: it continues after the prompts that were finished."

ENDED = "ended"
"""Where the store has the rank of the process that ended."""

Array = NDArray[np.float64]
T = TypeVar("T")


@dataclass(frozen=True)
class Workers:
    """The processes of one export, as one of them sees them."""

    rank: int = 0
    """Which of them this is; the first writes the results and shows the progress."""
    size: int = 1
    checkpoint: Checkpoint | None = None
    """Where the sums are kept until the export is finished."""
    _store: Any = None

    def mean(
        self,
        name: str,
        count: int,
        part: Callable[[int], torch.Tensor],
        progress: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Return the mean of part(0), ..., part(count - 1) in float64 on the CPU, the same on every process.

        part is called for the prompts of share(count) alone, in their order, without those that an earlier run has
        finished: it must do nothing but return its value. The values have one shape. A name (letters, digits and -)
        stands for one mean of an export. progress is called `count` times.

        Raises ValueError when count is 0, EdgeSteerError when another process has ended early or the checkpoint
        cannot be used.
        """
        if count < 1:
            raise ValueError("a mean needs at least one prompt")
        kept, finished = self._resume(name)
        try:
            for index in self._counted(count, progress):
                if index not in finished:
                    kept += Sum(frozenset([index]), part(index).detach().cpu().double().numpy())
                    self._save(name, kept, now=False)
        finally:
            self._save(name, kept, now=True)
        return self._all_reduce(name, kept.total) / count

    def gather(
        self, name: str, count: int, part: Callable[[int], T], progress: Callable[[], None] = lambda: None
    ) -> list[T]:
        """Return [part(0), ..., part(count - 1)] on every process; each calls part for the prompts of its share alone.

        Nothing of it is kept for a rerun. name: for the error. progress is called `count` times. Raises EdgeSteerError
        when another process has ended early.
        """
        own = {index: part(index) for index in self._counted(count, progress)}
        everything = {index: value for each in self._exchange(name, own) for index, value in each.items()}
        return [everything[index] for index in range(count)]

    def share(self, count: int) -> range:
        """Return which of some prompts are this process's."""
        return range(self.rank, count, self.size)

    def finish(self) -> None:
        """Wait for the others, then remove the checkpoint. Raises EdgeSteerError when one of them has ended early."""
        self._exchange("the end", None)
        if self.checkpoint:
            self.checkpoint.remove()

    def pace(self, count: int, progress: Callable[[], None]) -> Callable[[], None]:
        """Return what to call after each prompt of this process's share, over and over in the same order.

        progress is called for the prompts of the others too, taken to be as far: `count` times a round of the first
        process.
        """
        rounds = itertools.cycle(range(len(self.share(count))))

        def advance() -> None:
            number = next(rounds)
            for _ in range(number * self.size, min((number + 1) * self.size, count)):
                progress()

        return advance

    def _counted(self, count: int, progress: Callable[[], None]) -> Iterator[int]:
        """Yield this process's prompts."""
        advance = self.pace(count, progress)
        for index in self.share(count):
            yield index
            advance()

    def _resume(self, name: str) -> tuple[Sum, set[int]]:
        """Return the sum that an earlier run left to this process, and the prompts in those of all processes."""
        kept = self.checkpoint.load(name, self.rank, self.size) if self.checkpoint else Sum()
        finished: set[int] = set()
        for rank, prompts in enumerate(self._exchange(name, kept.prompts)):
            if not prompts & finished:
                finished |= prompts
            elif rank == self.rank:  # the earlier run had other processes, and was killed between two files
                kept = Sum()
        return kept, finished

    def _save(self, name: str, kept: Sum, *, now: bool) -> None:
        if self.checkpoint:
            self.checkpoint.save(name, self.rank, self.size, kept, now=now)

    def _all_reduce(self, name: str, total: Array | None) -> torch.Tensor:
        """Return the sum of every process's total; None stands for zeros, but not on all of them."""
        shape = next(each for each in self._exchange(name, None if total is None else total.shape) if each is not None)
        reduced = torch.zeros(shape, dtype=torch.float64) if total is None else torch.tensor(total)
        if self.size > 1:
            with self._naming_who_ended(name):
                dist.all_reduce(reduced)
        return reduced

    def _exchange(self, name: str, value: T) -> list[T]:
        """Return every process's value, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        with self._naming_who_ended(name):
            dist.monitored_barrier(timeout=SILENCE)  # unlike the other calls, it says who did not come
            dist.all_gather_object(values, value)
        return values

    @contextmanager
    def _naming_who_ended(self, name: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise EdgeSteerError(
                "a process has ended early",
                where=name,
                expected=f"{self.size} processes",
                found=f"no process of rank {self._who_ended(str(error))}",
                remedy=REMEDY,
            ) from error

    def _who_ended(self, report: str) -> str:
        """Return the rank that a report of gloo's is about: the first process can tell, and tells the others."""
        if self.rank == 0:
            named = re.search(r"Rank (\d+) failed to pass", report)
            self._store.set(ENDED, named[1] if named else "unknown")
        try:
            self._store.wait([ENDED], VERDICT)
            return bytes(self._store.get(ENDED)).decode()
        except RuntimeError:
            return "0"


ALONE = Workers()


@contextmanager
def started_by_torchrun() -> Iterator[Workers]:
    """Give the processes that torchrun has started, and join them; without torchrun, this process alone.

    Rank, size and where to meet come from the environment, as torch.distributed has them. Raises EdgeSteerError when
    they cannot be used, and out of the body when torchrun ends this process because another one has ended.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield ALONE
        return
    try:
        store, rank, size = next(rendezvous("env://"))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=SILENCE)
    except (RuntimeError, ValueError) as error:
        raise EdgeSteerError("the processes of this export cannot meet", found=error, remedy="Use torchrun.") from error
    before = signal.signal(signal.SIGTERM, _end_orderly)
    try:
        yield Workers(rank, size, None, store)
    finally:
        signal.signal(signal.SIGTERM, before)
        dist.destroy_process_group()


def _end_orderly(*_: object) -> NoReturn:
    raise EdgeSteerError(
        "this process was told to end",
        expected="all processes to live until the end",
        remedy=f"torchrun's report below says which one was the first to fail. {REMEDY}",
    )
