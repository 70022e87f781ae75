"""Load the base model for export: a GGUF file (dequantized as transformers does) or a Hugging Face folder, in float32.

Everything downstream sees a LoadedModel; what differs between architectures is in architectures.py.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from edgesteer.chat import ChatTemplate
from edgesteer.concept import Example
from edgesteer.errors import EdgeSteerError, ModelError, SteeringError
from edgesteer.export.architectures import find_blocks, llama_cpp_name
from edgesteer.export.configuration import USE_A_FOLDER, read_configuration
from edgesteer.export.devices import choose_device
from edgesteer.export.memory import reuse_freed_memory
from edgesteer.export.streaming import GgufFiles, SafetensorsFolder, StreamedWeights, stream_weights
from edgesteer.fingerprint import Fingerprint, fingerprint_of_gguf, sha256_of_files, tokenizer_digest
from edgesteer.tokens import tokenize_example

CPU = torch.device("cpu")
STREAMS = ("auto", "always", "never")


@dataclass(frozen=True)
class LoadOptions:
    """How the base model is read."""

    stream: str = "auto"
    """Read the weights one block at a time: always, never, or where they would fill more than half of the memory."""
    device: str = "auto"
    """Where to compute: cpu, cuda, cuda:N, mps, or the best that torch has."""

    def __post_init__(self) -> None:
        if self.stream not in STREAMS:
            raise SteeringError("unknown way to stream", expected=" or ".join(STREAMS), found=self.stream)


@dataclass(frozen=True)
class TokenizedText:
    """Token ids of one text; the completion is the part whose activations count."""

    tokens: torch.Tensor
    """(length,) int64."""
    completion_start: int
    words: slice = field(default_factory=lambda: slice(0, 0))
    """The user's own words in the prompt, without the chat template around them."""


@dataclass(frozen=True)
class LoadedModel:
    """A causal language model in float32 with what the exporter needs to know of it."""

    network: Any
    """The transformers model; its call takes input_ids and returns an object with .logits."""
    tokenizer: Any
    blocks: nn.ModuleList
    chat: ChatTemplate
    fingerprint: Fingerprint
    device: torch.device = CPU
    """Where it computes."""
    streamed: StreamedWeights | None = None
    """What reads the weights that are not in memory; None when all of them are."""

    @property
    def n_blocks(self) -> int:
        return len(self.blocks)

    @property
    def width(self) -> int:
        return self.fingerprint.width

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the residual stream."""
        return torch.empty(0, dtype=self.network.dtype).numpy().dtype

    def block(self, index: int) -> AbstractContextManager[None]:
        """Have a block's weights in memory for the time of the body. Raises ModelError when they cannot be read."""
        return self.streamed.loaded(self.blocks[index]) if self.streamed else nullcontext()

    def head(self) -> AbstractContextManager[None]:
        """The same for what makes logits of the last boundary."""
        return self.streamed.loaded(self.network.get_output_embeddings()) if self.streamed else nullcontext()

    def embedding(self, tokens: torch.Tensor) -> AbstractContextManager[torch.Tensor]:
        """The same for the embedding of some tokens, (length,); the body gets what stands for them, on the device."""
        return self.streamed.embedding(tokens) if self.streamed else nullcontext(tokens.to(self.device))

    def tokenize(self, example: Example) -> TokenizedText:
        """Return the tokens of a text; see tokenize_example."""
        bos = self.tokenizer.bos_token_id if self.chat.adds_bos else None
        found = tokenize_example(example, self.chat, bos, self._encode)
        return TokenizedText(torch.tensor(found.tokens, dtype=torch.int64), found.completion_start, found.words)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids


