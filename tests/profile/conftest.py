"""A clock and a batch whose delays are known, and sweeps made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.fingerprint import Fingerprint
from edgesteer.profile.document import STEERED, UNSTEERED
from edgesteer.profile.energy import Reading
from edgesteer.profile.latency import HookTime, Repeat
from edgesteer.profile.size import Allocations, ModelSize
from edgesteer.profile.summary import make_document
from edgesteer.profile.sweep import Cell, Sample, Series, Settings, Sweep
from edgesteer.runtime.request import Prompt, Request, Steering
from edgesteer.runtime.sequence import Piece


class FakeClock:
    """Seconds that pass only when somebody says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeSequence:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.tokens = 0
        self.done = False


class FakeBatch:
    """Takes a fixed time for a prompt and for a step; in one step it reads one prompt, and all others get a token.

    ends_after: ends each text after so many tokens, whatever was asked for. fails: gives this in place of a piece.
    """

    def __init__(
        self, clock: FakeClock, *, prompt_s: float = 0.1, step_s: float = 0.01, ends_after: int | None = None
    ) -> None:
        self.clock, self.prompt_s, self.step_s, self.ends_after = clock, prompt_s, step_s, ends_after
        self.fails: EdgeSteerError | None = None
        self.running: list[FakeSequence] = []
        self.cleared = self.steps = 0

    def clear(self) -> None:
        assert not self.running
        self.cleared += 1

    def submit(self, request: Request) -> FakeSequence:
        sequence = FakeSequence(request)
        self.running.append(sequence)
        return sequence

    def cancel(self, sequence: FakeSequence) -> None:
        if sequence in self.running:
            self.running.remove(sequence)

    def step(self) -> list[tuple[FakeSequence, Any]]:
        self.steps += 1
        fresh = [each for each in self.running if not each.tokens][:1]
        self.clock.advance(self.prompt_s if fresh else self.step_s)
        if self.fails is not None:
            return [(self.running[0], self.fails)]
        return [(each, self._piece(each)) for each in list(self.running) if each.tokens or each in fresh]

    def _piece(self, sequence: FakeSequence) -> Piece:
        sequence.tokens += 1
        limit = sequence.request.max_tokens if self.ends_after is None else self.ends_after
        last = sequence.tokens == limit
        if last:
            self.running.remove(sequence)
        return Piece("", 7, {}, None, object() if last else None)  # type: ignore[arg-type]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def make_batch(clock: FakeClock) -> Callable[..., FakeBatch]:
    def make(**options: Any) -> FakeBatch:
        return FakeBatch(clock, **options)

    return make


def fake_requests(prompt_len: int, gen_len: int, batch: int, *, steered: bool = False) -> list[Request]:
    tokens = list(range(prompt_len))
    prompt = Prompt(tokens, np.ones(prompt_len, bool), np.zeros(prompt_len, bool))
    return [Request(prompt, max_tokens=gen_len) for _ in range(batch)]


@pytest.fixture
def requests_of() -> Callable[..., list[Request]]:
    """Return a function that makes requests as latency.RequestMaker does, without a model."""
    return fake_requests


class Stages:
    """Progress that remembers the stages and counts their steps."""

    def __init__(self) -> None:
        self.totals: dict[str, int] = {}
        self.steps: dict[str, int] = {}

    def stage(self, name: str, total: int) -> Callable[[], None]:
        self.totals[name], self.steps[name] = total, 0

        def done() -> None:
            self.steps[name] += 1

        return done


@pytest.fixture
def stages() -> Stages:
    return Stages()


# ---- a sweep by hand: a batch of 2 requests of 100 + 11 tokens, plain in 1 s + 0.5 s, steered in 1 s + 1 s ----

CELL = Cell(prompt_len=100, gen_len=11, batch=2, threads=1, n_gpu_layers=0)
METERS = ("package", "GPU 0")


