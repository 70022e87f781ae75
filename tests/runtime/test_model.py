"""What a loaded model says of itself, and llama.cpp's log."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel, recorded_log

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch  # makes the tiny model


def test_parameters_and_bytes_are_those_of_the_weights(tiny_llama: LlamaModel, tiny_torch: LoadedModel) -> None:
    assert tiny_llama.n_parameters == sum(weight.numel() for weight in tiny_torch.network.parameters())
    assert tiny_llama.weight_bytes == 4 * tiny_llama.n_parameters


def test_transformer_is_not_recurrent(tiny_llama: LlamaModel) -> None:
    assert not tiny_llama.is_recurrent


def test_log_is_recorded_while_it_is_asked_for(tiny_model: Any) -> None:
    with recorded_log() as loading, LlamaModel(tiny_model.gguf) as model:
        loaded = len(loading)
        with recorded_log() as making, Engine(model, context_tokens=256):
            pass
    assert any("model buffer size" in line for line in loading[:loaded])
    assert any("KV buffer size" in line for line in making)
    assert not any("model buffer size" in line for line in making)
    assert any("KV buffer size" in line for line in loading)  # the outer one goes on
    recorded = len(loading)
    with LlamaModel(tiny_model.gguf):
        assert len(loading) == recorded
