"""Meters of energy: how each kind is read, and which of them this machine has.

What the kernel shows as files (RAPL's powercap zones, the INA3221 rails of Jetson boards) is read as files; what needs
a vendor's library (NVIDIA, AMD, Apple silicon) through the package zeus. Zeus knows RAPL and Jetson, too, but counts
them in processes of its own, tells what those saw up to a second ago, and hides the names of the rails.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Protocol

from edgesteer.profile.machine import read_text

READ_POWERCAP = "sudo chmod a+r /sys/class/powercap/*/energy_uj"
ZONE_DOMAINS = {"psys": "platform", "core": "CPU cores", "uncore": "integrated GPU", "dram": "memory"}
APPLE_DOMAINS = {"cpu_total_mj": "CPU", "gpu_mj": "GPU", "ane_mj": "neural engine", "dram_mj": "memory"}

Clock = Callable[[], float]


@dataclass(frozen=True)
class Unavailable:
    """Why there is no meter, and the command or step that may bring one."""

    reason: str
    remedy: str | None = None


class Source(Protocol):
    """A meter that can be read. joules: of a counter that never goes back and starts anywhere."""

    name: str
    domain: str
    included_in: str | None

    def joules(self) -> float: ...


@dataclass
class Counter:
    """A counter that never goes back."""

    name: str
    domain: str
    joules: Callable[[], float]
    included_in: str | None = None


class PowercapZone:
    """An energy_uj file, which starts again from 0 when it has reached max_energy_range_uj.

    Raises OSError or ValueError when it cannot be read. It must be read once per turn: at 200 W a turn takes minutes.
    """

    def __init__(self, folder: Path, parent: PowercapZone | None = None) -> None:
        zone = (folder / "name").read_text().strip()
        self.name: str = f"{parent.name} {zone}" if parent else zone
        self.domain = ZONE_DOMAINS.get(zone, zone.partition("-")[0])
        self.included_in = parent.name if parent and zone != "dram" else None
        self._file = folder / "energy_uj"
        self._range = int((folder / "max_energy_range_uj").read_text())
        self._turns = 0
        self._last = int(self._file.read_text())

    def joules(self) -> float:
        now = int(self._file.read_text())
        if now < self._last:
            self._turns += 1
        self._last = now
        return (self._turns * self._range + now) / 1e6


class PowerIntegral:
    """A meter that shows power, summed up by the trapezoidal rule over the times at which it is read."""

    def __init__(self, name: str, domain: str, watts: Callable[[], float], clock: Clock) -> None:
        self.name, self.domain = name, domain
        self.included_in: str | None = None
        self._watts, self._clock = watts, clock
        self._sum = 0.0
        self._last = clock(), watts()

    def joules(self) -> float:
        time_before, watts_before = self._last
        self._last = now, watts = self._clock(), self._watts()
        self._sum += (now - time_before) * (watts + watts_before) / 2
        return self._sum


# ---- finding meters ----

Found = tuple[list[Source], list[Unavailable]]


def powercap_zones(root: Path) -> Found:
    """Return the RAPL zones of Intel and AMD processors."""
    folders = sorted((root / "sys/class/powercap").glob("intel-rapl:*"), key=lambda folder: folder.name)
    if not folders:
        return [], [_no_rapl(root)]
    zones: dict[str, PowercapZone] = {}
    problems: list[Unavailable] = []
    for folder in folders:
        parent = folder.name.rpartition(":")[0]
        try:
            zones[folder.name] = PowercapZone(folder, zones.get(parent))
        except PermissionError as error:
            problems = [Unavailable(f"no permission to read {error.filename}", f"Run: {READ_POWERCAP}")]
        except (OSError, ValueError) as error:
            problems.append(Unavailable(f"{folder} cannot be read: {error}"))
    platform = next((zone.name for zone in zones.values() if zone.name == "psys"), None)
    for zone in zones.values():
        if zone.included_in is None and zone.name != platform:
            zone.included_in = platform
    return list(zones.values()), problems


def _no_rapl(root: Path) -> Unavailable:
    cpuinfo = read_text(root / "proc/cpuinfo")
    if not cpuinfo:
        return Unavailable("this system has no RAPL")
    if "hypervisor" in cpuinfo.split():
        return Unavailable("no RAPL in a virtual machine", "Run on the host itself.")
    return Unavailable("the kernel shows no RAPL", "On an Intel or AMD processor, run: sudo modprobe intel_rapl_msr")


def board_rails(root: Path, clock: Clock) -> Found:
    """Return the rails of INA3221 power monitors, which Jetson boards have."""
    rails: list[PowerIntegral] = []
    problems: list[Unavailable] = []
    for label_file, watts in [*_hwmon_rails(root), *_iio_rails(root)]:
        try:
            label = label_file.read_text().strip()
            if label != "NC":
                rails.append(PowerIntegral(label, f"board rail {label}", watts, clock))
        except (OSError, ValueError) as error:
            problems.append(Unavailable(f"{label_file.parent} cannot be read: {error}"))
    board = next((rail.name for rail in rails if rail.name.endswith("_IN")), None)
    for rail in rails:
        rail.included_in = board if rail.name != board else None
    return list(rails), problems


def _hwmon_rails(root: Path) -> Iterator[tuple[Path, Callable[[], float]]]:
    """Millivolts and milliamperes, since Linux 5.10."""
    for name_file in sorted((root / "sys/class/hwmon").glob("hwmon*/name")):
        if read_text(name_file) != "ina3221":
            continue
        for channel in "123":
            volts, amperes = (name_file.with_name(f"{kind}{channel}_input") for kind in ("in", "curr"))
            if volts.exists() and amperes.exists():
                yield name_file.with_name(f"in{channel}_label"), _product(volts, amperes)


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], float]:
    return lambda: int(millivolts.read_text()) * int(milliamperes.read_text()) / 1e6


def _iio_rails(root: Path) -> Iterator[tuple[Path, Callable[[], float]]]:
    """Milliwatts, in NVIDIA's kernels before 5.10."""
    for label in sorted((root / "sys/bus/i2c/drivers/ina3221x").glob("*/iio:device*/rail_name_*")):
        yield label, _milliwatts(label.with_name(f"in_power{label.name.removeprefix('rail_name_')}_input"))


