"""Bytes per token by hand, and bandwidth on a clock that is made up."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import ModelError
from edgesteer.gguf_file import write_gguf
from edgesteer.profile import roofline
from edgesteer.profile.roofline import BLOCK, bytes_per_token, default_array_bytes, memory_bandwidth, read, triad
from edgesteer.runtime.model import LlamaModel

WIDTH, TOKENS = 8, 50
ROW = 4 * WIDTH


def floats(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.zeros(shape, np.float32)


# ---- bytes ----


@pytest.fixture
def bytes_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Bytes per token of a model of two blocks with these tensors and metadata; its keys and values are not known."""
    monkeypatch.setattr(roofline, "kv_shape", lambda model: None)

    def count(tensors: dict[str, Any], *, files: int = 1, **metadata: int) -> int:
        return bytes_per_token(fake_model(write_files(tmp_path, tensors, files)[0], metadata), 100)

    return count


def write_files(folder: Path, tensors: dict[str, Any], files: int) -> list[Path]:
    """Write tensors in turn to the files of a split model, or to one file."""
    if files == 1:
        paths = [folder / "model.gguf"]
    else:
        paths = [folder / f"model-{n:05}-of-{files:05}.gguf" for n in range(1, files + 1)]
    for number, path in enumerate(paths):
        write_gguf(path, "made-up", {}, dict(list(tensors.items())[number::files]))
    return paths


def fake_model(path: Path, metadata: dict[str, int]) -> Any:
    texts = {f"made-up.{key}": str(value) for key, value in {"block_count": 2, **metadata}.items()}
    fingerprint = SimpleNamespace(architecture="made-up")
    return SimpleNamespace(path=path, fingerprint=fingerprint, metadata=lambda key: texts.get(key, ""))


def test_of_the_embedding_a_token_reads_one_row(bytes_of: Callable[..., int]) -> None:
    tensors = {"token_embd.weight": floats(TOKENS, WIDTH), "output.weight": floats(TOKENS, WIDTH)}
    assert bytes_of(tensors) == ROW + TOKENS * ROW


def test_an_embedding_that_is_the_output_too_is_read_whole(bytes_of: Callable[..., int]) -> None:
    assert bytes_of({"token_embd.weight": floats(TOKENS, WIDTH), "output_norm.weight": floats(WIDTH)}) == 51 * ROW


def test_blocks_are_read_whole(bytes_of: Callable[..., int]) -> None:
    tensors = {"blk.0.attn_q.weight": floats(WIDTH, WIDTH), "blk.1.ffn_up.weight": floats(20, WIDTH)}
    assert bytes_of(tensors) == 28 * ROW


def test_other_tables_are_read_by_the_row(bytes_of: Callable[..., int]) -> None:
    tensors = {
        "token_embd.weight": floats(TOKENS, WIDTH), "output.weight": floats(1, WIDTH),
        "per_layer_token_embd.weight": floats(TOKENS, 3 * WIDTH), "position_embd.weight": floats(20, WIDTH),
    }  # fmt: skip
    assert bytes_of(tensors) == (1 + 1 + 3 + 1) * ROW


def test_of_the_experts_only_those_that_work_are_read(bytes_of: Callable[..., int]) -> None:
    tensors = {
        "blk.0.ffn_gate_inp.weight": floats(4, WIDTH), "blk.0.ffn_up_exps.weight": floats(4, 10, WIDTH),
        "blk.0.ffn_down_exps.weight": floats(4, 10, WIDTH), "blk.0.ffn_up_shexp.weight": floats(10, WIDTH),
    }  # fmt: skip
    assert bytes_of(tensors, expert_count=4, expert_used_count=1) == (4 + 10 + 10 + 10) * ROW


def test_experts_in_tensors_of_their_own_are_read_by_their_share(bytes_of: Callable[..., int]) -> None:
    tensors = {f"blk.0.ffn_{part}.{n}.weight": floats(6, WIDTH) for part in ("gate", "up", "down") for n in range(4)}
    assert bytes_of(tensors, expert_count=4, expert_used_count=2) == 3 * 2 * 6 * ROW


def test_blocks_for_later_tokens_are_not_read(bytes_of: Callable[..., int]) -> None:
    tensors = {"blk.0.attn_q.weight": floats(3, WIDTH), "blk.1.attn_q.weight": floats(5, WIDTH)}
    assert bytes_of(tensors, nextn_predict_layers=1) == 3 * ROW


