"""What differs between transformers' architectures: their names in llama.cpp, and where the blocks are.

Knows configurations and modules, no weights and no files. What cannot be exported is refused by its name here.
"""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from edgesteer.errors import ModelError

BLOCKS = ("model.layers", "transformer.h", "gpt_neox.layers")
"""Where a causal language model of transformers keeps its transformer blocks."""

ATTENTION = ("full_attention", "sliding_attention", "chunked_attention")
"""Those of transformers' layer_types whose only memory is keys and values."""

LLAMA_CPP_NAMES = {
    "mistral": "llama", "mixtral": "llama", "cohere": "command-r", "gpt_bigcode": "starcoder", "gpt_neox": "gptneox",
    "gpt_oss": "gpt-oss", "phi": "phi2", "qwen2_moe": "qwen2moe", "qwen3_moe": "qwen3moe",
}  # fmt: skip
"""general.architecture that llama.cpp's converter gives a model_type, where it is another word."""

ALTERNATIVE = "Use a model whose blocks are attention and a feed-forward part, as in Llama, Qwen or Gemma."


def llama_cpp_name(config: Any) -> str:
    """Return what llama.cpp calls a configuration's architecture: general.architecture of its GGUF."""
    model_type: str = config.get_text_config().model_type.removesuffix("_text")
    return LLAMA_CPP_NAMES.get(model_type, model_type)


def check_configuration(config: Any, path: Path) -> None:
    """Raise ModelError for an architecture that no sidecar can be made for, before any weights are read."""
    if config.is_encoder_decoder:
        raise ModelError(
            f"{config.model_type} is an encoder-decoder model, which cannot be steered", where=path, remedy=ALTERNATIVE
        )
    kinds = getattr(config.get_text_config(), "layer_types", None) or ()
    if others := sorted(set(kinds) - set(ATTENTION)):
        raise recurrent(config.model_type, path, f"blocks of {', '.join(others)}")


def recurrent(name: str, path: Path, found: str) -> ModelError:
    return ModelError(
        f"{name} is recurrent, which cannot be exported",
        where=path,
        expected="no memory but keys and values",
        found=found,
        remedy=ALTERNATIVE,
    )


def find_blocks(network: Any, path: Path) -> nn.ModuleList:
    """Return the list of transformer blocks.

    Raises ModelError when the model keeps a recurrent state, or its blocks are nowhere known.
    """
    name = network.config.get_text_config().model_type
    if network._is_stateful:
        raise recurrent(name, path, "a state")
    for place in BLOCKS:
        try:
            blocks = attrgetter(place)(network)
        except AttributeError:
            continue
        if isinstance(blocks, nn.ModuleList):
            return blocks
    raise ModelError(
        f"cannot find the transformer blocks of {name}",
        where=path,
        expected=f"one of .{', .'.join(BLOCKS)}",
        found=type(network).__name__,
        remedy=ALTERNATIVE,
    )