def _milliwatts(file: Path) -> Callable[[], float]:
    return lambda: int(file.read_text()) / 1e3


def vendor_meters(clock: Clock) -> Found:
    """Return what zeus finds: the NVIDIA or AMD GPUs, or the parts of an Apple chip."""
    try:
        device = importlib.import_module("zeus.device")
    except ImportError:
        return [], [Unavailable("GPUs and Apple silicon need the package zeus", 'Run: pip install "edgesteer[energy]"')]
    try:
        if sys.platform == "darwin":
            return apple_meters(device.get_soc()), []
        return gpu_meters(device.get_gpus().gpus, clock), []
    except Exception as error:  # zeus hands on whatever the vendors' libraries raise
        reason = str(error).partition(". ")[0].rstrip(".")
        return [], [Unavailable(f"zeus finds no meter: {reason}", _apple_remedy())]


def _apple_remedy() -> str | None:
    return 'Run: pip install "zeus[apple]"' if sys.platform == "darwin" else None


def gpu_meters(gpus: Iterable[Any], clock: Clock) -> list[Source]:
    """Return meters of zeus.device.gpu.GPUs: their counters of energy, or their power where they have none."""
    return [_gpu_meter(number, gpu, clock) for number, gpu in enumerate(gpus)]


def _gpu_meter(number: int, gpu: Any, clock: Clock) -> Source:
    name, domain = f"{gpu.get_name()} {number}", f"GPU {number}"
    if gpu.supports_get_total_energy_consumption():
        return Counter(name, domain, lambda: gpu.get_total_energy_consumption() / 1e3)
    return PowerIntegral(name, domain, lambda: gpu.get_instant_power_usage() / 1e3, clock)


def apple_meters(soc: Any) -> list[Source]:
    """Return meters of a zeus.device.soc.SoC, for those of APPLE_DOMAINS that this chip has."""
    known = soc.get_total_energy_consumption()
    names = [each.name for each in fields(known) if getattr(known, each.name) is not None]
    return [
        Counter(name.removesuffix("_mj"), APPLE_DOMAINS[name], _apple_joules(soc, name))
        for name in names
        if name in APPLE_DOMAINS
    ]


def _apple_joules(soc: Any, name: str) -> Callable[[], float]:
    return lambda: float(getattr(soc.get_total_energy_consumption(), name) / 1e3)