def test_a_split_model_is_read_as_one(bytes_of: Callable[..., int]) -> None:
    tensors = {
        "token_embd.weight": floats(TOKENS, WIDTH), "output.weight": floats(9, WIDTH),
        "blk.0.attn_q.weight": floats(2, WIDTH),
    }  # fmt: skip
    assert bytes_of(tensors, files=2) == (1 + 9 + 2) * ROW


def test_a_split_model_with_a_part_missing_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roofline, "kv_shape", lambda model: None)
    first, second = write_files(tmp_path, {"a": floats(WIDTH), "b": floats(WIDTH)}, 2)
    second.unlink()
    with pytest.raises(ModelError, match=r"model-00002-of-00002\.gguf: no such file"):
        bytes_per_token(fake_model(first, {}), 0)


@pytest.mark.torch
def test_the_tiny_model_s_bytes_by_hand(tiny_llama: LlamaModel) -> None:
    # of the 4-byte weights all but the embedding, and one row of 32 numbers of that
    weights = tiny_llama.weight_bytes - 4 * 32 * tiny_llama.n_tokens + 4 * 32
    # of every earlier token a key and a value of 2 heads of 8 numbers, in 4 blocks
    assert [bytes_per_token(tiny_llama, n) for n in (0, 100)] == [weights, weights + 100 * 4 * 2 * 16 * 2]
    assert bytes_per_token(tiny_llama, 100, cache_types=("f32", "f16")) == weights + 100 * 4 * 16 * (4 + 2)


# ---- bandwidth ----


@pytest.mark.parametrize("length", [7, BLOCK, 2 * BLOCK + 5])
def test_the_triad_is_stream_s(length: int) -> None:
    random = np.random.default_rng(0)
    a, b, c = np.zeros(length), random.normal(size=length), random.normal(size=length)
    triad(a, b, c)
    np.testing.assert_array_equal(a, b + 3 * c)


def test_reading_changes_nothing() -> None:
    a, b, c = np.zeros(9), np.arange(9.0), np.ones(9)
    read(a, b, c)
    assert (a.tolist(), b.tolist(), c.tolist()) == ([0.0] * 9, list(range(9)), [1.0] * 9)


@pytest.mark.parametrize("threads", [1, 3])
def test_bandwidth_is_the_bytes_that_pass_in_the_shortest_time(threads: int) -> None:
    # each measurement reads the clock twice; the second of a kernel's five takes 2 s, all others 8 s
    durations = [8.0, 2.0, 8.0, 8.0, 8.0] * 2
    readings = itertools.accumulate(seconds for duration in durations for seconds in (1.0, duration))
    measured = memory_bandwidth(threads, array_bytes=8 * 3000, clock=lambda: next(readings))
    assert measured.kernels == {"triad": 3 * 24000 / 2, "read": 24000 / 2}
    assert measured.bytes_per_second == 36000
    assert (measured.threads, measured.array_bytes, measured.repeats) == (threads, 24000, 5)
    assert measured.method.startswith("triad in NumPy, best of 5")


def test_every_kernel_runs_on_all_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(roofline, "KERNELS", {"triad": (lambda a, b, c: seen.append(len(a)), 3)})
    memory_bandwidth(4, array_bytes=8 * 1000, clock=itertools.count().__next__)
    assert seen == [250] * 4 * roofline.REPEATS


def test_a_real_measurement_is_a_number_of_bytes_per_second() -> None:
    measured = memory_bandwidth(2, array_bytes=1 << 16)
    assert measured.bytes_per_second == max(measured.kernels.values()) > 0


def write(root: Path, path: str, text: str) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(
    ("cache", "memory_kib", "expected"),
    [
        ("32768K", 32 << 20, 128 << 20),
        ("4096K", 32 << 20, 64 << 20),
        ("262144K", 8 << 20, 512 << 20),
        ("many", 32 << 20, 64 << 20),
    ],
    ids=["four caches", "small cache", "little memory", "no sense"],
)
def test_an_array_is_four_caches_and_no_large_part_of_memory(
    tmp_path: Path, cache: str, memory_kib: int, expected: int
) -> None:
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index0/size", "32K\n")
    write(tmp_path, "sys/devices/system/cpu/cpu0/cache/index3/size", f"{cache}\n")
    write(tmp_path, "proc/meminfo", f"MemTotal: {memory_kib} kB\n")
    assert default_array_bytes(tmp_path) == expected


def test_an_unknown_machine_gets_the_smallest_array(tmp_path: Path) -> None:
    assert default_array_bytes(tmp_path) == 64 << 20
