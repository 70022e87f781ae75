"""What the doctor finds, whatever is broken."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edgesteer import doctor
from edgesteer.doctor import ABSENT, BROKEN, OK, Finding, examine, guarded, is_usable
from edgesteer.errors import EdgeSteerError, EngineError
from edgesteer.profile import energy, machine
from edgesteer.registry import PackageEntry
from edgesteer.runtime import hook, rpc, system
from edgesteer.runtime.system import CPU, GPU, Device

PROCESSOR = Device("CPU", "A processor", "CPU", CPU, 3_000_000_000, 4_000_000_000, True, 1)
CARD = Device("CUDA0", "A card", "CUDA", GPU, 0, 0, False, 2)
SERVERS = Device("RPC0", "host:1", "RPC", GPU, 1_000_000_000, 1_000_000_000, False, 3)


def fail(*_: object, **__: object) -> NoReturn:
    raise RuntimeError("is broken")


# ---- whatever happens ----


def test_an_error_of_ours_is_a_finding() -> None:
    def look() -> NoReturn:
        raise EdgeSteerError("is wrong", where="there", remedy="Mend it.")

    assert guarded("part", look) == [Finding("part", "part", BROKEN, "there: is wrong. Mend it.")]


def test_any_other_error_is_a_finding_after_those_that_were_made_before_it() -> None:
    def look() -> Any:
        yield Finding("part", "first", OK, "is there")
        raise KeyError("second")

    assert guarded("part", look) == [
        Finding("part", "first", OK, "is there"),
        Finding("part", "part", BROKEN, "KeyError: 'second'"),
    ]


@pytest.mark.parametrize(
    ("part", "state", "usable"),
    [("llama.cpp", BROKEN, False), ("hook", BROKEN, False), ("models", BROKEN, True), ("llama.cpp", ABSENT, True)],
)
def test_only_a_broken_llama_cpp_or_hook_stands_in_the_way(part: str, state: str, usable: bool) -> None:
    assert is_usable([Finding("hook", "x", OK, ""), Finding(part, "x", state, "")]) == usable


# ---- llama.cpp and the hook ----


def test_this_installation_can_steer() -> None:
    findings = examine()
    assert is_usable(findings)
    assert {each.part for each in findings} == {
        "versions", "llama.cpp", "hook", "backends", "devices", "energy", "extras", "models",
    }  # fmt: skip
    assert [each for each in findings if each.state == BROKEN] == []


@pytest.mark.parametrize(
    ("line", "detail"),
    [
        ("raise RuntimeError('no such library')", "cannot be loaded: RuntimeError: no such library (exit code 1)"),
        (f"import os; os.kill(os.getpid(), {int(signal.SIGILL)})", "cannot be loaded: ended by SIGILL"),
    ],
    ids=["cannot be imported", "is built for another processor"],
)
def test_a_broken_llama_cpp_is_told_with_its_cause(
    line: str, detail: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "llama_cpp.py").write_text(line)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    findings = examine()
    assert Finding("llama.cpp", "library", BROKEN, detail, doctor.BUILD) in findings
    assert not is_usable(findings)
    assert not {"backends", "devices"} & {each.part for each in findings}
    assert {"versions", "hook", "energy", "extras", "models"} <= {each.part for each in findings}


def test_a_hook_that_cannot_be_loaded_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "library_name", lambda: "no_such_library.so")
    monkeypatch.setattr(hook, "load_library", hook.load_library.__wrapped__)  # the cache would give the one it has
    found = guarded("hook", doctor.hook)
    assert [(each.part, each.state) for each in found] == [("hook", BROKEN)]
    assert found[0].detail.startswith("cannot load the native hook; found ")


def test_a_package_that_is_missing_is_told_with_its_pip_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "gguf":
            raise importlib.metadata.PackageNotFoundError
        return "1.2.3"

    monkeypatch.setattr(importlib.metadata, "version", version)
    found = {each.name: each for each in doctor.versions()}
    assert found["gguf"] == Finding("versions", "gguf", BROKEN, "is not installed", "Run: pip install gguf")
    assert found["llama-cpp-python"].detail == "1.2.3"
    assert found["Python"].detail.endswith(".".join(map(str, sys.version_info[:3])))


# ---- where a model can run ----


def test_backends_are_told_with_their_flags_and_those_that_are_not_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "backends", lambda: ["CUDA", "BLAS", "CPU"])
    flags = {"CPU AVX2": True, "CPU FMA": False, "CPU SVE_CNT": "16", "CUDA ARCHS": "870", "GPU_OFFLOAD": True}
    monkeypatch.setattr(system, "build_flags", lambda: flags)
    found = [(each.name, each.state, each.detail) for each in doctor.backends()]
    assert found == [
        ("CUDA", OK, "ARCHS 870"),
        ("BLAS", OK, "built in"),
        ("CPU", OK, "AVX2, SVE_CNT 16"),
        ("Metal", ABSENT, "not in this build"),
        ("RPC", ABSENT, "not in this build"),
        ("Vulkan", ABSENT, "not in this build"),
    ]


def test_devices_are_told_with_their_memory_and_what_the_hook_does_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "devices", lambda: [CARD, PROCESSOR])
    monkeypatch.setattr(rpc, "rpc_devices", lambda addresses: [SERVERS] if addresses == ["host:1"] else [])
    found = [(each.name, each.detail) for each in doctor.devices(["host:1"])]
    assert found == [
        ("CUDA0", f"A card; {doctor.COPIED}"),
        ("CPU", f"A processor; 3.0 of 4.0 GB free; {doctor.IN_PLACE}"),
        ("RPC0", f"host:1; 1.0 of 1.0 GB free; {doctor.COPIED}"),
    ]


def test_a_gpu_that_this_build_does_not_use_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(system, "devices", lambda: [PROCESSOR])
    monkeypatch.setattr(machine, "gpus", lambda root: ["GeForce"])
    found = list(doctor.devices([]))
    assert found[1:] == [
        Finding("devices", "GeForce", ABSENT, "this build of llama.cpp does not use it", doctor.BUILD)
    ]


def test_a_server_that_cannot_be_reached_is_a_finding_beside_the_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(addresses: object) -> NoReturn:
        raise EngineError("the RPC server cannot be reached", where="host:1")

    monkeypatch.setattr(rpc, "rpc_devices", refuse)
    found = guarded("devices", lambda: doctor.devices(["host:1"]))
    assert found[0].state == OK
    assert found[-1] == Finding("devices", "devices", BROKEN, "host:1: the RPC server cannot be reached")


# ---- what may be there ----


def test_no_meter_is_told_with_the_reason_and_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "open_monitor", lambda: energy.Unavailable("no RAPL", "Run on the host itself."))
    assert list(doctor.energy()) == [Finding("energy", "meters", ABSENT, "no RAPL", "Run on the host itself.")]


def test_meters_are_told_and_those_that_could_be_mended(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rail:
        name, domain, included_in = "VDD_IN", "board rail VDD_IN", None

        def joules(self) -> float:
            return 0.0

    missing = energy.Unavailable("no permission", "Run: chmod")
    monitor = energy.EnergyMonitor([Rail()], rates={"VDD_IN": 20.0}, missing=[missing], samples_per_second=0)
    monkeypatch.setattr(energy, "open_monitor", lambda: monitor)
    assert list(doctor.energy()) == [
        Finding("energy", "VDD_IN", OK, "board rail VDD_IN"),
        Finding("energy", "meters", ABSENT, "no permission", "Run: chmod"),
    ]


def test_extras_are_told_with_what_they_lack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "missing_packages", lambda: {"plot": [], "eval": ["onnx", "textstat"]})
    assert list(doctor.extras()) == [
        Finding("extras", "plot", OK, "is installed"),
        Finding("extras", "eval", ABSENT, "lacks onnx, textstat", 'Run: pip install "edgesteer[eval]"'),
    ]


def test_models_are_told_with_the_command_that_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    here = PackageEntry("here", "MIT", "a.gguf", "0" * 64, "gguf", "gguf")
    gone = PackageEntry("gone", "MIT", "a.gguf", "0" * 64, "llm-gone", "no_such_module_gone")
    monkeypatch.setattr(doctor, "list_models", lambda: [here, gone])
    assert list(doctor.models()) == [
        Finding("models", "here", OK, "PyPI gguf"),
        Finding("models", "gone", ABSENT, "is not installed; PyPI llm-gone", "Run: edgesteer models path gone"),
    ]


def test_a_broken_part_hides_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "failure_of", lambda *_, **__: None)
    for name in ("list_models", "missing_packages"):
        monkeypatch.setattr(doctor, name, fail)
    monkeypatch.setattr(energy, "open_monitor", fail)
    monkeypatch.setattr(system, "devices", fail)
    broken = {each.part: each.detail for each in examine() if each.state == BROKEN}
    assert broken == dict.fromkeys(("devices", "energy", "extras", "models"), "RuntimeError: is broken")
