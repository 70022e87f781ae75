"""The roofline of decoding: every weight is read once a token, so memory bandwidth bounds tokens per second.

Bandwidth is measured here with NumPy, on the processor's memory; it says nothing of layers on a GPU of its own memory.
Bytes are told from the model's file. Times no model.
"""

from __future__ import annotations

import functools
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesteer.profile.machine import memory_bytes, read_text
from edgesteer.profile.size import kv_shape
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.tensors import Tensor, tensors_of

Array = NDArray[np.float64]
Arrays = tuple[Array, Array, Array]

REPEATS = 5
BLOCK = 1 << 16
"""Elements that one call of NumPy works on: few enough to stay in the cache, and enough to make calls cheap."""
SMALLEST_ARRAY = 64 << 20
CACHES = 4
"""An array is so many times the largest cache, as STREAM asks."""
MEMORY_SHARE = 16
"""An array is not larger than memory divided by this."""


# ---- bandwidth ----


@dataclass(frozen=True)
class Bandwidth:
    """What memory gave the fastest kernel. kernels: bytes per second of each. array_bytes: of each array."""

    bytes_per_second: float
    threads: int
    method: str
    kernels: dict[str, float]
    array_bytes: int
    repeats: int


def triad(a: Array, b: Array, c: Array) -> None:
    """STREAM's triad, a = b + 3 c, block by block, so that memory sees each array once."""
    for start in range(0, len(a), BLOCK):
        block = slice(start, start + BLOCK)
        np.multiply(c[block], 3.0, out=a[block])
        np.add(a[block], b[block], out=a[block])


def read(a: Array, b: Array, c: Array) -> None:
    """Read b, as decoding reads weights."""
    for start in range(0, len(b), BLOCK):
        np.add.reduce(b[start : start + BLOCK])


KERNELS: dict[str, tuple[Callable[[Array, Array, Array], None], int]] = {"triad": (triad, 3), "read": (read, 1)}
"""Each with the number of arrays that pass through memory; as in STREAM, what a write fetches first is not counted."""


def memory_bandwidth(
    threads: int, *, array_bytes: int | None = None, clock: Callable[[], float] = time.perf_counter
) -> Bandwidth:
    """Measure with so many threads; each works on its own part of three arrays. The best of REPEATS counts.

    NumPy lets other threads run while it computes. array_bytes: of each array; None: see CACHES and MEMORY_SHARE.
    """
    elements = max(threads, (array_bytes or default_array_bytes()) // 8)
    size = elements // threads
    with ThreadPoolExecutor(threads) as pool:
        parts = list(pool.map(lambda _: _arrays(size), range(threads)))  # a page lies near the thread that fills it
        rates = {}
        for name, (kernel, n_arrays) in KERNELS.items():
            seconds = min(_seconds(pool, kernel, parts, clock) for _ in range(REPEATS))
            rates[name] = n_arrays * 8 * size * threads / seconds
    fastest = max(rates, key=lambda name: rates[name])
    method = f"{fastest} in NumPy, best of {REPEATS}; triad is STREAM's a = b + s c, read sums one array up"
    return Bandwidth(rates[fastest], threads, method, rates, 8 * size * threads, REPEATS)


def _arrays(size: int) -> Arrays:
    return np.zeros(size), np.full(size, 1.0), np.full(size, 2.0)


def _seconds(
    pool: ThreadPoolExecutor, kernel: Callable[..., None], parts: list[Arrays], clock: Callable[[], float]
) -> float:
    start = clock()
    for done in [pool.submit(kernel, *part) for part in parts]:
        done.result()
    return clock() - start


def default_array_bytes(root: Path = Path("/")) -> int:
    """Return the bytes of an array that no cache holds and that memory holds well. root: the folder of /sys, /proc."""
    files = (root / "sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    kibibytes = [int(match[1]) for file in files if (match := re.fullmatch(r"(\d+)K", read_text(file)))]
    wanted = max(SMALLEST_ARRAY, CACHES * 1024 * max(kibibytes, default=0))
    memory = memory_bytes(root, lambda command: "")
    return min(wanted, memory // MEMORY_SHARE) if memory else wanted


# ---- bytes ----

TOKENS = "token_embd.weight"
ROW_TABLES = (TOKENS, "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight")
"""Of these, a token reads one row; all of the first where there is no OUTPUT, which it is then, too."""
OUTPUT = "output.weight"
EXPERTS = re.compile(r"_exps\.|\.ffn_(gate|up|down)\.\d+\.")
BLOCK_NUMBER = re.compile(r"blk\.(\d+)\.")
SPLIT = re.compile(r"-\d{5}-of-(\d{5})\.gguf$")


def bytes_per_token(model: LlamaModel, context_tokens: int, *, cache_types: tuple[str, str] = ("f16", "f16")) -> int:
    """Return the bytes read to decode one token after so many others: weights, keys and values.

    Keys and values of blocks whose shape the metadata does not tell are left out, and so are activations: what is
    counted must be read, so the bound stays a bound. Raises ModelError when the file cannot be read.
    """
    shape = kv_shape(model)
    kept = context_tokens * shape.cell_bytes(*cache_types) if shape else 0
    tensors = [tensor for file in split_files(model.path) for tensor in tensors_of(file)]
    tied = OUTPUT not in {tensor.name for tensor in tensors}
    share = functools.partial(_share, blocks=_blocks_used(model), experts=_experts_used(model), tied=tied)
    return kept + round(sum(tensor.n_bytes * share(tensor) for tensor in tensors))


def split_files(path: Path) -> list[Path]:
    """Return all files of a model that is split over several, as llama.cpp finds them from the first; or the one."""
    match = SPLIT.search(path.name)
    if not match:
        return [path]
    stem, count = path.name[: match.start()], match[1]
    return [path.with_name(f"{stem}-{number:05}-of-{count}.gguf") for number in range(1, int(count) + 1)]


def _blocks_used(model: LlamaModel) -> int:
    """Those after them predict tokens further on, for speculative decoding."""
    return _number(model, "block_count") - _number(model, "nextn_predict_layers")


def _experts_used(model: LlamaModel) -> float:
    """The part of the experts that works for a token."""
    experts = _number(model, "expert_count")
    return _number(model, "expert_used_count") / experts if experts else 1.0


def _number(model: LlamaModel, key: str) -> int:
    text = model.metadata(f"{model.fingerprint.architecture}.{key}")
    return int(text) if text.isdecimal() else 0


def _share(tensor: Tensor, *, blocks: int, experts: float, tied: bool) -> float:
    """Return which part of a tensor a token reads."""
    block = BLOCK_NUMBER.match(tensor.name)
    if block and int(block[1]) >= blocks:
        return 0.0
    if EXPERTS.search(tensor.name):
        return experts
    if tensor.name in ROW_TABLES and not (tied and tensor.name == TOKENS):
        return 1 / tensor.n_rows
    return 1.0
