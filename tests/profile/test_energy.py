"""Energy, from devices and kernel files that are made up and follow known power curves, on a made-up clock."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgesteer.profile.energy import (
    SAMPLES_PER_SECOND,
    EnergyMonitor,
    Meter,
    Unavailable,
    open_monitor,
    peak_watts,
    update_rates,
)
from edgesteer.profile.meters import (
    APPLE_DOMAINS,
    Counter,
    Found,
    PowerIntegral,
    apple_meters,
    gpu_meters,
    powercap_zones,
    vendor_meters,
)

STEP = 1 / SAMPLES_PER_SECOND


# ---- power curves: watts at a time, and their exact integral from 0 ----


@dataclasses.dataclass(frozen=True)
class Curve:
    watts: Callable[[float], float]
    joules: Callable[[float], float]


def constant(watts: float) -> Curve:
    return Curve(lambda t: watts, lambda t: watts * t)


def ramp(watts: float, per_second: float) -> Curve:
    return Curve(lambda t: watts + per_second * t, lambda t: watts * t + per_second * t * t / 2)


def pulses(low: float, high: float, period: float, duty: float) -> Curve:
    def joules(t: float) -> float:
        whole, rest = divmod(t, period)
        return low * t + (high - low) * (whole * duty * period + min(rest, duty * period))

    return Curve(lambda t: high if t % period < duty * period else low, joules)


CURVES = {"constant": constant(15), "ramp": ramp(5, 1.5), "pulses": pulses(4, 28, period=0.73, duty=0.3)}


class World:
    """A clock that only moves when told to, and what follows it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.followers: list[Callable[[float], None]] = []

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        for follow in self.followers:
            follow(self.now)


@pytest.fixture
def world() -> World:
    return World()


def spend(world: World, monitor: EnergyMonitor, seconds: float) -> None:
    """Let time go by while the monitor samples as its thread would."""
    for _ in range(round(seconds / STEP)):
        world.sleep(STEP)
        monitor.sample()


def no_vendors(clock: Any) -> Found:
    return [], []


def opened(world: World, root: Path, vendors: Callable[[Any], Found] = no_vendors) -> EnergyMonitor:
    monitor = open_monitor(root=root, vendors=vendors, clock=world.clock, sleep=world.sleep, samples_per_second=0)
    assert isinstance(monitor, EnergyMonitor)
    return monitor


# ---- fakes of the kernel's files and of zeus's devices ----

FULL_TURN = 262_143_328_850  # max_energy_range_uj of a real machine


def add_zone(
    world: World, root: Path, number: str, name: str, curve: Curve,
    *, turn: int = FULL_TURN, start: int = 0, renewals: int = 100,
) -> Path:  # fmt: skip
    """A powercap zone. turn, start: of its counter, in microjoules. renewals: a second; a real one has 1000."""
    folder = root / "sys/class/powercap" / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "max_energy_range_uj").write_text(f"{turn}\n")

    shown = -1

    def renew(now: float) -> None:
        nonlocal shown
        if int(renewals * now) != shown:
            shown = int(renewals * now)
            counted = start + int(1e6 * curve.joules(shown / renewals))
            (folder / "energy_uj").write_text(f"{counted % turn}\n")

    renew(0)
    world.followers.append(renew)
    return folder


def add_hwmon_rails(world: World, root: Path, **curves: Curve) -> None:
    folder = root / "sys/class/hwmon/hwmon3"
    folder.mkdir(parents=True)
    (folder / "name").write_text("ina3221\n")
    for channel, (label, curve) in enumerate(curves.items(), 1):
        (folder / f"in{channel}_label").write_text(f"{label}\n")
        (folder / f"in{channel}_input").write_text("5000\n")

        def renew(now: float, channel: int = channel, curve: Curve = curve) -> None:
            (folder / f"curr{channel}_input").write_text(f"{round(1000 * curve.watts(now) / 5)}\n")

        renew(0)
        world.followers.append(renew)


