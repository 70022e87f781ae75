"""Models that tests share: a tiny one that is made here, and the real ones of the registry.

torch, transformers and llama.cpp are imported by the fixtures that need them, so that the other tests run without.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from gguf import GGUFWriter, TokenType
from numpy.typing import NDArray

from edgesteer.concept import load_concept, load_neutral, resolve_concept
from edgesteer.controller import Array, Controller, Pid, Sensor
from edgesteer.registry import resolve_model
from edgesteer.sidecar import Sidecar, write_sidecar

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel
    from edgesteer.runtime.model import LlamaModel


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but for those that a dependency causes by itself. Ctrl-C works in what tests start."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script. is deprecated:DeprecationWarning")


# ---- the tiny model: the same random weights as a Hugging Face folder and as an F32 GGUF ----

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "Ġ the", "i n", "Ġ a", "e r", "o n")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True)
class TinyModel:
    """Where the tiny model lies: 4 blocks of width 32, 4 heads over 2 key-value heads, byte-level tokens."""

    folder: Path
    gguf: Path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    network = make_tiny_network()
    network.save_pretrained(folder)
    make_tiny_tokenizer().save_pretrained(folder)
    gguf = folder.with_suffix(".gguf")
    write_tiny_gguf(gguf, network)
    return TinyModel(folder, gguf)


def make_tiny_network() -> Any:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tiny_tokens()), hidden_size=32, intermediate_size=48, num_hidden_layers=4,
        num_attention_heads=4, num_key_value_heads=2, head_dim=8, max_position_embeddings=256,
        tie_word_embeddings=False, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    network = LlamaForCausalLM(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(1 + noise / 10 if "norm" in name else noise / weight.shape[-1] ** 0.5)
    return network


def tiny_tokens() -> list[str]:
    """Special tokens, the 256 bytes as GPT-2 spells them, and what the merges make."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [*SPECIAL_TOKENS, *sorted(ByteLevel.alphabet()), *(merge.replace(" ", "") for merge in MERGES)]


def make_tiny_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate(tiny_tokens())}
    tokenizer = Tokenizer(models.BPE(vocabulary, [tuple(merge.split()) for merge in MERGES]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    end, start, stop = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=start, eos_token=stop, pad_token=end, chat_template=CHAT_TEMPLATE
    )


def write_tiny_gguf(path: Path, network: Any) -> None:
    with closing(GGUFWriter(path, "llama")) as writer:
        add_sizes(writer, network.config)
        add_vocabulary(writer)
        for name, weight in network.state_dict().items():
            writer.add_tensor(gguf_name(name), gguf_rows(name, weight.numpy(), network.config))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()


def add_sizes(writer: GGUFWriter, config: Any) -> None:
    writer.add_name("tiny")
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])


def add_vocabulary(writer: GGUFWriter) -> None:
    tokens = tiny_tokens()
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


GGUF_NAMES = {
    "model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "model.layers": "blk",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}  # fmt: skip


def gguf_name(name: str) -> str:
    for theirs, ours in GGUF_NAMES.items():
        name = name.replace(theirs, ours)
    return name


def gguf_rows(name: str, weight: NDArray[np.float32], config: Any) -> NDArray[np.float32]:
    """llama.cpp rotates neighbouring rows of a head, transformers rows that are half a head apart."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
    if heads is None:
        return weight
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


@pytest.fixture(scope="session")
def tiny_torch(tiny_model: TinyModel) -> LoadedModel:
    from edgesteer.export.weights import load_model

    return load_model(tiny_model.folder)


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: TinyModel) -> Iterator[LlamaModel]:
    from edgesteer.runtime.model import LlamaModel

    with LlamaModel(tiny_model.gguf) as model:
        yield model


# ---- controllers and sidecars ----

ControllerMaker = Callable[..., Controller]


def random_controller(
    n_blocks: int,
    width: int,
    *,
    law: str = "lqr",
    name: str = "concept",
    blocks: tuple[int, ...] | None = None,
    mode: str = "hold",
    size: float = 1.0,
    seed: int = 0,
) -> Controller:
    """Return a controller whose control is of order 1 where x has coordinates of this size; with a sensor."""
    steered = tuple(range(n_blocks)) if blocks is None else blocks
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    m = len(steered)
    vectors = {"probe": draw(m, width) / np.float32(size * width**0.5), "gain": draw(m, width) * np.float32(size / 4)}
    scalars = {"offset": draw(m), "rest": draw(m), "span": 1 + abs(draw(m))}
    if law in ("add", "ablate", "rotate"):
        scalars["offset"], scalars["rest"] = np.zeros(m, "f4"), np.zeros(m, "f4")
    if law == "add":
        vectors["probe"] = None
    if law in ("ablate", "rotate"):
        gain, axis = np.moveaxis(np.linalg.qr(draw(m, width, 2))[0], -1, 0)
        vectors = {"probe": gain, "gain": gain, "axis": axis if law == "rotate" else None}
    if law == "ablate":
        scalars["span"] = np.zeros(m, "f4")
    sensor = Sensor(
        block=n_blocks // 2, probe=draw(width) / np.float32(size * width**0.5), offset=0.25, target=1.0,
        memory_tokens=8.0, push=draw(m) / 10, prompt_mean=0.0, position_mean=np.zeros(4, dtype=np.float32),
    )  # fmt: skip
    return Controller(
        name=name, positive="up", negative="down", law=law, n_blocks=n_blocks, blocks=steered, mode=mode,
        sensor=sensor, pid=Pid(0.8, 0.2, 0.3) if law == "pid" else None, **vectors, **scalars,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_controller() -> ControllerMaker:
    return random_controller


class NoProgress:
    """Progress for nobody to see."""

    def stage(self, name: str, total: int) -> Callable[[], None]:
        return lambda: None


@pytest.fixture(scope="session")
def no_progress() -> NoProgress:
    return NoProgress()


# ---- the registry's models ----


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return resolve_model("smollm2")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    return resolve_model("gemma3")


@pytest.fixture(scope="session")
def smollm2_llama(smollm2: Path) -> Iterator[LlamaModel]:
    from edgesteer.runtime.model import LlamaModel

    with LlamaModel(smollm2) as model:
        yield model


@pytest.fixture(scope="session")
def gemma3_llama(gemma3: Path) -> Iterator[LlamaModel]:
    from edgesteer.runtime.model import LlamaModel

    with LlamaModel(gemma3) as model:
        yield model


@pytest.fixture(scope="session")
def smollm2_torch(smollm2: Path) -> LoadedModel:
    """Takes about 20 s."""
    from edgesteer.export.weights import load_model

    return load_model(smollm2)


@pytest.fixture(scope="session")
def smollm2_sidecar(
    smollm2_torch: LoadedModel, no_progress: NoProgress, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The built-in concept `ocean` for SmolLM2, from fewer linearizations than by default. Takes about 40 s."""
    from edgesteer.export.pipeline import ExportOptions, export_controller

    concept = load_concept(resolve_concept("ocean"))
    options = ExportOptions(jacobian_prompts=4)
    controller = export_controller(smollm2_torch, concept, load_neutral(), options, no_progress)
    path = tmp_path_factory.mktemp("sidecars") / "ocean.gguf"
    write_sidecar(path, Sidecar(smollm2_torch.fingerprint, {controller.name: controller}))
    return path
