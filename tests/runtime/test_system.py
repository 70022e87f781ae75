"""What llama.cpp says of itself."""

from __future__ import annotations

import pytest

from edgesteer.runtime.system import build_flags, gpu_names, parse_flags, system_info


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
