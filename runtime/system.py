"""What llama.cpp says of itself: how it was built, and the devices that it can use. Loads no model."""

from __future__ import annotations

import ctypes
import re

import llama_cpp

from edgesteer.runtime.hook import load_ggml

FLAG = re.compile(r"(?:(\w+) : )?(\w+) = ([^|]*)")
GPU_TYPES = (1, 2)
"""GGML_BACKEND_DEVICE_TYPE_GPU and _IGPU."""


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
    from llama_cpp import _ggml

    registry, base = _ggml.libggml, load_ggml()
    count = ctypes.CFUNCTYPE(ctypes.c_size_t)(("ggml_backend_dev_count", registry))
    device = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_size_t)(("ggml_backend_dev_get", registry))
    kind = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("ggml_backend_dev_type", base))
    description = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p)(("ggml_backend_dev_description", base))
    llama_cpp.llama_backend_init()
    devices = [device(number) for number in range(count())]
    return [description(each).decode("utf-8", "replace") for each in devices if kind(each) in GPU_TYPES]