def add_iio_rail(world: World, root: Path, label: str, curve: Curve) -> None:
    folder = root / "sys/bus/i2c/drivers/ina3221x/6-0040/iio:device0"
    folder.mkdir(parents=True)
    (folder / "rail_name_0").write_text(f"{label}\n")

    def renew(now: float) -> None:
        (folder / "in_power0_input").write_text(f"{round(1000 * curve.watts(now))}\n")

    renew(0)
    world.followers.append(renew)


class FakeGpu:
    """What energy needs of a zeus.device.gpu.GPU; the counter is renewed ten times a second."""

    def __init__(self, world: World, curve: Curve, *, counts: bool = True) -> None:
        self.world, self.curve, self.counts = world, curve, counts

    def get_name(self) -> str:
        return "Fake GPU"

    def supports_get_total_energy_consumption(self) -> bool:
        return self.counts

    def get_total_energy_consumption(self) -> int:
        assert self.counts
        return int(1000 * self.curve.joules(int(10 * self.world.now) / 10))

    def get_instant_power_usage(self) -> int:
        return round(1000 * self.curve.watts(self.world.now))


@dataclasses.dataclass
class FakeAppleMeasurement:
    cpu_total_mj: int | None = None
    gpu_mj: int | None = None
    ane_mj: int | None = None
    efficiency_cores_mj: list[int] | None = None


class FakeApple:
    def __init__(self, world: World, curve: Curve) -> None:
        self.world, self.curve = world, curve

    def get_total_energy_consumption(self) -> FakeAppleMeasurement:
        millijoules = int(1000 * self.curve.joules(self.world.now))
        return FakeAppleMeasurement(millijoules, 2 * millijoules, None, [1, 2])


Install = Callable[[World, Path, Curve], EnergyMonitor]


def install_zone(world: World, root: Path, curve: Curve) -> EnergyMonitor:
    add_zone(world, root, "0", "package-0", curve)
    return opened(world, root)


def install_hwmon(world: World, root: Path, curve: Curve) -> EnergyMonitor:
    add_hwmon_rails(world, root, VDD_IN=curve)
    return opened(world, root)


def install_iio(world: World, root: Path, curve: Curve) -> EnergyMonitor:
    add_iio_rail(world, root, "POM_5V_IN", curve)
    return opened(world, root)


def install_gpu(world: World, root: Path, curve: Curve) -> EnergyMonitor:
    return opened(world, root, lambda clock: (gpu_meters([FakeGpu(world, curve)], clock), []))


def install_old_gpu(world: World, root: Path, curve: Curve) -> EnergyMonitor:
    return opened(world, root, lambda clock: (gpu_meters([FakeGpu(world, curve, counts=False)], clock), []))


def install_apple(world: World, root: Path, curve: Curve) -> EnergyMonitor:
    return opened(world, root, lambda clock: (apple_meters(FakeApple(world, curve)), []))


INSTALLS: dict[str, Install] = {
    "powercap": install_zone, "hwmon rail": install_hwmon, "iio rail": install_iio, "GPU counter": install_gpu,
    "GPU power": install_old_gpu, "Apple": install_apple,
}  # fmt: skip


# ---- the integral ----


@pytest.mark.parametrize("curve", CURVES.values(), ids=CURVES.keys())
@pytest.mark.parametrize("install", INSTALLS.values(), ids=INSTALLS.keys())
def test_joules_are_the_integral_of_power_within_1_percent(
    world: World, tmp_path: Path, install: Install, curve: Curve
) -> None:
    monitor = install(world, tmp_path, curve)
    spend(world, monitor, 3.1)
    start = world.now
    with monitor.window() as reading:
        spend(world, monitor, 20)
    expected = curve.joules(world.now) - curve.joules(start)
    assert reading.joules[monitor.meters[0].name] == pytest.approx(expected, rel=0.01)
    assert reading.seconds == pytest.approx(20)


