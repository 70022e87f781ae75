"""Machine: what a profile was measured on, as the system describes itself. Measures nothing.

Nothing here raises: a description with a gap is better than no profile.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import edgesteer

PCI_VENDORS = {"0x1002": "AMD", "0x8086": "Intel"}

Run = Callable[[list[str]], str]
"""Runs a command and returns what it prints, "" when that fails."""
T = TypeVar("T")


@dataclass(frozen=True)
class Machine:
    """Plain values; what is not known is None, "" or empty.

    cores: physical ones. power_mode: governor, platform profile, nvpmodel, and whether on battery. build: llama.cpp's
    flags, by device and name.
    """

    cpu: str
    cores: int | None
    memory_bytes: int | None
    gpus: list[str]
    power_mode: str | None
    os: str
    python: str
    edgesteer: str
    llama_cpp_python: str
    llama_system_info: str
    build: dict[str, str | bool]


def describe_machine(root: Path = Path("/"), run: Run | None = None) -> Machine:
    """Describe this machine. root: the folder of /proc, /sys and /etc. run: runs commands, on macOS."""
    run = run or command_output
    return Machine(
        cpu=cpu_name(root, run),
        cores=core_count(root, run),
        memory_bytes=memory_bytes(root, run),
        gpus=gpus(root),
        power_mode=power_mode(root, run),
        os=os_name(root),
        python=f"{platform.python_implementation()} {platform.python_version()}",
        edgesteer=edgesteer.__version__,
        llama_cpp_python=_or(lambda: importlib.metadata.version("llama_cpp_python"), ""),
        llama_system_info=_or(_llama_system_info, ""),
        build=_or(_llama_build, {}),
    )


def frequencies(root: Path = Path("/")) -> list[float]:
    """Return each core's frequency now, in MHz; [] where the system does not tell."""
    cores = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*"), key=_number_in)
    texts = [read_text(core / "cpufreq/scaling_cur_freq") for core in cores]
    kilohertz = [int(text) for text in texts if text.isdecimal()]
    megahertz = [text for text in cpuinfo(root, "cpu MHz") if re.fullmatch(r"\d+\.?\d*", text)]
    return [each / 1000 for each in kilohertz] or [float(each) for each in megahertz]


# ---- processor and memory ----


def cpu_name(root: Path, run: Run) -> str:
    names = cpuinfo(root, "model name") or [read_text(root / "proc/device-tree/model")]
    return names[0] or _sysctl(run, "machdep.cpu.brand_string") or platform.processor() or platform.machine()


def core_count(root: Path, run: Run) -> int | None:
    places = set(zip(cpuinfo(root, "physical id"), cpuinfo(root, "core id"), strict=False))
    cores = len(places) or len(cpuinfo(root, "processor"))
    return cores or _whole(_sysctl(run, "hw.physicalcpu"))


def memory_bytes(root: Path, run: Run) -> int | None:
    kibibytes = re.search(r"^MemTotal:\s+(\d+) kB", read_text(root / "proc/meminfo"), re.MULTILINE)
    return 1024 * int(kibibytes[1]) if kibibytes else _whole(_sysctl(run, "hw.memsize"))


def cpuinfo(root: Path, key: str) -> list[str]:
    """Return the values of a key of /proc/cpuinfo, one a processor."""
    return re.findall(rf"^{key}[ \t]*: *(.*?) *$", read_text(root / "proc/cpuinfo"), re.MULTILINE)


# ---- GPUs ----


def gpus(root: Path) -> list[str]:
    """Return the GPUs that the drivers show, and those that llama.cpp can use."""
    shown = [*_nvidia_gpus(root), *_drm_gpus(root)]
    usable: list[str] = _or(_llama_gpus, [])
    return shown + [name for name in usable if name not in shown]


def _nvidia_gpus(root: Path) -> list[str]:
    texts = map(read_text, sorted((root / "proc/driver/nvidia/gpus").glob("*/information")))
    return [match[1] for text in texts if (match := re.search(r"^Model:\s*(.+?)\s*$", text, re.MULTILINE))]


