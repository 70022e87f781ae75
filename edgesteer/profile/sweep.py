"""Measures a model over all combinations of the lists in Settings, steered and unsteered in alternation.

One round measures every combination once, so that a machine that slows down for a while slows all of them. Knows no
statistics, no tables and no files but the model's.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError
from edgesteer.fingerprint import Fingerprint, sha256_of_file
from edgesteer.profile.document import STEERED, UNSTEERED
from edgesteer.profile.latency import (
    BatchLike,
    Budget,
    Clock,
    HookTime,
    Repeat,
    RequestMaker,
    Stopped,
    Window,
    measure,
    measure_hook,
)
from edgesteer.profile.roofline import bytes_per_token, split_files
from edgesteer.profile.size import ModelSize, model_size, peak_resident_bytes
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel, recorded_log
from edgesteer.runtime.request import Request, Steering

Maker = Callable[..., list[Request]]


class Progress(Protocol):
    """Shows stages of known length; each returns a function that is called after every step."""

    def stage(self, name: str, total: int) -> Callable[[], None]: ...


@dataclass(frozen=True)
class Cell:
    """One combination of what is swept."""

    prompt_len: int
    gen_len: int
    batch: int
    threads: int
    n_gpu_layers: int

    @property
    def context_tokens(self) -> int:
        return self.batch * (self.prompt_len + self.gen_len)


@dataclass(frozen=True)
class Settings:
    """What to measure. Tuples are swept over: every combination is a Cell."""

    prompt_len: tuple[int, ...] = (256,)
    """Tokens of the prompt."""
    gen_len: tuple[int, ...] = (64,)
    """Tokens to generate."""
    batch: tuple[int, ...] = (1,)
    """Requests that run at once."""
    threads: tuple[int, ...] = (1,)
    """CPU threads."""
    n_gpu_layers: tuple[int, ...] = (0,)
    """Blocks to offload; -1: all."""
    devices: Mapping[str, Any] = field(default_factory=dict)
    """Which devices take them: rpc, device and tensor_split of LlamaModel."""
    repeats: int = 10
    """Measurements of each combination; 0: sizes only."""
    warmup: int = 1
    """Measurements before them that do not count."""
    batch_tokens: int = 512
    """Most tokens of one decode."""
    cache_type_k: str = "f16"
    """What keys are stored as."""
    cache_type_v: str = "f16"
    """What values are stored as."""

    def cells(self, n_gpu_layers: int, threads: int) -> list[Cell]:
        """Return the combinations that share a model and its contexts."""
        inner = itertools.product(self.batch, self.prompt_len, self.gen_len)
        return [Cell(prompt, gen, batch, threads, n_gpu_layers) for batch, prompt, gen in inner]

    def open_model(self, path: Path, n_gpu_layers: int) -> LlamaModel:
        """Load a model; the devices go with those of n_gpu_layers that offload blocks. Raises what LlamaModel does."""
        is_local = n_gpu_layers == 0 and any(self.n_gpu_layers)
        return LlamaModel(path, n_gpu_layers=n_gpu_layers, **({} if is_local else self.devices))

    def engine_options(self, cells: Sequence[Cell]) -> dict[str, Any]:
        """Return the options of an Engine in which every one of some cells of the same threads fits."""
        most = max(cell.batch for cell in cells)
        return {
            "context_tokens": max(cell.context_tokens for cell in cells),
            "batch_tokens": max(self.batch_tokens, most),
            "n_sequences": most,
            "threads": cells[0].threads,
            "cache_type_k": self.cache_type_k,
            "cache_type_v": self.cache_type_v,
        }


@dataclass(frozen=True)
class Sample:
    """One measurement of a cell."""

    started_s: float
    """Since the run began."""
    megahertz: float | None
    """Mean clock of the cores right after it; None where it is unknown."""
    times: Repeat


@dataclass
class Series:
    """All measurements of one cell, unsteered or steered."""

    cell: Cell
    variant: str
    samples: list[Sample] = field(default_factory=list)
    step_bytes: int | None = None
    """That a decode step reads, at the mean context of the decode phase."""
    hook: HookTime | None = None
    """From one more measurement, of a steered engine that times its hook."""


@dataclass(frozen=True)
class SteerWith:
    """What steers. load: gives the controllers for a model, and what is asked of each. sidecars: where they lie."""

    load: Callable[[Fingerprint], tuple[Sequence[Controller], Sequence[Steering]]]
    sidecars: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Instruments:
    """What measures; tests give others. window: see latency.Window. frequencies: MHz of every core, [] if unknown."""

    clock: Clock = time.perf_counter
    window: Window = nullcontext
    frequencies: Callable[[], list[float]] = list

    def megahertz(self) -> float | None:
        clocks = self.frequencies()
        return sum(clocks) / len(clocks) if clocks else None


@dataclass
class Sweep:
    """What was measured, complete or not."""

    path: Path
    settings: Settings
    fingerprint: Fingerprint | None = None
    """With the file's sha256."""
    steering: Sequence[Steering] = ()
    sizes: dict[int, ModelSize] = field(default_factory=dict)
    """By n_gpu_layers, with the largest context."""
    peak_resident_bytes: int | None = None
    """Of the whole process."""
    series: list[Series] = field(default_factory=list)
    seconds: float = 0.0
    stopped: str | None = None
    """Why it ended early."""
    error: EdgeSteerError | None = None
    """The failure that ended it early, if it was one."""

    @property
    def n_samples(self) -> int:
        return sum(len(each.samples) for each in self.series)