def test_windows_after_one_another_are_apart(world: World, tmp_path: Path) -> None:
    monitor = install_zone(world, tmp_path, ramp(0, 1))
    sums = []
    for _ in range(2):
        start = world.now
        with monitor.window() as reading:
            spend(world, monitor, 4)
        sums.append((reading.joules["package-0"], ramp(0, 1).joules(world.now) - ramp(0, 1).joules(start)))
    assert sums[0][0] < sums[1][0]
    for ours, expected in sums:
        assert ours == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize("start", [0, 5_000_000, 59_999_999])
def test_a_counter_that_starts_again_loses_nothing(world: World, tmp_path: Path, start: int) -> None:
    # 15 W turn a range of 60 J in 4 s: some five times in the window
    add_zone(world, tmp_path, "0", "package-0", constant(15), turn=60_000_000, start=start)
    monitor = opened(world, tmp_path)
    with monitor.window() as reading:
        spend(world, monitor, 20)
    assert reading.joules["package-0"] == pytest.approx(300, rel=0.001)


def test_a_counter_that_starts_again_between_windows_disturbs_neither(world: World, tmp_path: Path) -> None:
    add_zone(world, tmp_path, "0", "package-0", constant(15), turn=60_000_000)
    monitor = opened(world, tmp_path)
    for _ in range(3):
        with monitor.window() as reading:
            spend(world, monitor, 1)
        world.sleep(7.3)
        assert reading.joules["package-0"] == pytest.approx(15, rel=0.002)


def test_idle_power_is_the_mean_over_the_time_asked_for(world: World, tmp_path: Path) -> None:
    monitor = install_zone(world, tmp_path, constant(3.5))
    began = world.now
    assert monitor.idle_watts(2.0) == {"package-0": pytest.approx(3.5, rel=0.001)}
    assert world.now - began == pytest.approx(2.0)


def test_mean_power_is_joules_by_seconds(world: World, tmp_path: Path) -> None:
    monitor = install_zone(world, tmp_path, constant(40))
    with monitor.window() as reading:
        spend(world, monitor, 5)
    assert reading.watts == {"package-0": pytest.approx(40, rel=0.01)}


def test_a_window_without_time_has_no_power(world: World, tmp_path: Path) -> None:
    monitor = install_zone(world, tmp_path, constant(40))
    with monitor.window() as reading:
        pass
    assert (reading.joules, reading.watts) == ({"package-0": 0.0}, {})


# ---- peaks ----


@pytest.mark.parametrize("install", [install_zone, install_hwmon], ids=["counter", "power"])
def test_the_peak_is_the_power_of_the_pulses(world: World, tmp_path: Path, install: Install) -> None:
    monitor = install(world, tmp_path, pulses(4, 28, period=2, duty=0.5))
    with monitor.window() as reading:
        spend(world, monitor, 10)
    assert reading.peak_watts[monitor.meters[0].name] == pytest.approx(28, rel=0.02)


def test_the_peak_of_a_slow_counter_is_not_its_jumps(world: World, tmp_path: Path) -> None:
    # ten times a second 4 J at once; between two readings 50 ms apart that is 0 W or 80 W
    monitor = install_gpu(world, tmp_path, constant(40))
    with monitor.window() as reading:
        spend(world, monitor, 10)
    assert reading.peak_watts["Fake GPU 0"] == pytest.approx(40, rel=0.11)


def test_peaks_by_hand() -> None:
    curve = [(0.0, 0.0), (1.0, 1.0), (2.0, 9.0), (3.0, 12.0), (4.0, 12.5)]
    assert peak_watts(curve, 1.0) == 8.0
    assert peak_watts(curve, 2.0) == 5.5
    assert peak_watts(curve, 3.0) == 4.0
    assert peak_watts(curve, 9.0) == 3.125
    assert peak_watts(curve[:1], 1.0) == 0.0


# ---- which meters there are ----


