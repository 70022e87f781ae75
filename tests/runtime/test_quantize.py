"""Quantize: the other format holds the same model, and what cannot be done is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from gguf import GGMLQuantizationType, GGUFReader

from edgesteer.errors import ModelError, SteeringError
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.quantize import quantizations, quantize


def test_a_quantized_model_can_be_loaded_and_is_in_the_format(tiny_model: Any, tmp_path: Path) -> None:
    output = tmp_path / "tiny-q8.gguf"
    quantize(tiny_model.gguf, output, "Q8_0", threads=1)
    assert GGMLQuantizationType.Q8_0 in {tensor.tensor_type for tensor in GGUFReader(output).tensors}
    with LlamaModel(tiny_model.gguf) as before, LlamaModel(output) as after:
        assert (before.n_blocks, before.width) == (after.n_blocks, after.width)


def test_an_unknown_format_is_refused_with_those_there_are(tiny_model: Any, tmp_path: Path) -> None:
    assert {"Q4_0", "Q4_1", "Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0"} <= set(quantizations())
    with pytest.raises(SteeringError, match="no such quantization") as caught:
        quantize(tiny_model.gguf, tmp_path / "out.gguf", "Q9")
    assert "Q4_0" in str(caught.value)


def test_what_is_no_model_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF but not really")
    with pytest.raises(ModelError, match="cannot write this model"):
        quantize(broken, tmp_path / "out.gguf", "Q8_0", threads=1)
    assert list(tmp_path.iterdir()) == [broken]
