"""EnergyMonitor: joules and watts of a window of time, from the meters that this machine has.

Where there is no meter there is no figure. Knows nothing of what is measured, and of meters only what they count.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from edgesteer.profile.meters import (
    Clock,
    Found,
    PowerIntegral,
    Source,
    board_rails,
    powercap_zones,
    vendor_meters,
)
from edgesteer.profile.meters import Unavailable as Unavailable

SAMPLES_PER_SECOND = 20.0
"""How often meters are read while a window is open; those that show power are summed up from it."""
SETTLE_SECONDS = 0.5
"""How long counters are watched when a monitor is opened; GPUs renew theirs every tenth of a second."""
PEAK_SECONDS = 0.1
PEAK_UPDATES = 5
"""Peak power is a mean over so long at least, and over so many updates of a counter."""


@dataclass(frozen=True)
class Meter:
    """Something that counts energy.

    domain: what it is about, as `package`, `GPU 0` or `board rail VDD_IN`. sampling_hz: how often its value is renewed,
    as far as that can be seen; each end of a window is uncertain by one renewal. included_in: the meter that counts
    this energy, too.
    """

    name: str
    domain: str
    sampling_hz: float | None = None
    included_in: str | None = None


@dataclass
class Reading:
    """What the meters said of a window, by meter; filled in when the window ends.

    A meter that failed meanwhile is left out. peak_watts: the highest mean over a stretch of PEAK_SECONDS or more.
    """

    seconds: float = 0.0
    joules: dict[str, float] = field(default_factory=dict)
    peak_watts: dict[str, float] = field(default_factory=dict)

    @property
    def watts(self) -> dict[str, float]:
        """Mean power, by meter."""
        return {name: joules / self.seconds for name, joules in self.joules.items() if self.seconds > 0}


class EnergyMonitor:
    """Reads meters over windows; open_monitor makes one.

    samples_per_second: how often a thread reads them while a window is open; 0: only when `sample` is called.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        rates: dict[str, float] | None = None,
        missing: Sequence[Unavailable] = (),
        clock: Clock = time.perf_counter,
        sleep: Callable[[float], object] = time.sleep,
        samples_per_second: float = SAMPLES_PER_SECOND,
    ) -> None:
        self.meters = [Meter(s.name, s.domain, (rates or {}).get(s.name), s.included_in) for s in sources]
        self.missing = list(missing)
        """Meters that there are, and that cannot be read."""
        self._sources = list(sources)
        self._clock, self._sleep = clock, sleep
        self._samples_per_second = samples_per_second
        self._lock = threading.Lock()
        self._curves: dict[str, list[tuple[float, float]]] = {}
        self._failed: set[str] = set()

    def idle_watts(self, seconds: float) -> dict[str, float]:
        """Do nothing for so long; return the mean power meanwhile, by meter."""
        with self.window() as reading:
            self._sleep(seconds)
        return reading.watts

    @contextmanager
    def window(self) -> Iterator[Reading]:
        """Measure what is used while the body runs. Windows must not overlap."""
        reading = Reading()
        self._curves = {meter.name: [] for meter in self.meters}
        self._failed = set()
        start = self._clock()
        self.sample()
        with self._sampling():
            yield reading
        self.sample()
        reading.seconds = self._clock() - start
        self._fill(reading)

    def sample(self) -> None:
        """Read all meters now."""
        with self._lock:
            for source in self._sources:
                if source.name in self._failed:
                    continue
                try:
                    self._curves[source.name].append((self._clock(), source.joules()))
                except Exception:  # zeus hands on whatever the vendors' libraries raise
                    self._failed.add(source.name)

    @contextmanager
    def _sampling(self) -> Iterator[None]:
        if not self._samples_per_second:
            yield
            return
        done = threading.Event()

        def run() -> None:
            while not done.wait(1 / self._samples_per_second):
                self.sample()

        thread = threading.Thread(target=run, name="energy", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    def _fill(self, reading: Reading) -> None:
        for meter in self.meters:
            if meter.name not in self._failed:
                curve = self._curves[meter.name]
                shortest = max(PEAK_SECONDS, PEAK_UPDATES / meter.sampling_hz) if meter.sampling_hz else PEAK_SECONDS
                reading.joules[meter.name] = curve[-1][1] - curve[0][1]
                reading.peak_watts[meter.name] = peak_watts(curve, shortest)


def peak_watts(curve: Sequence[tuple[float, float]], seconds: float) -> float:
    """Return the highest mean power over a stretch of so many seconds or more; over all of a shorter curve.

    curve: (seconds, joules) of a counter, in order.
    """
    (start, first), (stop, last) = curve[0], curve[-1]
    best = (last - first) / (stop - start) if stop > start else 0.0
    earlier = 0
    for now, joules in curve:
        while earlier + 1 < len(curve) and curve[earlier + 1][0] <= now - seconds:
            earlier += 1
        then, joules_then = curve[earlier]
        if now - then >= seconds:
            best = max(best, (joules - joules_then) / (now - then))
    return best


def open_monitor(
    *,
    root: Path = Path("/"),
    vendors: Callable[[Clock], Found] = vendor_meters,
    clock: Clock = time.perf_counter,
    sleep: Callable[[float], object] = time.sleep,
    samples_per_second: float = SAMPLES_PER_SECOND,
) -> EnergyMonitor | Unavailable:
    """Return a monitor of all meters that can be read and that count, or why there is none. Takes SETTLE_SECONDS.

    root: the folder of /sys and /proc. vendors: finds the meters that are no files.
    """
    found = (powercap_zones(root), board_rails(root, clock), vendors(clock))
    sources = [source for each, _ in found for source in each]
    problems = [problem for _, each in found for problem in each]
    rates = update_rates(sources, clock, sleep) if sources else {}
    rates.update({s.name: samples_per_second for s in sources if isinstance(s, PowerIntegral)})
    counting = [source for source in sources if source.name in rates]
    problems += [Unavailable(f"the counter of {s.name} stands still") for s in sources if s not in counting]
    if not counting:
        return _none_of(problems)
    fixable = [problem for problem in problems if problem.remedy]
    return EnergyMonitor(
        counting, rates=rates, missing=fixable, clock=clock, sleep=sleep, samples_per_second=samples_per_second
    )


def _none_of(problems: Sequence[Unavailable]) -> Unavailable:
    remedies = dict.fromkeys(problem.remedy for problem in problems if problem.remedy)
    return Unavailable("; ".join(problem.reason for problem in problems), " ".join(remedies) or None)


def update_rates(sources: Sequence[Source], clock: Clock, sleep: Callable[[float], object]) -> dict[str, float]:
    """Watch counters for SETTLE_SECONDS; return how often a second they change.

    Those that fail or stand still are left out.
    """
    watched = {source.name: source for source in sources if not isinstance(source, PowerIntegral)}
    changes = dict.fromkeys(watched, 0)
    last: dict[str, float] = {}
    start = clock()
    while clock() - start < SETTLE_SECONDS and watched:
        for name, source in list(watched.items()):
            try:
                now = source.joules()
            except Exception:  # as in EnergyMonitor.sample
                del watched[name]
                continue
            changes[name] += now != last.setdefault(name, now)
            last[name] = now
        sleep(5e-4)
    elapsed = clock() - start
    return {name: changes[name] / elapsed for name in watched if changes[name]}