def test_zones_are_told_by_name_domain_and_what_includes_them(world: World, tmp_path: Path) -> None:
    for number, name in {"0": "package-0", "0:0": "core", "0:1": "dram", "1": "psys"}.items():
        add_zone(world, tmp_path, number, name, constant(9))
    meters = [(m.name, m.domain, m.included_in) for m in opened(world, tmp_path).meters]
    assert meters == [
        ("package-0", "package", "psys"),
        ("package-0 core", "CPU cores", "package-0"),
        ("package-0 dram", "memory", "psys"),
        ("psys", "platform", None),
    ]


def test_sockets_have_names_of_their_own(world: World, tmp_path: Path) -> None:
    for number, name in {"0": "package-0", "0:0": "dram", "1": "package-1", "1:0": "dram"}.items():
        add_zone(world, tmp_path, number, name, constant(9))
    meters = {m.name: m.included_in for m in opened(world, tmp_path).meters}
    assert meters == dict.fromkeys(["package-0", "package-0 dram", "package-1", "package-1 dram"])


def test_rails_are_told_by_their_labels(world: World, tmp_path: Path) -> None:
    add_hwmon_rails(world, tmp_path, VDD_IN=constant(9), VDD_CPU_GPU_CV=constant(4), NC=constant(0))
    meters = [(m.name, m.domain, m.included_in) for m in opened(world, tmp_path).meters]
    assert meters == [
        ("VDD_IN", "board rail VDD_IN", None),
        ("VDD_CPU_GPU_CV", "board rail VDD_CPU_GPU_CV", "VDD_IN"),
    ]


def test_other_sensors_are_no_rails(world: World, tmp_path: Path) -> None:
    add_hwmon_rails(world, tmp_path, VDD_IN=constant(9))
    (tmp_path / "sys/class/hwmon/hwmon3/name").write_text("coretemp\n")
    assert isinstance(open_monitor(root=tmp_path, vendors=no_vendors), Unavailable)


def test_gpus_are_told_by_number(world: World) -> None:
    meters = gpu_meters([FakeGpu(world, constant(1)), FakeGpu(world, constant(1), counts=False)], world.clock)
    assert [(m.name, m.domain) for m in meters] == [("Fake GPU 0", "GPU 0"), ("Fake GPU 1", "GPU 1")]


def test_an_apple_chip_has_the_meters_that_it_knows(world: World) -> None:
    meters = apple_meters(FakeApple(world, constant(1)))
    assert [(m.name, m.domain) for m in meters] == [("cpu_total", "CPU"), ("gpu", "GPU")]
    world.sleep(3)
    assert [m.joules() for m in meters] == [3.0, 6.0]


def test_sampling_rates_are_seen(world: World, tmp_path: Path) -> None:
    add_zone(world, tmp_path, "0", "package-0", constant(9), renewals=1000)
    gpus = [FakeGpu(world, constant(9)), FakeGpu(world, constant(9), counts=False)]
    monitor = open_monitor(
        root=tmp_path, vendors=lambda clock: (gpu_meters(gpus, clock), []), clock=world.clock, sleep=world.sleep
    )
    assert isinstance(monitor, EnergyMonitor)
    rates = [meter.sampling_hz for meter in monitor.meters]
    assert rates == [pytest.approx(1000, rel=0.05), pytest.approx(10, rel=0.25), SAMPLES_PER_SECOND]


# ---- where there is none ----


def unavailable(root: Path, **options: Any) -> Unavailable:
    found = open_monitor(root=root, **{"vendors": no_vendors, **options})
    assert isinstance(found, Unavailable)
    return found


def write_cpuinfo(root: Path, flags: str) -> None:
    (root / "proc").mkdir()
    (root / "proc/cpuinfo").write_text(f"processor\t: 0\nflags\t\t: {flags}\n")


def test_a_virtual_machine_is_named_as_the_reason(tmp_path: Path) -> None:
    write_cpuinfo(tmp_path, "fpu hypervisor avx2")
    assert unavailable(tmp_path) == Unavailable("no RAPL in a virtual machine", "Run on the host itself.")


