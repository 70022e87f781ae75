"""Tiny models with random weights, of every architecture that is tested: as a Hugging Face folder and as an F32 GGUF.

The GGUF is written from transformers' weights under the names and in the layouts that llama.cpp's own converter gives
them (convert_hf_to_gguf.py). All share one byte-level vocabulary. Not on the import path: see tests/conftest.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gguf import MODEL_ARCH, MODEL_ARCH_NAMES, GGUFWriter, RopeScalingType, TokenType, get_tensor_name_map
from numpy.typing import NDArray

Weight = NDArray[np.float32]
Layout = Callable[[str, Weight, Any], Iterator[tuple[str, Weight]]]
"""From a tensor of transformers to those that llama.cpp keeps: (name, weight, config) -> names and weights."""

WINDOW = 8
"""How many tokens sliding attention sees."""


@dataclass(frozen=True)
class TinyModel:
    """Where a tiny model lies."""

    folder: Path
    gguf: Path


@dataclass(frozen=True)
class Architecture:
    """How a tiny model is made: transformers' model_type and configuration, llama.cpp's architecture and layout."""

    model_type: str
    gguf: str
    config: dict[str, Any] = field(default_factory=dict)
    layout: Layout = lambda name, weight, config: iter([(name, weight)])


# ---- layouts ----


def rotated_in_pairs(name: str, weight: Weight, config: Any) -> Iterator[tuple[str, Weight]]:
    """llama.cpp rotates neighbouring rows of a head here, transformers rows that are half a head apart."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is not None:
        weight = weight.reshape(heads, 2, len(weight) // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)
    yield name, weight


def norms_above_one(name: str, weight: Weight, _config: Any) -> Iterator[tuple[str, Weight]]:
    """Gemma's norms multiply by 1 + weight."""
    yield name, weight + 1 if name.endswith("norm.weight") else weight


def separate_experts(name: str, weight: Weight, config: Any) -> Iterator[tuple[str, Weight]]:
    """Gate and up are one tensor in transformers."""
    if name.endswith("experts.gate_up_proj"):
        for part, half in zip(("gate_proj", "up_proj"), np.split(weight, 2, axis=1), strict=True):
            yield name.replace("gate_up_proj", f"{part}.weight"), half
    else:
        yield f"{name}.weight" if name.endswith("experts.down_proj") else name, weight


def mixtral_layout(name: str, weight: Weight, config: Any) -> Iterator[tuple[str, Weight]]:
    for part, values in separate_experts(name, weight, config):
        yield from rotated_in_pairs(part, values, config)


def heads_apart(name: str, weight: Weight, config: Any) -> Iterator[tuple[str, Weight]]:
    """transformers keeps query, key and value of a head together, llama.cpp all queries, all keys, all values."""
    if "query_key_value" in name:
        heads = config.num_attention_heads
        weight = weight.reshape(heads, 3, len(weight) // heads // 3, -1).swapaxes(0, 1).reshape(weight.shape)
    yield name, weight


def transposed(name: str, weight: Weight, _config: Any) -> Iterator[tuple[str, Weight]]:
    yield name, weight.T if name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")) else weight


# ---- architectures ----

SIZES = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip

ARCHITECTURES = {
    "llama": Architecture("llama", "llama", {"head_dim": 8, "tie_word_embeddings": False}, rotated_in_pairs),
    "llama3": Architecture(
        "llama",
        "llama",
        {"tie_word_embeddings": True,
         "rope_parameters": {"rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0,
                             "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}},
        rotated_in_pairs,
    ),
    "mistral": Architecture(
        "mistral", "llama", {"head_dim": 16, "sliding_window": None, "tie_word_embeddings": False}, rotated_in_pairs
    ),
    "qwen2": Architecture("qwen2", "qwen2", {"tie_word_embeddings": True}),
    "qwen3": Architecture("qwen3", "qwen3", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": Architecture(
        "gemma2",
        "gemma2",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW, "attn_logit_softcapping": 1.5,
         "final_logit_softcapping": 3.0},
        norms_above_one,
    ),
    "gemma3": Architecture(  # every sixth block sees everything
        "gemma3_text",
        "gemma3",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": WINDOW, "num_hidden_layers": 7,
         "rope_parameters": {"sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                             "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0}}},
        norms_above_one,
    ),
    "phi3": Architecture(
        "phi3", "phi3", {"sliding_window": None, "original_max_position_embeddings": 256, "tie_word_embeddings": False}
    ),
    "granite": Architecture(
        "granite",
        "granite",
        {"embedding_multiplier": 12.0, "residual_multiplier": 0.22, "attention_multiplier": 0.4, "logits_scaling": 8.0,
         "tie_word_embeddings": True},
        rotated_in_pairs,
    ),
    "smollm3": Architecture("smollm3", "smollm3", {"tie_word_embeddings": True}, rotated_in_pairs),
    "qwen3moe": Architecture(
        "qwen3_moe",
        "qwen3moe",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
         "norm_topk_prob": True, "tie_word_embeddings": False},
        separate_experts,
    ),
    "mixtral": Architecture(
        "mixtral",
        "llama",
        {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None, "tie_word_embeddings": False},
        mixtral_layout,
    ),
    "command-r": Architecture("cohere", "command-r", {"logit_scale": 0.25, "tie_word_embeddings": True}),
    "gptneox": Architecture(
        "gpt_neox",
        "gptneox",
        {"use_parallel_residual": True, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default",
                                                           "partial_rotary_factor": 0.5},
         "num_key_value_heads": 4, "tie_word_embeddings": False},
        heads_apart,
    ),
    "falcon": Architecture(
        "falcon", "falcon", {"multi_query": True, "parallel_attn": True, "alibi": False, "bias": False,
                             "new_decoder_architecture": False, "num_key_value_heads": 1, "intermediate_size": 128},
    ),
    "gpt2": Architecture("gpt2", "gpt2", {"num_key_value_heads": 4, "intermediate_size": 128}, transposed),
}  # fmt: skip