class Sweeper:
    """Measures one model. budget: is asked between any two decodes whether to go on."""

    def __init__(
        self,
        settings: Settings,
        progress: Progress,
        *,
        steer: SteerWith | None = None,
        instruments: Instruments | None = None,
        budget: Budget | None = None,
    ) -> None:
        self.settings = settings
        self._progress = progress
        self._steer = steer
        self._instruments = instruments or Instruments()
        self._check = (budget or Budget()).check
        self._clock = self._instruments.clock
        self._started = self._clock()

    def run(self, path: Path) -> Sweep:
        """Measure the model of this file. A failure after the first samples is kept in the result.

        Raises ModelError, EngineError, SidecarError, FingerprintError and SteeringError.
        """
        self._started = self._clock()
        sweep = Sweep(path, self.settings)
        try:
            for n_gpu_layers in self.settings.n_gpu_layers:
                self._check()
                with recorded_log() as log, self.settings.open_model(path, n_gpu_layers) as model:
                    self._measure_model(sweep, model, n_gpu_layers, log)
        except Stopped as reason:
            sweep.stopped = str(reason)
        except EdgeSteerError as error:
            if not sweep.n_samples:
                raise
            sweep.stopped, sweep.error = str(error), error
        sweep.seconds, sweep.peak_resident_bytes = self._clock() - self._started, peak_resident_bytes()
        return sweep

    def _measure_model(self, sweep: Sweep, model: LlamaModel, n_gpu_layers: int, log: list[str]) -> None:
        sweep.fingerprint = sweep.fingerprint or replace(model.fingerprint, model_sha256=sha256_of_file(sweep.path))
        controllers: Sequence[Controller] = ()
        if self._steer is not None:
            controllers, sweep.steering = self._steer.load(model.fingerprint)
        maker = RequestMaker(model, sweep.steering)
        for threads in self.settings.threads:
            cells = self.settings.cells(n_gpu_layers, threads)
            open_engine = partial(Engine, model, **self.settings.engine_options(cells))
            with ExitStack() as stack:
                engines = {UNSTEERED: stack.enter_context(open_engine())}
                if n_gpu_layers not in sweep.sizes:
                    sweep.sizes[n_gpu_layers] = self._size(model, engines[UNSTEERED], log)
                if self._steer is not None:
                    engines[STEERED] = stack.enter_context(open_engine(controllers=controllers))
                grouped = [[self._series(model, cell, variant) for variant in engines] for cell in cells]
                sweep.series += [each for group in grouped for each in group]
                self.run_rounds(grouped, {variant: Batch(engine) for variant, engine in engines.items()}, maker)
            if self._steer is not None and self.settings.repeats:
                with open_engine(controllers=controllers, timed=True) as engine:
                    self._measure_hook([group[-1] for group in grouped], engine, maker)

    def _size(self, model: LlamaModel, engine: Engine, log: list[str]) -> ModelSize:
        return model_size(
            model,
            files=split_files(model.path),
            context_tokens=engine.context_tokens,
            cache_types=engine.cache_types,
            log=log,
            sidecars=self._steer.sidecars if self._steer is not None else (),
        )

    def _series(self, model: LlamaModel, cell: Cell, variant: str) -> Series:
        context = cell.prompt_len + cell.gen_len // 2
        cache_types = (self.settings.cache_type_k, self.settings.cache_type_v)
        weights, with_cache = (bytes_per_token(model, tokens, cache_types=cache_types) for tokens in (0, context))
        return Series(cell, variant, step_bytes=weights + cell.batch * (with_cache - weights))

    def run_rounds(self, grouped: Sequence[Sequence[Series]], batches: Mapping[str, BatchLike], maker: Maker) -> None:
        """Measure every series once a round; which variant of a cell comes first alternates.

        grouped: the series of each cell. batches: by variant.
        """
        rounds = self.settings.warmup + self.settings.repeats if self.settings.repeats else 0
        cell = grouped[0][0].cell
        place = f"{cell.threads} threads" + (f", {cell.n_gpu_layers} GPU layers" if cell.n_gpu_layers else "")
        done = self._progress.stage(place, rounds * sum(map(len, grouped)))
        for number in range(rounds):
            for group in grouped:
                first = number % len(group)
                for series in [*group[first:], *group[:first]]:
                    sample = self._measure(series, batches[series.variant], maker)
                    if number >= self.settings.warmup:
                        series.samples.append(sample)
                    done()

    def _measure(self, series: Series, batch: BatchLike, maker: Maker) -> Sample:
        requests, started = self._requests(series, maker), self._clock() - self._started
        times = measure(batch, requests, clock=self._clock, window=self._instruments.window, check=self._check)
        return Sample(started, self._instruments.megahertz(), times)

    def _requests(self, series: Series, maker: Maker) -> list[Request]:
        cell = series.cell
        return maker(cell.prompt_len, cell.gen_len, cell.batch, steered=series.variant == STEERED)

    def _measure_hook(self, steered: Sequence[Series], engine: Engine, maker: Maker) -> None:
        hook = engine.hook
        assert hook is not None
        done = self._progress.stage("the hook's own time", len(steered))
        for series in steered:
            requests = self._requests(series, maker)
            series.hook = measure_hook(Batch(engine), hook.time_ns, requests, clock=self._clock, check=self._check)
            done()