def test_a_kernel_without_powercap_is_named_as_the_reason(tmp_path: Path) -> None:
    write_cpuinfo(tmp_path, "fpu avx2")
    found = unavailable(tmp_path)
    assert found.reason == "the kernel shows no RAPL"
    assert found.remedy is not None
    assert "sudo modprobe intel_rapl_msr" in found.remedy


def test_a_system_without_kernel_files_has_no_rapl(tmp_path: Path) -> None:
    assert unavailable(tmp_path) == Unavailable("this system has no RAPL")


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """energy_uj files may not be read; taking the permission away would not stop a test that runs as root."""
    read_text = Path.read_text

    def read(self: Path, *arguments: Any, **options: Any) -> str:
        if self.name == "energy_uj":
            raise PermissionError(13, "Permission denied", str(self))
        return read_text(self, *arguments, **options)

    monkeypatch.setattr(Path, "read_text", read)


@pytest.mark.usefixtures("forbidden")
def test_a_missing_permission_is_named_with_the_command_that_grants_it(world: World, tmp_path: Path) -> None:
    for number in ("0", "1"):
        folder = add_zone(world, tmp_path, number, f"package-{number}", constant(9))
    found = unavailable(tmp_path)
    assert found.reason == f"no permission to read {folder / 'energy_uj'}"
    assert found.remedy == "Run: sudo chmod a+r /sys/class/powercap/*/energy_uj"


@pytest.mark.usefixtures("forbidden")
def test_what_hides_one_meter_is_told_beside_the_others(world: World, tmp_path: Path) -> None:
    add_zone(world, tmp_path, "0", "package-0", constant(9))
    monitor = opened(world, tmp_path, lambda clock: (gpu_meters([FakeGpu(world, constant(9))], clock), []))
    assert [meter.domain for meter in monitor.meters] == ["GPU 0"]
    assert [each.remedy for each in monitor.missing] == ["Run: sudo chmod a+r /sys/class/powercap/*/energy_uj"]


@pytest.mark.parametrize("damage", ["", "many"])
def test_a_zone_that_makes_no_sense_is_named_as_the_reason(world: World, tmp_path: Path, damage: str) -> None:
    folder = add_zone(world, tmp_path, "0", "package-0", constant(9))
    (folder / "energy_uj").write_text(damage)
    assert "intel-rapl:0 cannot be read" in unavailable(tmp_path).reason


def test_a_counter_that_stands_still_is_no_meter(world: World, tmp_path: Path) -> None:
    add_zone(world, tmp_path, "0", "package-0", constant(0))
    found = unavailable(tmp_path, clock=world.clock, sleep=world.sleep)
    assert found == Unavailable("the counter of package-0 stands still")


def test_all_reasons_and_remedies_are_told(tmp_path: Path) -> None:
    found = unavailable(tmp_path, vendors=lambda clock: ([], [Unavailable("no GPU", "Buy one.")]))
    assert found == Unavailable("this system has no RAPL; no GPU", "Buy one.")


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "zeus.device", None)
    assert vendor_meters(time.perf_counter) == (
        [],
        [Unavailable("GPUs and Apple silicon need the package zeus", 'Run: pip install "edgesteer[energy]"')],
    )


# ---- meters that fail ----


@pytest.fixture
def failing(world: World) -> tuple[EnergyMonitor, SimpleNamespace]:
    """A monitor of two meters; the second fails from state.limit joules on."""
    state = SimpleNamespace(limit=1e9)

    def joules() -> float:
        if world.now > state.limit:
            raise RuntimeError("GPU is lost")
        return world.now

    sources = [Counter("good", "package", world.clock), Counter("bad", "GPU 0", joules)]
    return EnergyMonitor(sources, clock=world.clock, sleep=world.sleep, samples_per_second=0), state


def test_a_meter_that_fails_in_a_window_has_no_figure_there(
    world: World, failing: tuple[EnergyMonitor, SimpleNamespace]
) -> None:
    monitor, state = failing
    state.limit = 2.0
    with monitor.window() as reading:
        spend(world, monitor, 4)
    assert reading.joules == {"good": pytest.approx(4)}
    assert reading.peak_watts.keys() == {"good"}


