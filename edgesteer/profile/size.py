"""What a model takes: parameters, weights, KV cache, compute buffers, sidecars.

The KV cache is told from the model's shape, so for any context; what llama.cpp allocated is read from its log. Knows
no time and no energy.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from edgesteer.runtime.model import LlamaModel

CELL_PADDING = 256
"""llama.cpp rounds a context up to a multiple of this."""
OTHER_CACHES = ("attention.kv_lora_rank", "attention.key_length_swa", "attention.shared_kv_layers")
"""Metadata of models whose blocks do not each keep a key and a value of one width."""
BUFFER = re.compile(r"(\S+) +(model|KV|RS|compute|output) buffer size = *([\d.]+) MiB")
MEBIBYTE = 1 << 20


@dataclass(frozen=True)
class KvShape:
    """What every block keeps of every token: a key and a value of these widths."""

    n_blocks: int
    key_width: int
    value_width: int

    def cell_bytes(self, type_k: str, type_v: str) -> int:
        """Return the bytes of one token in all blocks, for cache types among engine.CACHE_TYPES."""
        return self.n_blocks * (row_bytes(self.key_width, type_k) + row_bytes(self.value_width, type_v))

    def cache_bytes(self, context_tokens: int, type_k: str, type_v: str) -> int:
        """Return the bytes of a KV cache for so many tokens, those of all sequences together.

        Blocks with a sliding window count in full, as llama.cpp allocates them for us: what a window drops could not
        be used again by the next prompt.
        """
        cells = math.ceil(context_tokens / CELL_PADDING) * CELL_PADDING
        return cells * self.cell_bytes(type_k, type_v)


def kv_shape(model: LlamaModel) -> KvShape | None:
    """Return the shape of a model's KV cache; None where its metadata does not tell it (recurrent blocks, MLA, ...)."""

    def number(key: str) -> int:
        text = model.metadata(f"{model.fingerprint.architecture}.{key}")
        return int(text) if text.isdigit() else 0

    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    if model.is_recurrent or any(map(number, OTHER_CACHES)) or not heads or not kv_heads:
        return None
    head_width = model.width // heads
    keys, values = (number(f"attention.{each}_length") or head_width for each in ("key", "value"))
    return KvShape(model.n_blocks, kv_heads * keys, kv_heads * values)


def row_bytes(width: int, cache_type: str) -> int:
    """Return the bytes of a row of numbers of a cache type."""
    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[cache_type.upper()]]
    return width // block * size


@dataclass(frozen=True)
class Allocations:
    """Bytes by buffer (`CPU`, `CPU_REPACK`, `CUDA0`, ...), to the 0.01 MiB of llama.cpp's log."""

    weights: dict[str, int]
    kv: dict[str, int]
    """With the states of recurrent blocks."""
    compute: dict[str, int]
    output: dict[str, int]


def allocations(log: Iterable[str]) -> Allocations:
    """Return what llama.cpp says it allocated. log: its lines while a model and one context were made."""
    found: dict[str, dict[str, float]] = {kind: {} for kind in ("model", "KV", "RS", "compute", "output")}
    for line in log:
        if match := BUFFER.search(line):
            buffer, kind, size = match[1], match[2], float(match[3])
            before = 0.0 if kind in ("compute", "output") else found[kind].get(buffer, 0.0)  # those two are made anew
            found[kind][buffer] = before + size
    cache = {each: found["KV"].get(each, 0.0) + found["RS"].get(each, 0.0) for each in {**found["KV"], **found["RS"]}}
    return Allocations(*map(_in_bytes, (found["model"], cache, found["compute"], found["output"])))


def _in_bytes(sizes: dict[str, float]) -> dict[str, int]:
    return {buffer: round(size * MEBIBYTE) for buffer, size in sizes.items()}


@dataclass(frozen=True)
class ModelSize:
    """Bytes, but for parameters and bits_per_weight. What is None is unknown, or absent as a sidecar may be."""

    parameters: int
    file_bytes: int
    weight_bytes: int
    bits_per_weight: float
    context_tokens: int
    """Of the context that the next two are about."""
    kv_bytes: int | None
    """From the model's shape."""
    allocated: Allocations
    sidecar_bytes: int | None


def model_size(
    model: LlamaModel,
    *,
    files: Sequence[Path],
    context_tokens: int,
    cache_types: tuple[str, str],
    log: Sequence[str],
    sidecars: Iterable[Path] = (),
) -> ModelSize:
    """Return what a loaded model takes with one context of so many tokens.

    files: those of the model. log: llama.cpp's lines while the model and the context were made. sidecars: files, each
    counted once.
    """
    shape = kv_shape(model)
    distinct = {path.resolve() for path in sidecars}
    return ModelSize(
        parameters=model.n_parameters,
        file_bytes=sum(path.stat().st_size for path in files),
        weight_bytes=model.weight_bytes,
        bits_per_weight=8 * model.weight_bytes / model.n_parameters,
        context_tokens=context_tokens,
        kv_bytes=shape.cache_bytes(context_tokens, *cache_types) if shape else None,
        allocated=allocations(log),
        sidecar_bytes=sum(path.stat().st_size for path in distinct) if distinct else None,
    )


def peak_resident_bytes() -> int | None:
    """Return the most memory that this process had resident, None on Windows."""
    try:
        import resource
        import sys
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else 1024 * peak  # macOS counts bytes, others kilobytes
