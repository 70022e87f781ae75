"""What llama.cpp says of itself."""

from __future__ import annotations

import ctypes

import pytest

from edgesteer.errors import EngineError
from edgesteer.runtime.system import (
    CPU,
    GPU,
    INTEGRATED_GPU,
    KINDS,
    Device,
    backends,
    build_flags,
    devices,
    ggml,
    gpu_names,
    parse_flags,
    system_info,
)


@pytest.mark.parametrize(
    ("line", "flags"),
    [
        ("CPU : AVX = 1 | AMX_INT8 = 0 | ", {"CPU AVX": True, "CPU AMX_INT8": False}),
        (
            "CUDA : ARCHS = 700,800 | USE_GRAPHS = 1 | CPU : NEON = 1",
            {"CUDA ARCHS": "700,800", "CUDA USE_GRAPHS": True, "CPU NEON": True},
        ),
        ("Metal : EMBED_LIBRARY = 1 | CPU : SVE_CNT = 16 |", {"Metal EMBED_LIBRARY": True, "CPU SVE_CNT": "16"}),
        ("AVX = 1 | FMA = 0", {"AVX": True, "FMA": False}),
        ("", {}),
    ],
    ids=["CPU", "CUDA", "Metal", "old", "empty"],
)
def test_flags_are_told_by_device_and_name(line: str, flags: dict[str, str | bool]) -> None:
    assert parse_flags(line) == flags


def test_llama_cpp_tells_how_it_was_built() -> None:
    assert parse_flags(system_info()).items() <= build_flags().items()
    assert any(name.startswith("CPU ") for name in build_flags())


def test_a_build_for_processors_has_no_gpus() -> None:
    if not build_flags()["GPU_OFFLOAD"]:
        assert gpu_names() == []


def test_every_build_has_a_processor_whose_tensors_are_in_our_memory() -> None:
    assert "CPU" in backends()
    found = [each for each in devices() if each.kind == CPU]
    assert [(each.backend, each.on_host) for each in found] == [("CPU", True)]
    assert 0 < found[0].free_bytes <= found[0].total_bytes
    assert found[0].name
    assert found[0].handle


def test_every_device_belongs_to_a_backend() -> None:
    assert {each.backend for each in devices()} <= set(backends())


@pytest.mark.parametrize("kind", KINDS)
def test_discrete_and_integrated_gpus_are_gpus(kind: str) -> None:
    assert Device("X0", "X", "X", kind, 0, 0, False, 1).is_gpu == (kind in (GPU, INTEGRATED_GPU))


def test_a_function_that_ggml_lacks_is_an_error() -> None:
    with pytest.raises(EngineError, match="lacks a function of ggml; found ggml_no_such_function"):
        ggml("ggml_no_such_function", ctypes.c_int)