def test_a_meter_that_works_again_has_a_figure_again(
    world: World, failing: tuple[EnergyMonitor, SimpleNamespace]
) -> None:
    monitor, state = failing
    state.limit = -1.0
    with monitor.window():
        spend(world, monitor, 1)
    state.limit = 1e9
    with monitor.window() as reading:
        spend(world, monitor, 1)
    assert reading.joules.keys() == {"good", "bad"}


def test_a_counter_that_fails_while_it_is_watched_has_no_rate(world: World) -> None:
    def fail() -> float:
        raise OSError("gone")

    assert update_rates([Counter("bad", "GPU 0", fail)], world.clock, world.sleep) == {}


def test_an_error_in_the_body_is_handed_on_and_the_thread_ends() -> None:
    monitor = EnergyMonitor([Counter("clock", "package", time.perf_counter)], samples_per_second=1000)
    with pytest.raises(ValueError, match="planted"), monitor.window():
        raise ValueError("planted")
    with monitor.window() as reading:
        pass
    assert reading.joules["clock"] >= 0


# ---- the thread that samples ----


def test_a_thread_samples_while_the_body_runs() -> None:
    # a ramp that only the thread can follow: first and last power alone would give 4 W for a mean of 6 W and more
    began = time.perf_counter()
    samples: list[float] = []

    def watts() -> float:
        samples.append(time.perf_counter() - began)
        return 4.0 if len(samples) < 3 else 8.0

    source = PowerIntegral("rail", "board rail", watts, time.perf_counter)
    monitor = EnergyMonitor([source], samples_per_second=200)
    with monitor.window() as reading:
        while len(samples) < 20:
            time.sleep(0.001)
    assert reading.joules["rail"] <= 8.0 * reading.seconds
    assert reading.joules["rail"] > 4.0 * reading.seconds


# ---- what is asked of zeus is what zeus has ----


def test_zeus_has_what_is_asked_of_a_gpu() -> None:
    common = pytest.importorskip("zeus.device.gpu.common")
    used = [name for name in vars(FakeGpu) if not name.startswith("_")]
    assert used
    assert [name for name in used if not hasattr(common.GPU, name)] == []


def test_zeus_has_what_is_asked_of_an_apple_chip() -> None:
    apple = pytest.importorskip("zeus.device.soc.apple")
    assert APPLE_DOMAINS.keys() <= {each.name for each in dataclasses.fields(apple.AppleSiliconMeasurement)}
    assert hasattr(apple.AppleSilicon, "get_total_energy_consumption")


def test_the_gpus_that_zeus_finds_are_meters(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = pytest.importorskip("zeus.device")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(device, "get_gpus", lambda: SimpleNamespace(gpus=[FakeGpu(world, constant(5))]))
    meters, problems = vendor_meters(world.clock)
    assert ([meter.domain for meter in meters], problems) == (["GPU 0"], [])


def test_the_apple_chip_that_zeus_finds_is_metered(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    device = pytest.importorskip("zeus.device")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(device, "get_soc", lambda: FakeApple(world, constant(5)))
    meters, problems = vendor_meters(world.clock)
    assert ([meter.domain for meter in meters], problems) == (["CPU", "GPU"], [])


def test_what_zeus_fails_with_is_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    device = pytest.importorskip("zeus.device")

    def fail() -> None:
        raise RuntimeError("NVML is in a bad mood. Giving up.")

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(device, "get_gpus", fail)
    assert vendor_meters(time.perf_counter) == ([], [Unavailable("zeus finds no meter: NVML is in a bad mood")])


def test_a_powercap_tree_without_zones_has_no_meters(tmp_path: Path) -> None:
    (tmp_path / "sys/class/powercap/intel-rapl").mkdir(parents=True)
    assert powercap_zones(tmp_path)[0] == []


def test_a_meter_says_nothing_that_it_does_not_know() -> None:
    assert Meter("package-0", "package").sampling_hz is None
