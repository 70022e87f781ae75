"""Names and places; that every supported architecture can be exported is in tests/architectures."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from edgesteer.errors import ModelError
from edgesteer.export.architectures import find_blocks, llama_cpp_name

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("model_type", "expected"), [("mixtral", "llama"), ("qwen3_moe", "qwen3moe"), ("gemma3", "gemma3")]
)
def test_architecture_has_llama_cpp_s_name(model_type: str, expected: str) -> None:
    assert llama_cpp_name(AutoConfig.for_model(model_type)) == expected


def test_model_without_known_blocks_is_refused_by_name() -> None:
    config = AutoConfig.for_model(
        "opt", vocab_size=8, hidden_size=8, ffn_dim=8, num_hidden_layers=1, num_attention_heads=2, word_embed_proj_dim=8
    )
    with pytest.raises(ModelError, match=r"odd: cannot find the transformer blocks of opt"):
        find_blocks(AutoModelForCausalLM.from_config(config), Path("odd"))
