"""One run of `edgesteer profile`: opens the meters, measures, and gives the document. Knows no terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edgesteer.controller import Controller
from edgesteer.fingerprint import sha256_of_file
from edgesteer.profile.document import Document
from edgesteer.profile.energy import EnergyMonitor, open_monitor
from edgesteer.profile.latency import Budget, RequestMaker, Stopped
from edgesteer.profile.machine import Machine, describe_machine, frequencies
from edgesteer.profile.report import ENERGY, SIZE, TPOT, TTLT
from edgesteer.profile.roofline import Bandwidth, memory_bandwidth
from edgesteer.profile.summary import make_document
from edgesteer.profile.sweep import Instruments, Progress, Settings, SteerWith, Sweep
from edgesteer.profile.trace import Trace, record_trace
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine

IDLE_SECONDS = 3.0
"""How long the machine is left alone to measure what it takes idle."""


def fewer(settings: Settings, quantities: Iterable[str]) -> Settings:
    """Return the settings without what the quantities do not need: texts for sizes, tokens for TTFT."""
    wanted = set(quantities)
    if wanted <= {SIZE}:
        return replace(settings, repeats=0)
    return settings if wanted & {TPOT, TTLT, ENERGY} else replace(settings, gen_len=(1,))


@dataclass(frozen=True)
class Surroundings:
    """What is the same for all models of a run: the machine and its meters."""

    machine: Machine
    energy: dict[str, Any]
    """As in the document."""
    monitor: EnergyMonitor | None = None

    @property
    def instruments(self) -> Instruments:
        if self.monitor is None:
            return Instruments(frequencies=frequencies)
        return Instruments(window=self.monitor.window, frequencies=frequencies)


def survey(quantities: Iterable[str], progress: Progress) -> Surroundings:
    """Describe the machine, and measure what it takes idle if energy is asked for."""
    monitor, energy = _open_meters(progress) if ENERGY in quantities else (None, _no_energy("not asked for", None))
    return Surroundings(describe_machine(), energy, monitor)


def _open_meters(progress: Progress) -> tuple[EnergyMonitor | None, dict[str, Any]]:
    monitor = open_monitor()
    if not isinstance(monitor, EnergyMonitor):
        return None, _no_energy(monitor.reason, monitor.remedy)
    done = progress.stage(f"idle power, {IDLE_SECONDS:g} s", 1)
    idle = monitor.idle_watts(IDLE_SECONDS)
    done()
    meters, missing = ([asdict(each) for each in group] for group in (monitor.meters, monitor.missing))
    return monitor, {"meters": meters, "idle_watts": idle, "missing": missing, "reason": None, "remedy": None}


def _no_energy(reason: str, remedy: str | None) -> dict[str, Any]:
    return {"meters": [], "idle_watts": {}, "missing": [], "reason": reason, "remedy": remedy}


def bandwidths_for(
    settings: Settings, quantities: Iterable[str], budget: Budget, progress: Progress
) -> list[Bandwidth]:
    """Measure the memory, at every number of threads, as far as it bounds what was measured and the budget allows it.

    Comes last: its arrays would count as memory of the model.
    """
    if not {TPOT, TTLT} & set(quantities) or 0 not in settings.n_gpu_layers or not settings.repeats:
        return []
    done = progress.stage("memory bandwidth", len(settings.threads))
    found = []
    with suppress(Stopped):
        for threads in settings.threads:
            budget.check()
            found.append(memory_bandwidth(threads))
            done()
    return found


def document_of(
    sweep: Sweep,
    surroundings: Surroundings,
    *,
    steering_files: Sequence[Path] = (),
    bandwidths: Iterable[Bandwidth] = (),
    trace: Trace | None = None,
) -> Document:
    """Return the document of a sweep. steering_files: those of sweep.steering, in its order."""
    return make_document(
        sweep,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        machine=asdict(surroundings.machine),
        energy=surroundings.energy,
        bandwidths=[asdict(each) for each in bandwidths],
        sidecars=[{"file": str(path), "sha256": sha256_of_file(path)} for path in steering_files],
        trace=None if trace is None else trace_summary(trace),
    )


def trace_summary(trace: Trace) -> dict[str, Any]:
    """Return the tables of a trace, and what tracing cost."""
    by_kind, by_block = ([asdict(row) for row in rows] for rows in (trace.by_kind(), trace.by_block()))
    return {"by_kind": by_kind, "by_block": by_block, "overhead": trace.overhead_note}


def trace_model(path: Path, settings: Settings, steer: SteerWith | None, budget: Budget) -> Trace | None:
    """Trace one measurement of the first combination, steered if there is something to steer with.

    None when the budget does not allow it. Raises what loading and decoding raise.
    """
    try:
        return _trace(path, settings, steer, budget)
    except Stopped:
        return None


def _trace(path: Path, settings: Settings, steer: SteerWith | None, budget: Budget) -> Trace:
    budget.check()
    cell = settings.cells(settings.n_gpu_layers[0], settings.threads[0])[0]
    controllers: Sequence[Controller] = ()
    with settings.open_model(path, cell.n_gpu_layers) as model:
        if steer is not None:
            controllers, steering = steer.load(model.fingerprint)
        maker = RequestMaker(model, steering if steer is not None else ())
        with Engine(model, controllers, reloadable=True, **settings.engine_options([cell])) as engine:
            batch = Batch(engine)
            requests = maker(cell.prompt_len, cell.gen_len, cell.batch, steered=steer is not None)

            def run() -> None:
                for request in requests:
                    batch.submit(request)
                while batch.busy:
                    budget.check()
                    batch.step()

            return record_trace(batch, run)