def make_model(architecture: str, folder: Path) -> TinyModel:
    """Write a model as `folder` and, beside it, as a GGUF."""
    network = make_network(architecture)
    network.save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    gguf = folder.with_name(f"{folder.name}.gguf")
    write_gguf(gguf, network, ARCHITECTURES[architecture])
    return TinyModel(folder, gguf)


def make_network(architecture: str) -> Any:
    """Return a transformers model with weights of a size at which every part of a block matters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    chosen = ARCHITECTURES[architecture]
    config = AutoConfig.for_model(chosen.model_type, **{"vocab_size": len(vocabulary()), **SIZES, **chosen.config})
    network = AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise / 10 + is_norm(name) if weight.dim() == 1 else noise / weight.shape[-1] ** 0.5)
    return network


def is_norm(name: str) -> bool:
    return name.endswith("weight") and any(word in name for word in ("norm", "ln_", "layernorm"))


# ---- tokenizer ----

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "Ġ the", "i n", "Ġ a", "e r", "o n")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def vocabulary() -> list[str]:
    """Special tokens, the 256 bytes as GPT-2 spells them, and what the merges make."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    ids = {token: index for index, token in enumerate(vocabulary())}
    tokenizer = Tokenizer(models.BPE(ids, [tuple(merge.split()) for merge in MERGES]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    end, start, stop = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=stop, pad_token=end, chat_template=CHAT_TEMPLATE
    )


# ---- GGUF ----


def write_gguf(path: Path, network: Any, architecture: Architecture, *, split_max_tensors: int = 0) -> None:
    with closing(GGUFWriter(path, architecture.gguf, split_max_tensors=split_max_tensors)) as writer:
        add_sizes(writer, network.config)
        add_options(writer, network.config)
        add_vocabulary(writer)
        for name, weight in gguf_tensors(network, architecture):
            writer.add_tensor(name, np.ascontiguousarray(weight))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def gguf_tensors(network: Any, architecture: Architecture) -> Iterator[tuple[str, Weight]]:
    config = network.config
    names = get_tensor_name_map(gguf_architecture(architecture.gguf), config.num_hidden_layers)
    for theirs, weight in network.state_dict().items():
        if theirs == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for part, values in architecture.layout(theirs, weight.numpy(), config):
            ours = names.get_name(part, try_suffixes=(".weight", ".bias"))
            assert ours is not None, part
            yield ours, values
    if rope_parameters(config).get("rope_type") == "llama3":
        yield "rope_freqs.weight", llama3_divisors(network)


def llama3_divisors(network: Any) -> Weight:
    """What the frequencies of a head's rotated dimensions are divided by: (head / 2,)."""
    frequencies = network.model.rotary_emb.inv_freq.numpy()
    count = len(frequencies)
    plain = rope_parameters(network.config)["rope_theta"] ** (-np.arange(count) / count)
    return (plain / frequencies).astype(np.float32)


def gguf_architecture(name: str) -> MODEL_ARCH:
    return next(key for key, value in MODEL_ARCH_NAMES.items() if value == name)


def add_sizes(writer: GGUFWriter, config: Any) -> None:
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    rope = rope_parameters(config)
    writer.add_name("tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    if head_dim * heads != config.hidden_size:
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(int(head_dim * rope.get("partial_rotary_factor", 1)))
    writer.add_rope_freq_base(rope.get("rope_theta", 10000.0))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])


def rope_parameters(config: Any) -> dict[str, Any]:
    """Those of blocks that see everything, where blocks differ."""
    found: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    return found.get("full_attention", found)


def add_options(writer: GGUFWriter, config: Any) -> None:
    """Write what only some architectures have."""
    options = {
        "rms_norm_eps": writer.add_layer_norm_rms_eps,
        "layer_norm_eps": writer.add_layer_norm_eps,
        "layer_norm_epsilon": writer.add_layer_norm_eps,
        "sliding_window": writer.add_sliding_window,
        "attn_logit_softcapping": writer.add_attn_logit_softcapping,
        "final_logit_softcapping": writer.add_final_logit_softcapping,
        "original_max_position_embeddings": writer.add_rope_scaling_orig_ctx_len,
        "attention_multiplier": writer.add_attention_scale,
        "embedding_multiplier": writer.add_embedding_scale,
        "residual_multiplier": writer.add_residual_scale,
        "logits_scaling": writer.add_logit_scale,
        "logit_scale": writer.add_logit_scale,
        "num_experts": writer.add_expert_count,
        "num_experts_per_tok": writer.add_expert_used_count,
        "moe_intermediate_size": writer.add_expert_feed_forward_length,
        "use_parallel_residual": writer.add_parallel_residual,
    }
    for name, add in options.items():
        if (value := getattr(config, name, None)) is not None:
            add(value)


def add_vocabulary(writer: GGUFWriter) -> None:
    tokens = vocabulary()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([TokenType.CONTROL if t in SPECIAL_TOKENS else TokenType.NORMAL for t in tokens])
    writer.add_token_merges(list(MERGES))
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
