"""Sizes: by hand, and against what llama.cpp allocates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgesteer.profile.size import KvShape, allocations, kv_shape, model_size, peak_resident_bytes, row_bytes
from edgesteer.runtime.engine import CACHE_TYPES, Engine
from edgesteer.runtime.model import LlamaModel, recorded_log

if TYPE_CHECKING:
    from typing import Any

LOG = """\
load_tensors:   CPU_Mapped model buffer size =   235.16 MiB
load_tensors:   CPU_REPACK model buffer size =    12.66 MiB
llama_context: n_ctx                 = 1024
llama_context:        CPU  output buffer size =     1.00 MiB
llama_kv_cache:        CPU KV buffer size =     3.00 MiB
llama_kv_cache: size =    3.00 MiB (  1024 cells,   3 layers,  1/1 seqs), K (f16):    1.50 MiB, V (f16):    1.50 MiB
llama_kv_cache:        CPU KV buffer size =    15.00 MiB
sched_reserve:        CPU compute buffer size =    98.25 MiB
sched_reserve:        CPU compute buffer size =   514.50 MiB
""".splitlines()
MIB = 1 << 20


@pytest.mark.parametrize(
    ("cache_type", "expected"),
    [("f32", 256), ("f16", 128), ("bf16", 128), ("q8_0", 68), ("q4_0", 36), ("q4_1", 40), ("q5_0", 44), ("q5_1", 48)],
)
def test_bytes_of_64_numbers(cache_type: str, expected: int) -> None:
    """Quantized types have blocks of 32 with a scale of 2 bytes, those ending in 1 an offset of 2 bytes more."""
    assert row_bytes(64, cache_type) == expected


def test_every_cache_type_has_a_size() -> None:
    assert all(row_bytes(32, each) > 0 for each in CACHE_TYPES)


def test_cache_bytes_by_hand() -> None:
    shape = KvShape(n_blocks=30, key_width=192, value_width=64)
    assert shape.cell_bytes("f16", "f32") == 30 * (192 * 2 + 64 * 4)
    assert shape.cache_bytes(512, "f16", "f16") == 512 * 30 * 256 * 2
    assert shape.cache_bytes(513, "f16", "f16") == 768 * 30 * 256 * 2  # llama.cpp allocates in steps of 256


def test_allocations_are_read_from_the_log() -> None:
    found = allocations(LOG)
    assert found.weights == {"CPU_Mapped": round(235.16 * MIB), "CPU_REPACK": round(12.66 * MIB)}
    assert found.kv == {"CPU": 18 * MIB}  # of blocks with and without a window
    assert found.compute == {"CPU": round(514.5 * MIB)}  # the last one made
    assert found.output == {"CPU": MIB}


def test_a_log_without_buffers_has_no_allocations() -> None:
    found = allocations(["llama_context: n_ctx = 1024", ""])
    assert (found.weights, found.kv, found.compute, found.output) == ({}, {}, {}, {})


def test_states_of_recurrent_blocks_count_as_cache() -> None:
    log = ["llama_kv_cache: CPU KV buffer size = 2.00 MiB", "llama_memory_recurrent: CPU RS buffer size = 1.50 MiB"]
    assert allocations(log).kv == {"CPU": round(3.5 * MIB)}


def test_peak_memory_holds_at_least_this_interpreter() -> None:
    peak = peak_resident_bytes()
    assert peak is None or 10**7 < peak < 10**12


@pytest.mark.torch
def test_size_of_the_tiny_model(tiny_model: Any, tmp_path: Path) -> None:
    sidecar = tmp_path / "warm.gguf"
    sidecar.write_bytes(bytes(1000))
    with recorded_log() as log, LlamaModel(tiny_model.gguf) as model, Engine(model, context_tokens=300) as engine:
        size = model_size(
            model,
            files=[tiny_model.gguf],
            context_tokens=engine.context_tokens,
            cache_types=engine.cache_types,
            log=log,
            sidecars=[sidecar, tmp_path / "." / "warm.gguf"],
        )
    vocabulary, width, hidden, kv = 266, 32, 48, 16
    block = 2 * width * width + 2 * width * kv + 3 * width * hidden + 2 * width
    assert size.parameters == 2 * vocabulary * width + 4 * block + width
    assert size.weight_bytes == 4 * size.parameters
    assert size.bits_per_weight == 32
    assert size.file_bytes == tiny_model.gguf.stat().st_size
    assert size.context_tokens == 512
    assert size.kv_bytes == 512 * 4 * (kv + kv) * 2
    assert size.sidecar_bytes == 1000
    assert size.allocated.compute


@pytest.mark.torch
def test_a_model_whose_metadata_tells_no_shape_has_none(
    tiny_llama: LlamaModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert kv_shape(tiny_llama) == KvShape(4, 16, 16)
    metadata = tiny_llama.metadata
    for key, value in (("head_count_kv", ""), ("kv_lora_rank", "512"), ("shared_kv_layers", "2")):
        answers = {f"llama.attention.{key}": value}
        monkeypatch.setattr(tiny_llama, "metadata", lambda each, a=answers: a.get(each, metadata(each)))
        assert kv_shape(tiny_llama) is None


@pytest.mark.llama
@pytest.mark.slow
@pytest.mark.parametrize("cache_type", ["f16", "q8_0"])
@pytest.mark.parametrize("context_tokens", [512, 1000, 2048])
@pytest.mark.parametrize("name", ["smollm2_llama", "gemma3_llama"])
def test_kv_bytes_are_those_that_llama_cpp_allocates(
    name: str, context_tokens: int, cache_type: str, request: pytest.FixtureRequest
) -> None:
    model: LlamaModel = request.getfixturevalue(name)
    shape = kv_shape(model)
    assert shape is not None
    types = {"cache_type_k": cache_type, "cache_type_v": cache_type}
    with recorded_log() as log, Engine(model, context_tokens=context_tokens, batch_tokens=64, **types):
        allocated = allocations(log).kv["CPU"]
    expected = shape.cache_bytes(context_tokens, cache_type, cache_type)
    buffers = sum("KV buffer size" in line for line in log)
    assert abs(allocated - expected) <= buffers * 0.005 * MIB + 1  # the log has two decimals for each
    assert expected > 100 * buffers * 0.005 * MIB
