"""Fixtures of the exporter's tests: PyTorch models of several families, made here from their configurations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from edgesteer.chat import ChatTemplate
from edgesteer.export.weights import LoadedModel
from edgesteer.fingerprint import Fingerprint

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "attn_implementation": "eager", "pad_token_id": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors as small as here, threads cost up to ten times what they do."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def network_of(family: str) -> Any:
    """Return a float64 network with random weights; Gemma's looks back 4 tokens in two of its three blocks."""
    from transformers import (
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        LlamaConfig,
        LlamaForCausalLM,
        Qwen2Config,
        Qwen2ForCausalLM,
    )

    torch.manual_seed(0)
    if family == "llama":
        return LlamaForCausalLM(LlamaConfig(**SIZES))
    if family == "qwen2":
        return Qwen2ForCausalLM(Qwen2Config(**SIZES))
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, head_dim=8, sliding_window=4, layer_types=kinds))


@pytest.fixture(scope="session")
def make_model() -> Callable[[str], LoadedModel]:
    """A function from a family's name to a LoadedModel in float64, without a tokenizer."""

    def make(family: str) -> LoadedModel:
        network = network_of(family).double().eval().requires_grad_(False)
        for weight in network.parameters():
            weight.mul_(8 if weight.dim() > 1 else 1)  # from 0.02 to a size where attention is not uniform
        fingerprint = Fingerprint(family, SIZES["num_hidden_layers"], SIZES["hidden_size"], "", "", family)
        return LoadedModel(network, None, network.model.layers, ChatTemplate(None, "", "", False), fingerprint)

    return make


@pytest.fixture(params=["llama", "gemma3", "qwen2"])
def model(request: pytest.FixtureRequest, make_model: Callable[[str], LoadedModel]) -> LoadedModel:
    return make_model(request.param)


@pytest.fixture
def tokens() -> torch.Tensor:
    """(12,) token ids."""
    return torch.randint(0, SIZES["vocab_size"], (12,), generator=torch.Generator().manual_seed(1))
