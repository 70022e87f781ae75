"""Doctor: what this installation has and what it lacks, as plain data. For when things are broken, so nothing raises.

llama.cpp is tried in a process of its own first: a build for another processor ends the process that loads it.
"""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from edgesteer import __version__
from edgesteer.errors import EdgeSteerError
from edgesteer.extras import missing_packages
from edgesteer.registry import list_models
from edgesteer.trial import failure_of

if TYPE_CHECKING:
    from edgesteer.runtime.system import Device

OK, ABSENT, BROKEN = "ok", "absent", "broken"
LLAMA_CPP, HOOK = REQUIRED = ("llama.cpp", "hook")
"""The parts without which nothing can be steered."""
PACKAGES = ("llama-cpp-python", "gguf", "numpy")
BACKENDS = {"CUDA": "CUDA", "MTL": "Metal", "Vulkan": "Vulkan", "RPC": "RPC"}
"""What docs/install.md tells how to build, by ggml's name."""
BUILD = "docs/install.md says how to build llama-cpp-python."
TRY_LLAMA_CPP = "from edgesteer.runtime import system; system.system_info(), system.backends(), system.devices()"
TRY_SECONDS = 60.0
IN_PLACE = "rows are steered in place"
COPIED = "at each steered block a row is read and written once, after a synchronization"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. state: OK, ABSENT (it is optional, or was not asked for) or BROKEN."""

    part: str
    name: str
    state: str
    detail: str
    remedy: str | None = None


def examine(rpc: Sequence[str] = ()) -> list[Finding]:
    """Look at every part. rpc: HOST:PORT of RPC servers whose devices are looked at as well. Never raises."""
    findings = [*guarded("versions", versions), *guarded(LLAMA_CPP, llama_cpp), *guarded(HOOK, hook)]
    if is_usable(findings):
        findings += [*guarded("backends", backends), *guarded("devices", partial(devices, rpc))]
    for part, look in (("energy", energy), ("extras", extras), ("models", models)):
        findings += guarded(part, look)
    return findings


def is_usable(findings: Iterable[Finding]) -> bool:
    return not any(each.part in REQUIRED and each.state == BROKEN for each in findings)


def guarded(part: str, look: Callable[[], Iterable[Finding]]) -> list[Finding]:
    """Return what a look finds, and that it failed where it raises anything."""
    found: list[Finding] = []
    try:
        for each in look():
            found.append(each)
    except EdgeSteerError as error:
        found.append(Finding(part, part, BROKEN, str(error)))
    except Exception as error:  # other libraries raise what they like when they are broken
        found.append(Finding(part, part, BROKEN, f"{type(error).__name__}: {error}"))
    return found


# ---- what has to be there ----


def versions() -> Iterator[Finding]:
    yield Finding("versions", "edgesteer", OK, __version__)
    yield Finding("versions", "Python", OK, f"{platform.python_implementation()} {platform.python_version()}")
    for package in PACKAGES:
        try:
            yield Finding("versions", package, OK, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            yield Finding("versions", package, BROKEN, "is not installed", f"Run: pip install {package}")


def llama_cpp() -> Iterator[Finding]:
    failure = failure_of(TRY_LLAMA_CPP, seconds=TRY_SECONDS)
    if failure is None:
        yield Finding(LLAMA_CPP, "library", OK, "can be loaded")
    else:
        yield Finding(LLAMA_CPP, "library", BROKEN, f"cannot be loaded: {failure}", BUILD)


def hook() -> Iterator[Finding]:
    from edgesteer.runtime.hook import library_name, load_library

    load_library()
    yield Finding(HOOK, library_name(), OK, "can be loaded")


# ---- where a model can run ----


def backends() -> Iterator[Finding]:
    from edgesteer.runtime import system

    built_in, flags = system.backends(), system.build_flags()
    for name in built_in:
        about = {key.removeprefix(f"{name} "): value for key, value in flags.items() if key.startswith(f"{name} ")}
        detail = ", ".join(key if value is True else f"{key} {value}" for key, value in about.items() if value)
        yield Finding("backends", BACKENDS.get(name, name), OK, detail or "built in")
    for name in sorted(BACKENDS.keys() - set(built_in)):
        yield Finding("backends", BACKENDS[name], ABSENT, "not in this build", BUILD)


def devices(rpc: Sequence[str]) -> Iterator[Finding]:
    from edgesteer.profile.machine import gpus
    from edgesteer.runtime import system
    from edgesteer.runtime.rpc import rpc_devices

    found = system.devices()
    yield from map(device, found)
    idle = [] if any(each.is_gpu for each in found) else gpus(Path("/"))
    for name in idle:
        yield Finding("devices", name, ABSENT, "this build of llama.cpp does not use it", BUILD)
    yield from map(device, rpc_devices(rpc))


def device(found: Device) -> Finding:
    """Say what a device is, and what the hook does there."""
    memory = f"{found.free_bytes / 1e9:.1f} of {found.total_bytes / 1e9:.1f} GB free"
    facts = [found.description, *([memory] if found.total_bytes else []), IN_PLACE if found.on_host else COPIED]
    return Finding("devices", found.name, OK, "; ".join(facts))


# ---- what may be there ----


def energy() -> Iterator[Finding]:
    from edgesteer.profile.energy import EnergyMonitor, open_monitor

    monitor = open_monitor()
    if not isinstance(monitor, EnergyMonitor):
        yield Finding("energy", "meters", ABSENT, monitor.reason, monitor.remedy)
        return
    for meter in monitor.meters:
        yield Finding("energy", meter.name, OK, meter.domain)
    for missing in monitor.missing:
        yield Finding("energy", "meters", ABSENT, missing.reason, missing.remedy)


def extras() -> Iterator[Finding]:
    for extra, missing in missing_packages().items():
        if missing:
            detail, remedy = f"lacks {', '.join(missing)}", f'Run: pip install "edgesteer[{extra}]"'
            yield Finding("extras", extra, ABSENT, detail, remedy)
        else:
            yield Finding("extras", extra, OK, "is installed")


def models() -> Iterator[Finding]:
    for entry in list_models():
        if entry.installed:
            yield Finding("models", entry.name, OK, entry.source)
        else:
            remedy = f"Run: edgesteer models path {entry.name}"
            yield Finding("models", entry.name, ABSENT, f"is not installed; {entry.source}", remedy)
