"""Tensors as ggml reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter

from edgesteer.errors import ModelError
from edgesteer.gguf_file import write_gguf
from edgesteer.runtime.tensors import Tensor, tensors_of


def test_tensors_are_told_by_name_bytes_and_rows(tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    tensors = {"b.weight": np.zeros((4, 3, 8), np.float32), "a.bias": np.zeros(8, np.float32)}
    write_gguf(path, "made-up", {}, tensors)
    assert tensors_of(path) == [Tensor("b.weight", 4 * 3 * 8 * 4, 12), Tensor("a.bias", 32, 1)]


def test_quantized_tensors_have_the_bytes_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "some.gguf"
    writer = GGUFWriter(path, "made-up")
    rows = np.zeros((5, 2 * 34), np.uint8)  # of Q8_0: 32 numbers in 34 bytes
    writer.add_tensor("q.weight", rows, raw_dtype=GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert tensors_of(path) == [Tensor("q.weight", 5 * 68, 5)]


def test_a_file_without_tensors_has_none(tmp_path: Path) -> None:
    write_gguf(tmp_path / "empty.gguf", "made-up", {}, {})
    assert tensors_of(tmp_path / "empty.gguf") == []


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"absent\.gguf: no such file"):
        tensors_of(tmp_path / "absent.gguf")


def test_a_damaged_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "damaged.gguf"
    write_gguf(path, "made-up", {}, {"a": np.zeros(8, np.float32)})
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(ModelError, match=r"damaged\.gguf: ggml cannot read this file"):
        tensors_of(path)