def _drm_gpus(root: Path) -> list[str]:
    """AMD's and Intel's; NVIDIA's own driver names its GPUs elsewhere."""
    found = []
    for card in sorted((root / "sys/class/drm").glob("card[0-9]*"), key=_number_in):
        vendor = PCI_VENDORS.get(read_text(card / "device/vendor"))
        if vendor and card.name[4:].isdecimal():  # card0-HDMI-A-1 is a connector
            found.append(read_text(card / "device/product_name") or f"{vendor} {read_text(card / 'device/device')}")
    return found


# ---- power ----


def power_mode(root: Path, run: Run) -> str | None:
    """Return what decides how fast the machine may run, None where nothing is known of it."""
    parts = (*_governors(root), *_profile(root), *_nvpmodel(root), *_supply(root), *_low_power(run))
    return ", ".join(parts) or None


def _governors(root: Path) -> Iterable[str]:
    files = (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_governor")
    names = sorted({name for name in map(read_text, files) if name})
    return [f"governor {' and '.join(names)}"] if names else []


def _profile(root: Path) -> Iterable[str]:
    name = read_text(root / "sys/firmware/acpi/platform_profile")
    return [f"platform profile {name}"] if name else []


def _nvpmodel(root: Path) -> Iterable[str]:
    """Jetson's: the number of the mode is in one file, the modes' names in another."""
    number = re.search(r"pmode:(\d+)", read_text(root / "var/lib/nvpmodel/status"))
    if not number:
        return []
    modes = re.findall(r"POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)", read_text(root / "etc/nvpmodel.conf"))
    names = {int(mode): name for mode, name in modes}
    return [f"nvpmodel {names.get(int(number[1]), int(number[1]))}"]


def _supply(root: Path) -> Iterable[str]:
    supplies = (root / "sys/class/power_supply").glob("*")
    batteries = [each for each in supplies if read_text(each / "type") == "Battery"]
    states = [read_text(each / "status") for each in batteries if read_text(each / "scope") != "Device"]  # a mouse's
    return ["on battery"] if "Discharging" in states else []


def _low_power(run: Run) -> Iterable[str]:
    if sys.platform != "darwin":
        return []
    return ["low power mode"] if re.search(r"lowpowermode\s+1", run(["pmset", "-g"])) else []


# ---- system ----


def os_name(root: Path) -> str:
    """Return the distribution, where there is one, and the kernel."""
    pretty = re.search(r'^PRETTY_NAME="?([^"\n]*)', read_text(root / "etc/os-release"), re.MULTILINE)
    kernel = platform.platform(terse=False)
    return f"{pretty[1]}, {kernel}" if pretty else kernel


def _llama_system_info() -> str:
    from edgesteer.runtime.system import system_info

    return system_info()


def _llama_build() -> dict[str, str | bool]:
    from edgesteer.runtime.system import build_flags

    return build_flags()


def _llama_gpus() -> list[str]:
    from edgesteer.runtime.system import gpu_names

    return gpu_names()


# ---- reading without raising ----


def read_text(path: Path) -> str:
    """Return a file's text without white space and NULs around it, "" when it cannot be read."""
    try:
        return path.read_text("utf-8", "replace").strip(" \t\n\0")
    except OSError:
        return ""


def command_output(command: list[str]) -> str:
    """Return what a command prints, "" when it fails or takes longer than a few seconds."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _sysctl(run: Run, key: str) -> str:
    return run(["sysctl", "-n", key]) if sys.platform == "darwin" else ""


def _whole(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _number_in(path: Path) -> int:
    """The number in the name of a path that a pattern of numbered names found."""
    return int("".join(filter(str.isdecimal, path.name)) or 0)


def _or(find: Callable[[], T], otherwise: T) -> T:
    """Return what find returns, something else when it raises anything: llama.cpp may be absent, or of any version."""
    try:
        return find()
    except Exception:
        return otherwise
