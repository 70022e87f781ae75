"""What llama.cpp says of itself: how it was built, and the devices that it can use. Loads no model."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import llama_cpp

from edgesteer.errors import EngineError
from edgesteer.runtime.hook import load_ggml

FLAG = re.compile(r"(?:(\w+) : )?(\w+) = ([^|]*)")
CPU, GPU, INTEGRATED_GPU, ACCELERATOR, META = KINDS = ("cpu", "gpu", "integrated gpu", "accelerator", "meta")
"""In the order of ggml_backend_dev_type."""
ADDRESS = ctypes.c_void_p


@dataclass(frozen=True)
class Device:
    """What ggml says of a device. kind: among KINDS. on_host: whether its tensors lie in this process's memory.

    free_bytes and total_bytes are 0 where the backend does not tell. handle: ggml's pointer.
    """

    name: str
    description: str
    backend: str
    kind: str
    free_bytes: int
    total_bytes: int
    on_host: bool
    handle: int

    @property
    def is_gpu(self) -> bool:
        return self.kind in (GPU, INTEGRATED_GPU)


def system_info() -> str:
    """Return llama.cpp's line on the instructions and libraries that it was built with and found here."""
    llama_cpp.llama_backend_init()
    return str(llama_cpp.llama_print_system_info().decode("utf-8", "replace")).strip(" |")


def build_flags() -> dict[str, str | bool]:
    """Return what system_info says, by name (`CPU AVX2`, `CUDA ARCHS`), and what the library supports."""
    return {**parse_flags(system_info()), "GPU_OFFLOAD": bool(llama_cpp.llama_supports_gpu_offload())}


def parse_flags(line: str) -> dict[str, str | bool]:
    """Return the flags of a line `CPU : AVX = 1 | FMA = 0 | ...`, each with the device it stands under."""
    flags: dict[str, str | bool] = {}
    device = ""
    for new_device, name, text in FLAG.findall(line):
        device = new_device or device
        value = text.strip()
        flags[f"{device} {name}".strip()] = value == "1" if value in ("0", "1") else value
    return flags


def gpu_names() -> list[str]:
    """Return the GPUs that this build of llama.cpp can use."""
    return [each.description for each in devices() if each.is_gpu]


# ---- ggml's registry ----


def backends() -> list[str]:
    """Return the names of the backends that are built in, as ggml has them: CPU, CUDA, MTL (Metal), Vulkan, RPC, ..."""
    llama_cpp.llama_backend_init()
    count, get = ggml("ggml_backend_reg_count", ctypes.c_size_t), ggml("ggml_backend_reg_get", ADDRESS, ctypes.c_size_t)
    name = ggml("ggml_backend_reg_name", ctypes.c_char_p, ADDRESS)
    return [_text(name(get(number))) for number in range(count())]


def devices() -> list[Device]:
    """Return the devices of all backends; those of an RPC server are not among them (see edgesteer.runtime.rpc)."""
    llama_cpp.llama_backend_init()
    count, get = ggml("ggml_backend_dev_count", ctypes.c_size_t), ggml("ggml_backend_dev_get", ADDRESS, ctypes.c_size_t)
    return [describe_device(get(number)) for number in range(count())]


def describe_device(handle: int) -> Device:
    """Return what ggml says of the device at a pointer."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml("ggml_backend_dev_memory", None, ADDRESS, ADDRESS, ADDRESS)(handle, ctypes.byref(free), ctypes.byref(total))
    backend = ggml("ggml_backend_dev_backend_reg", ADDRESS, ADDRESS)(handle)
    buffer_type = ggml("ggml_backend_dev_buffer_type", ADDRESS, ADDRESS)(handle)
    kind = ggml("ggml_backend_dev_type", ctypes.c_int, ADDRESS)(handle)
    return Device(
        name=_text(ggml("ggml_backend_dev_name", ctypes.c_char_p, ADDRESS)(handle)),
        description=_text(ggml("ggml_backend_dev_description", ctypes.c_char_p, ADDRESS)(handle)),
        backend=_text(ggml("ggml_backend_reg_name", ctypes.c_char_p, ADDRESS)(backend)),
        kind=KINDS[kind] if 0 <= kind < len(KINDS) else str(kind),
        free_bytes=free.value,
        total_bytes=total.value,
        on_host=bool(ggml("ggml_backend_buft_is_host", ctypes.c_bool, ADDRESS)(buffer_type)),
        handle=handle,
    )


def ggml(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    """Return a function of ggml's libraries by its name and types. Raises EngineError when they have none."""
    from llama_cpp import _ggml

    prototype = ctypes.CFUNCTYPE(result, *arguments)
    for library in (_ggml.libggml, load_ggml()):
        if hasattr(library, name):
            return prototype((name, library))
    raise EngineError(
        "this llama-cpp-python lacks a function of ggml",
        found=name,
        remedy="Install another version of llama-cpp-python.",
    )


def _text(value: bytes) -> str:
    return value.decode("utf-8", "replace")