def repeat(*, slower: float = 1.0, energy: bool = True) -> Repeat:
    """20 tokens in 0.5 s: 50 ms a token and request. 10 W at the package and 20 W at the GPU."""
    decode_ms = 500 * slower
    return Repeat(
        ttft_ms=[800.0, 1000.0],
        tpot_ms=[(1000 + decode_ms - 800) / 10, decode_ms / 10],
        ttlt_ms=[1000 + decode_ms] * 2,
        prefill_ms=1000.0,
        decode_ms=decode_ms,
        decode_tokens=20,
        prefill_energy=reading(1.0) if energy else None,
        decode_energy=reading(decode_ms / 1000) if energy else None,
    )


def reading(seconds: float) -> Reading:
    joules = dict(zip(METERS, (10 * seconds, 20 * seconds), strict=True))
    return Reading(seconds, joules, dict(zip(METERS, (12.0, 25.0), strict=True)))


def series_of(cell: Cell, variant: str, n: int, *, energy: bool = True) -> Series:
    slower = 2.0 if variant == STEERED else 1.0
    samples = [Sample(4.0 * number + slower, 3000.0, repeat(slower=slower, energy=energy)) for number in range(n)]
    hook = HookTime(100.0, 0.01) if variant == STEERED else None
    return Series(cell, variant, samples, step_bytes=1_000_000, hook=hook)


@pytest.fixture
def make_sweep() -> Callable[..., Sweep]:
    """Return a function that makes a sweep of n repeats, plain and steered, over some cells."""

    def make(n: int = 12, *cells: Cell, steered: bool = True, energy: bool = True) -> Sweep:
        chosen = cells or (CELL,)
        variants = (UNSTEERED, STEERED) if steered else (UNSTEERED,)
        allocated = Allocations({"CPU": 900_000}, {"CPU": 2_000_000}, {"CPU": 3_000_000}, {"CPU": 4_000})
        return Sweep(
            path=Path("models") / "tiny.gguf",
            settings=Settings(
                **{
                    name: tuple(dict.fromkeys(getattr(cell, name) for cell in chosen))
                    for name in ("prompt_len", "gen_len", "batch", "threads", "n_gpu_layers")
                },
                repeats=n,
            ),
            fingerprint=Fingerprint("llama", 4, 32, "a" * 64, "b" * 64, "Tiny"),
            steering=[Steering("warm", 0.5)] if steered else [],
            sizes={0: ModelSize(1_000_000, 910_000, 900_000, 7.2, 256, 2_000_100, allocated, 1500)},
            peak_resident_bytes=50_000_000,
            series=[series_of(cell, variant, n, energy=energy) for cell in chosen for variant in variants],
            seconds=60.0,
        )

    return make


MACHINE = {
    "cpu": "A CPU", "cores": 2, "memory_bytes": 1 << 34, "gpus": [], "power_mode": None, "os": "Linux", "python": "3",
    "edgesteer": "0", "llama_cpp_python": "0", "llama_system_info": "", "build": {"CPU AVX2": True},
}  # fmt: skip
ENERGY = {
    "meters": [
        {"name": "package", "domain": "package", "sampling_hz": 1000.0, "included_in": None},
        {"name": "GPU 0", "domain": "GPU 0", "sampling_hz": None, "included_in": None},
    ],
    "idle_watts": {"package": 3.0, "GPU 0": 5.0},
    "missing": [],
    "reason": None,
    "remedy": None,
}
NO_ENERGY = {"meters": [], "idle_watts": {}, "missing": [], "reason": "no meter", "remedy": "Buy one."}
BANDWIDTH = {
    "bytes_per_second": 1e9, "threads": 1, "method": "triad", "kernels": {"triad": 1e9}, "array_bytes": 8, "repeats": 5,
}  # fmt: skip


@pytest.fixture
def document_of() -> Callable[..., dict[str, Any]]:
    """Return a function that makes the document of a sweep, on a machine with two meters, or with none."""

    def make(sweep: Sweep, *, energy: bool = True, **options: Any) -> dict[str, Any]:
        sidecars = [{"file": "warm.gguf", "sha256": "c" * 64}] if sweep.steering else []
        return make_document(
            sweep,
            created="2026-11-22T10:00:00+00:00",
            machine=MACHINE,
            energy=ENERGY if energy else NO_ENERGY,
            bandwidths=[BANDWIDTH],
            sidecars=sidecars,
            **options,
        )

    return make
