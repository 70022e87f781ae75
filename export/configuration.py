"""transformers' configuration of a model: config.json of a Hugging Face folder, or the metadata of a GGUF.

transformers leaves out of a GGUF's metadata what the first models of an architecture all had alike. What changes the
computation is put in here, or refused: a model that differs from llama.cpp's in silence would make wrong sidecars.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor
from numpy.typing import NDArray

from edgesteer.errors import ModelError
from edgesteer.export.architectures import check_configuration
from edgesteer.gguf_file import metadata_value, open_gguf, tensors_of

SETTINGS = {
    "context_length": "max_position_embeddings",
    "attention.key_length": "head_dim",
    "expert_feed_forward_length": "moe_intermediate_size",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
"""GGUF keys, after the architecture, and the attribute of a configuration that each is where a configuration has it."""

GEMMA_27B_BLOCKS = {"gemma2": 46, "gemma3": 62}
"""By which llama.cpp tells the Gemmas whose queries are not scaled by the size of a head."""

LLAMA3_ROPE = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""Of every Llama 3.1 to 3.3; a GGUF holds only what follows from them and a factor."""

USE_A_FOLDER = "Export from the model's Hugging Face folder instead; the sidecar works with the GGUF."


def read_configuration(path: Path) -> Any:
    """Return the configuration of a GGUF file or a Hugging Face folder.

    Raises ModelError for what cannot be exported, from this file or at all; transformers' own errors pass through.
    """
    from transformers import AutoConfig

    if path.is_file():
        config = AutoConfig.from_pretrained(str(path.parent), gguf_file=path.name)
        remedy = "Download the model again."
        with open_gguf(path, ModelError, remedy) as reader:
            tensors = tensors_of(path, reader, ModelError, remedy)
            complete(config, reader, {tensor.name: tensor for _, tensor in tensors})
    else:
        config = AutoConfig.from_pretrained(str(path))
    check_configuration(config, path)
    return config


def complete(config: Any, reader: GGUFReader, tensors: Mapping[str, ReaderTensor]) -> None:
    """Set what transformers leaves out. Raises ModelError for what no setting can express."""
    architecture = metadata_value(reader, "general.architecture")
    if metadata_value(reader, f"{architecture}.expert_count") and not hasattr(config, "num_experts"):
        raise ModelError(f"transformers reads no experts from a GGUF of {architecture}", remedy=USE_A_FOLDER)
    if tokens := reader.get_field("tokenizer.ggml.tokens"):
        config.vocab_size = len(tokens.data)
    for key, attribute in SETTINGS.items():
        value = metadata_value(reader, f"{architecture}.{key}")
        if value is not None and hasattr(config, attribute):
            setattr(config, attribute, value)
    if architecture in GEMMA_27B_BLOCKS:
        by_head = config.num_hidden_layers != GEMMA_27B_BLOCKS[architecture]
        config.query_pre_attn_scalar = config.head_dim if by_head else config.hidden_size // config.num_attention_heads
    if getattr(config, "rope_parameters", None):
        complete_rotation(config, architecture, reader, tensors)


def complete_rotation(
    config: Any, architecture: str, reader: GGUFReader, tensors: Mapping[str, ReaderTensor]
) -> None:
    """Set how RoPE is stretched for long texts; llama.cpp stretches only the blocks that see everything."""
    scaling = metadata_value(reader, f"{architecture}.rope.scaling.type") or "none"
    rope: dict[str, Any] = config.rope_parameters.get("full_attention", config.rope_parameters)
    if scaling == "linear":
        rope |= {"rope_type": "linear", "factor": metadata_value(reader, f"{architecture}.rope.scaling.factor")}
    elif scaling != "none" or "rope_factors_long.weight" in tensors:
        raise ModelError("transformers does not read how this GGUF stretches RoPE", found=scaling, remedy=USE_A_FOLDER)
    elif "rope_freqs.weight" in tensors:
        divisors = tensors["rope_freqs.weight"].data
        rope |= {"rope_type": "llama3", "factor": float(divisors.max()), **LLAMA3_ROPE}
        if not np.allclose(llama3_divisors(rope, 2 * divisors.size), divisors):
            raise ModelError("rope_freqs.weight is not as in Llama 3", remedy=USE_A_FOLDER)


def llama3_divisors(rope: dict[str, Any], size: int) -> NDArray[np.float32]:
    """Return by what Llama 3 divides the frequencies of a head's `size` rotated dimensions: (size / 2,)."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig(head_dim=size, rope_parameters=rope)
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = rope["rope_theta"] ** (-np.arange(0, size, 2) / size)
    divisors: NDArray[np.float32] = (plain / stretched.numpy()).astype(np.float32)
    return divisors
