"""Machines, read from files that are made up."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edgesteer import __version__
from edgesteer.profile import machine as machine_module
from edgesteer.profile.machine import (
    Machine,
    command_output,
    core_count,
    cpu_name,
    describe_machine,
    frequencies,
    gpus,
    memory_bytes,
    os_name,
    power_mode,
)


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def silent(command: list[str]) -> str:
    """A system in which no command says anything."""
    return ""


def answers(**said: str) -> machine_module.Run:
    """A macOS in which the last word of a command has these answers."""
    return lambda command: said.get(command[-1].replace(".", "_").strip("-"), "")


@pytest.fixture
def on_mac(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")


@pytest.fixture(autouse=True)
def no_gpus_of_llama(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_module, "_llama_gpus", list)


def cpuinfo(*processors: dict[str, str]) -> str:
    return "\n\n".join("\n".join(f"{key}\t: {value}" for key, value in each.items()) for each in processors) + "\n"


# ---- processor and memory ----


def test_a_processor_is_named_by_cpuinfo(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo({"processor": "0", "model name": "AMD Ryzen 7 7840U  "}))
    assert cpu_name(tmp_path, silent) == "AMD Ryzen 7 7840U"


def test_a_board_is_named_by_its_device_tree(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo({"processor": "0", "CPU part": "0xd42"}))
    write(tmp_path, "proc/device-tree/model", "NVIDIA Jetson Orin Nano Developer Kit\0")
    assert cpu_name(tmp_path, silent) == "NVIDIA Jetson Orin Nano Developer Kit"


@pytest.mark.usefixtures("on_mac")
def test_a_mac_is_named_by_sysctl(tmp_path: Path) -> None:
    run = answers(machdep_cpu_brand_string="Apple M2", hw_physicalcpu="8", hw_memsize="17179869184")
    assert cpu_name(tmp_path, run) == "Apple M2"
    assert core_count(tmp_path, run) == 8
    assert memory_bytes(tmp_path, run) == 16 << 30


def test_cores_are_counted_once_over_their_threads_and_sockets(tmp_path: Path) -> None:
    places = [("0", "0"), ("0", "4"), ("1", "0"), ("0", "0"), ("0", "4"), ("1", "0")]
    processors = [{"processor": str(i), "physical id": s, "core id": c} for i, (s, c) in enumerate(places)]
    write(tmp_path, "proc/cpuinfo", cpuinfo(*processors))
    assert core_count(tmp_path, silent) == 3


def test_cores_without_places_are_processors(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo(*({"processor": str(i), "BogoMIPS": "48"} for i in range(6))))
    assert core_count(tmp_path, silent) == 6


def test_memory_is_all_there_is(tmp_path: Path) -> None:
    write(tmp_path, "proc/meminfo", "MemTotal:        7765012 kB\nMemFree:          123 kB\n")
    assert memory_bytes(tmp_path, silent) == 7765012 * 1024


# ---- GPUs ----


def test_nvidia_gpus_are_named_by_their_driver(tmp_path: Path) -> None:
    for number, name in enumerate(["NVIDIA H200", "NVIDIA H200"]):
        write(tmp_path, f"proc/driver/nvidia/gpus/0000:0{number}:00.0/information", f"Model: \t\t {name}\nIRQ: 7\n")
    assert gpus(tmp_path) == ["NVIDIA H200", "NVIDIA H200"]


def test_other_gpus_are_named_by_vendor_and_number(tmp_path: Path) -> None:
    for card, vendor, device in ((0, "0x8086", "0x46a6"), (1, "0x1002", "0x744c"), (2, "0x10de", "0x2335")):
        write(tmp_path, f"sys/class/drm/card{card}/device/vendor", f"{vendor}\n")
        write(tmp_path, f"sys/class/drm/card{card}/device/device", f"{device}\n")
    write(tmp_path, "sys/class/drm/card0-HDMI-A-1/device/vendor", "0x8086\n")
    write(tmp_path, "sys/class/drm/card1/device/product_name", "Radeon RX 7900 XTX\n")
    assert gpus(tmp_path) == ["Intel 0x46a6", "Radeon RX 7900 XTX"]


def test_a_gpu_that_only_llama_cpp_sees_is_named_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "proc/driver/nvidia/gpus/0/information", "Model: Orin\n")
    monkeypatch.setattr(machine_module, "_llama_gpus", lambda: ["Orin", "Apple M2"])
    assert gpus(tmp_path) == ["Orin", "Apple M2"]


# ---- power ----


def test_governors_are_told(tmp_path: Path) -> None:
    for core, name in enumerate(["schedutil", "performance", "schedutil"]):
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_governor", f"{name}\n")
    assert power_mode(tmp_path, silent) == "governor performance and schedutil"


def test_a_jetson_s_power_model_is_told_by_name(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002 fmode:quiet")
    modes = "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE CORE_0 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
    write(tmp_path, "etc/nvpmodel.conf", modes)
    assert power_mode(tmp_path, silent) == "nvpmodel MAXN_SUPER"


def test_a_power_model_without_a_name_is_told_by_number(tmp_path: Path) -> None:
    write(tmp_path, "var/lib/nvpmodel/status", "pmode:0002")
    assert power_mode(tmp_path, silent) == "nvpmodel 2"


def test_profile_and_battery_are_told(tmp_path: Path) -> None:
    write(tmp_path, "sys/firmware/acpi/platform_profile", "low-power\n")
    write(tmp_path, "sys/class/power_supply/BAT0/type", "Battery\n")
    write(tmp_path, "sys/class/power_supply/BAT0/status", "Discharging\n")
    assert power_mode(tmp_path, silent) == "platform profile low-power, on battery"


@pytest.mark.parametrize(("status", "scope"), [("Charging", "System"), ("Discharging", "Device")])
def test_a_charging_battery_and_a_mouse_s_do_not_count(tmp_path: Path, status: str, scope: str) -> None:
    for name, text in {"type": "Battery", "status": status, "scope": scope}.items():
        write(tmp_path, f"sys/class/power_supply/BAT0/{name}", f"{text}\n")
    assert power_mode(tmp_path, silent) is None


@pytest.mark.usefixtures("on_mac")
@pytest.mark.parametrize(("said", "mode"), [(" lowpowermode         1", "low power mode"), (" lowpowermode 0", None)])
def test_a_mac_s_low_power_mode_is_told(tmp_path: Path, said: str, mode: str | None) -> None:
    assert power_mode(tmp_path, answers(g=said)) == mode


# ---- frequencies ----


def test_frequencies_are_in_megahertz_by_core(tmp_path: Path) -> None:
    for core, kilohertz in {0: 3_400_000, 2: 800_000, 10: 1_200_000}.items():
        write(tmp_path, f"sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", f"{kilohertz}\n")
    write(tmp_path, "sys/devices/system/cpu/cpu3/topology/core_id", "3\n")
    assert frequencies(tmp_path) == [3400.0, 800.0, 1200.0]


def test_frequencies_come_from_cpuinfo_where_there_is_no_governor(tmp_path: Path) -> None:
    write(tmp_path, "proc/cpuinfo", cpuinfo({"processor": "0", "cpu MHz": "2596.148"}, {"cpu MHz": "800.0"}))
    assert frequencies(tmp_path) == [2596.148, 800.0]


def test_unknown_frequencies_are_none(tmp_path: Path) -> None:
    assert frequencies(tmp_path) == []


# ---- the whole ----


def test_the_system_is_told_by_distribution_and_kernel(tmp_path: Path) -> None:
    kernel = os_name(tmp_path)
    assert kernel
    write(tmp_path, "etc/os-release", 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\n')
    assert os_name(tmp_path) == f"Ubuntu 24.04.1 LTS, {kernel}"


def test_an_empty_system_is_described_without_an_error(tmp_path: Path) -> None:
    described = describe_machine(tmp_path, silent)
    assert (described.cores, described.memory_bytes, described.gpus, described.power_mode) == (None, None, [], None)
    assert described.edgesteer == __version__


@pytest.mark.parametrize("content", ["", "\0\xff\n: :\n", "processor\nmodel name:\ncpu MHz\t: \nMemTotal: many kB"])
def test_files_that_make_no_sense_are_described_without_an_error(tmp_path: Path, content: str) -> None:
    for path in (
        "proc/cpuinfo", "proc/meminfo", "proc/device-tree/model", "etc/os-release", "etc/nvpmodel.conf",
        "var/lib/nvpmodel/status", "proc/driver/nvidia/gpus/0/information", "sys/class/drm/cardx/device/vendor",
        "sys/class/drm/card0/device/vendor", "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq",
    ):  # fmt: skip
        write(tmp_path, path, content)
    assert describe_machine(tmp_path, silent)
    assert frequencies(tmp_path) == []


def test_folders_in_place_of_files_are_described_without_an_error(tmp_path: Path) -> None:
    for path in ("proc/cpuinfo", "proc/meminfo", "etc/os-release"):
        (tmp_path / path).mkdir(parents=True)
    assert describe_machine(tmp_path, silent).cores is None


def test_this_machine_is_described_in_values_that_json_keeps() -> None:
    described = describe_machine()
    assert described.cpu
    assert Machine(**json.loads(json.dumps(dataclasses.asdict(described)))) == described


def test_llama_cpp_describes_its_build() -> None:
    described = describe_machine()
    assert described.llama_cpp_python
    assert "CPU" in described.llama_system_info
    assert isinstance(described.build["GPU_OFFLOAD"], bool)


def test_a_machine_without_llama_cpp_is_described_without_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "edgesteer.runtime.system", None)
    described = describe_machine()
    assert (described.llama_system_info, described.build) == ("", {})


# ---- commands ----


def test_a_command_gives_what_it_prints() -> None:
    assert command_output([sys.executable, "-c", "print(7)"]) == "7"


@pytest.mark.parametrize("command", [["no-such-command-here"], [sys.executable, "-c", "raise SystemExit(3)"]])
def test_a_command_that_fails_gives_nothing(command: list[str]) -> None:
    assert command_output(command) == ""


def test_a_command_that_hangs_gives_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], **options: object) -> None:
        raise subprocess.TimeoutExpired(command, 5)

    monkeypatch.setattr(subprocess, "run", hang)
    assert command_output(["sysctl"]) == ""
