"""What can be loaded from a GGUF is what its Hugging Face folder holds; what cannot be is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gguf import GGUFWriter

from edgesteer.errors import ModelError
from edgesteer.runtime.model import LlamaModel

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch

FOLDER_ONLY = ("granite", "smollm3", "mixtral", "command-r", "gptneox")
"""Those whose GGUF transformers does not read."""


def test_gguf_is_the_folder_or_refused_by_name(
    architecture: str, tiny: ModuleType, tiny_of: Callable[[str], Any], torch_of: Callable[[str], LoadedModel]
) -> None:
    import torch

    from edgesteer.export.weights import load_model

    if architecture in FOLDER_ONLY:
        with pytest.raises(ModelError, match=r"Hugging Face folder") as caught:
            load_model(tiny_of(architecture).gguf)
        assert tiny.ARCHITECTURES[architecture].gguf in str(caught.value)
        return
    tokens = torch.arange(30, 30 + 2 * tiny.WINDOW)[None]
    models = (load_model(tiny_of(architecture).gguf), torch_of(architecture))
    torch.testing.assert_close(*(model.network(input_ids=tokens).logits for model in models))


def test_streamed_model_is_the_whole_one(
    architecture: str, tiny_of: Callable[[str], Any], torch_of: Callable[[str], LoadedModel]
) -> None:
    """Also where the files have other tensors than transformers: each expert apart, or another name of the head."""
    import torch

    from edgesteer.export.activations import residual_stream
    from edgesteer.export.weights import LoadOptions, load_model

    streamed = load_model(tiny_of(architecture).folder, LoadOptions(stream="always"))
    tokens = torch.arange(30, 50)
    assert torch.equal(residual_stream(streamed, tokens), residual_stream(torch_of(architecture), tokens))


def test_stretched_rotation_is_read_from_a_gguf(
    tiny_of: Callable[[str], Any], torch_of: Callable[[str], LoadedModel]
) -> None:
    """Llama 3 stretches RoPE where short texts show nothing of it."""
    import torch

    from edgesteer.export.weights import load_model

    ours, theirs = (
        m.network.model.rotary_emb.inv_freq for m in (load_model(tiny_of("llama3").gguf), torch_of("llama3"))
    )
    torch.testing.assert_close(ours, theirs)
    assert ours[-1] < 500000.0 ** (-3 / 4) / 7


def with_key(source: Path, target: Path, add: Callable[[GGUFWriter], None]) -> Path:
    """Write a GGUF with one more key."""
    from gguf import GGUFReader

    reader = GGUFReader(source)
    with closing(GGUFWriter(target, reader.fields["general.architecture"].contents())) as writer:
        for name, entry in reader.fields.items():
            if not name.startswith("GGUF.") and name != "general.architecture":
                kind, inner = entry.types[0], entry.types[-1] if len(entry.types) > 1 else None
                writer.add_key_value(name, entry.contents(), kind, inner)
        add(writer)
        for tensor in reader.tensors:
            writer.add_tensor(tensor.name, tensor.data)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    return target


def test_gguf_whose_rotation_transformers_cannot_read_is_refused(tiny_of: Callable[[str], Any], tmp_path: Path) -> None:
    from gguf import RopeScalingType

    from edgesteer.export.weights import load_model

    stretched = with_key(
        tiny_of("qwen2").gguf, tmp_path / "yarn.gguf", lambda w: w.add_rope_scaling_type(RopeScalingType.YARN)
    )
    with pytest.raises(ModelError, match=r"stretches RoPE; found yarn.*Hugging Face folder"):
        load_model(stretched)


# ---- architectures that cannot be steered ----


def save_tiny(tiny: ModuleType, folder: Path, model_type: str, **sizes: Any) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

    config = AutoConfig.for_model(model_type, vocab_size=len(tiny.vocabulary()), **sizes)
    kind = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    kind.from_config(config).save_pretrained(folder)
    tiny.make_tokenizer().save_pretrained(folder)
    return folder


RECURRENT = {
    "mamba": {"hidden_size": 16, "state_size": 4},
    "rwkv": {"hidden_size": 16, "attention_hidden_size": 16},
    "lfm2": {"hidden_size": 32, "num_attention_heads": 4, "layer_types": ["conv", "full_attention"]},
}


@pytest.mark.parametrize("model_type", RECURRENT)
def test_recurrent_model_is_refused_by_name(tiny: ModuleType, tmp_path: Path, model_type: str) -> None:
    from edgesteer.export.weights import load_model

    folder = save_tiny(tiny, tmp_path, model_type, num_hidden_layers=2, **RECURRENT[model_type])
    with pytest.raises(ModelError, match=f"{model_type} is recurrent, which cannot be exported"):
        load_model(folder)


def test_encoder_decoder_is_refused_by_name(tiny: ModuleType, tmp_path: Path) -> None:
    from edgesteer.export.weights import load_model

    folder = save_tiny(tiny, tmp_path, "t5", d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=2)
    with pytest.raises(ModelError, match="t5 is an encoder-decoder model, which cannot be steered"):
        load_model(folder)


def write_encoder_decoder(tiny: ModuleType, path: Path) -> None:
    """Write a T5 of one block a side, with zeros for weights."""
    width, tokens = 16, len(tiny.vocabulary())
    square = ("attn_q", "attn_k", "attn_v", "attn_o", "ffn_up", "ffn_down")
    blocks = {f"enc.blk.0.{name}": (width, width) for name in square}
    blocks |= {f"dec.blk.0.{name}": (width, width) for name in (*square, *(f"cross_{each}" for each in square[:4]))}
    norms = ("enc.blk.0.attn_norm", "enc.blk.0.ffn_norm", "enc.output_norm", "dec.output_norm", "dec.blk.0.attn_norm",
             "dec.blk.0.cross_attn_norm", "dec.blk.0.ffn_norm")  # fmt: skip
    shapes = {"token_embd": (tokens, width), **blocks, **dict.fromkeys(norms, (width,))}
    with closing(GGUFWriter(path, "t5")) as writer:
        writer.add_context_length(64)
        writer.add_embedding_length(width)
        writer.add_block_count(1)
        writer.add_feed_forward_length(width)
        writer.add_head_count(2)
        writer.add_layer_norm_rms_eps(1e-6)
        writer.add_relative_attn_buckets_count(8)
        tiny.add_vocabulary(writer)
        for name, shape in shapes.items():
            writer.add_tensor(f"{name.replace('cross_attn_q', 'cross_attn_q')}.weight", np.zeros(shape, "f4"))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def test_encoder_decoder_is_refused_by_the_runtime(tiny: ModuleType, tmp_path: Path) -> None:
    write_encoder_decoder(tiny, tmp_path / "t5.gguf")
    with pytest.raises(ModelError, match="t5 has an encoder, which cannot be steered"):
        LlamaModel(tmp_path / "t5.gguf")