def load_model(path: Path, options: LoadOptions | None = None) -> LoadedModel:
    """Load a GGUF file or a Hugging Face folder as float32; without options whole, on the CPU.

    Raises ModelError when transformers cannot read it or its blocks cannot be found, SteeringError when torch does not
    have the device.
    """
    options = options or LoadOptions(stream="never", device="cpu")
    device = choose_device(options.device)
    quieten_transformers()
    of_file = fingerprint_of_gguf(path) if path.is_file() else None  # first: it says what is wrong with a damaged file
    source = (str(path.parent), {"gguf_file": path.name}) if of_file else (str(path), {})
    with transformers_failures(path):
        from transformers import AutoTokenizer

        config = read_configuration(path)
        tokenizer = AutoTokenizer.from_pretrained(source[0], **source[1])
        network = empty_network(config)
        streams = options.stream == "always" or (options.stream == "auto" and not fits_in_memory(network))
        split = bool(of_file) and bool(re.search(r"-of-\d{5}\.gguf$", path.name))  # transformers reads one file of it
        if not streams and not split:
            network = whole_network(config, *source).to(device)
    blocks, streamed = find_blocks(network, path), None
    if streams or split:
        files = GgufFiles(path, network) if of_file else SafetensorsFolder(path, network)
        streamed = stream_weights(network, blocks, files, path, device)
    if streamed and not streams:
        streamed.load_all(blocks)
        streamed = None
    fingerprint = of_file or fingerprint_of_folder(path, network, tokenizer)
    return LoadedModel(network, tokenizer, blocks, chat_template(tokenizer), fingerprint, device, streamed)


def quieten_transformers() -> None:
    from transformers.utils import logging

    reuse_freed_memory()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


@contextmanager
def transformers_failures(path: Path) -> Iterator[None]:
    """Turn whatever transformers' readers raise, struct.error and SafetensorError too, into a ModelError."""
    try:
        with redirect_stderr(io.StringIO()):  # its GGUF reader draws a bar of its own, whatever its settings
            yield
    except EdgeSteerError:
        raise
    except Exception as error:
        raise ModelError(
            "transformers cannot load this model",
            where=path,
            found=str(error).split("\n")[0].rstrip("."),
            remedy=USE_A_FOLDER if path.is_file() else "Use a complete Hugging Face folder of a causal language model.",
        ) from error


def whole_network(config: Any, folder: str, gguf: dict[str, str]) -> Any:
    """Return a network with all its weights. Raises ModelError where transformers would make some of them up."""
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager",
        output_loading_info=True, **gguf,
    )  # fmt: skip
    network, loading = loaded
    if missing := sorted(loading["missing_keys"]):
        where = gguf.get("gguf_file", folder)
        raise ModelError("a tensor is missing", where=where, expected=missing[0], remedy="Download the model again.")
    return network.eval().requires_grad_(False)


def empty_network(config: Any) -> Any:
    """Return a network whose weights are on the meta device: sizes without values."""
    from accelerate import init_empty_weights  # type: ignore[import-untyped]
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        network = AutoModelForCausalLM.from_config(  # type: ignore[no-untyped-call]
            config, dtype=torch.float32, attn_implementation="eager", experts_implementation="eager"
        )
    return network.eval().requires_grad_(False)


def fits_in_memory(network: Any) -> bool:
    """True when the weights in float32 take at most half of this machine's memory, or it does not tell its size."""
    needed = 4 * sum(weight.numel() for weight in network.parameters())
    if not hasattr(os, "sysconf"):
        return True
    return bool(needed <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2)


def chat_template(tokenizer: Any) -> ChatTemplate:
    """Return the tokenizer's chat template; adds_bos is read off what the tokenizer does with an empty text."""
    ids = tokenizer("").input_ids
    return ChatTemplate(
        source=tokenizer.chat_template,
        bos=tokenizer.bos_token or "",
        eos=tokenizer.eos_token or "",
        adds_bos=bool(ids) and ids[0] == tokenizer.bos_token_id,
    )


def fingerprint_of_folder(path: Path, network: Any, tokenizer: Any) -> Fingerprint:
    """Return the fingerprint of a Hugging Face folder; model_sha256 covers its weight files in name order."""
    config = network.config.get_text_config()
    tokens = tokenizer.convert_ids_to_tokens(list(range(config.vocab_size)))
    return Fingerprint(
        architecture=llama_cpp_name(config),
        n_blocks=config.num_hidden_layers,
        width=config.hidden_size,
        tokenizer_sha256=tokenizer_digest(len(tokens), lambda i: (tokens[i] or "").encode()),
        model_sha256=sha256_of_files(sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))),
        model_name=path.name,
    )
