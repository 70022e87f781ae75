"""Load the base model for export: a GGUF file (dequantized by transformers) or a Hugging Face folder, in float32.

Everything downstream sees a LoadedModel; only this file knows where transformers keeps a model's blocks and embedding.
"""

from __future__ import annotations

import io
import os
from contextlib import redirect_stderr
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edgesteer.chat import ChatTemplate
from edgesteer.concept import Example
from edgesteer.errors import ModelError
from edgesteer.export.memory import reuse_freed_memory
from edgesteer.fingerprint import Fingerprint, fingerprint_of_gguf, sha256_of_files, tokenizer_digest


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

    @property
    def n_blocks(self) -> int:
        return len(self.blocks)

    @property
    def width(self) -> int:
        return self.fingerprint.width

    def tokenize(self, example: Example) -> TokenizedText:
        """Return the tokens of a chat turn and its answer, or of a plain text when the prompt is empty.

        Prompt and completion are tokenized apart, because that is where generation starts. The very first token of a
        sequence never counts as completion: it reads far from all others, whatever it is.
        """
        before, prompt, after, completion = "", example.prompt, "", example.completion
        if prompt and self.chat.source is not None:
            before, prompt, after = self.chat.render_turn(prompt, example.system)
        elif prompt:
            completion = f" {completion}"  # belongs to the next word's token
        bos = [self.tokenizer.bos_token_id] if self.chat.adds_bos else []
        head = bos + self._encode(before + prompt + after)
        words = slice(len(bos + self._encode(before)), len(head) - len(self._encode(after)))
        tokens = head + self._encode(completion)
        return TokenizedText(torch.tensor(tokens, dtype=torch.int64), max(1, len(head)), words)

    def _encode(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False).input_ids if text else []
        return ids


def load_model(path: Path) -> LoadedModel:
    """Load a GGUF file or a Hugging Face folder as float32 on the CPU.

    Raises ModelError when transformers cannot read it or its blocks cannot be found.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    reuse_freed_memory()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    of_file = fingerprint_of_gguf(path) if path.is_file() else None  # first: it says what is wrong with a damaged file
    source = (str(path.parent), {"gguf_file": path.name}) if of_file else (str(path), {})
    try:
        with redirect_stderr(io.StringIO()):  # its GGUF reader draws a bar of its own, whatever its settings
            tokenizer = AutoTokenizer.from_pretrained(source[0], **source[1])
            network = AutoModelForCausalLM.from_pretrained(
                source[0], dtype=torch.float32, attn_implementation="eager", **source[1]
            )
        network.eval()  # type: ignore[no-untyped-call]
    except Exception as error:  # what transformers' readers raise, struct.error and SafetensorError too
        raise ModelError(
            "transformers cannot load this model",
            where=path,
            found=str(error).split("\n")[0],
            remedy="Use a GGUF of an architecture that transformers can dequantize, or a Hugging Face folder.",
        ) from error
    network.requires_grad_(False)
    fingerprint = of_file or fingerprint_of_folder(path, network, tokenizer)
    return LoadedModel(network, tokenizer, find_blocks(network, path), chat_template(tokenizer), fingerprint)


def find_blocks(network: Any, path: Path) -> nn.ModuleList:
    """Return the list of transformer blocks. Raises ModelError when the model keeps it nowhere known."""
    blocks = getattr(getattr(network, "model", None), "layers", None)
    if not isinstance(blocks, nn.ModuleList):
        raise ModelError(
            "cannot find the transformer blocks",
            where=path,
            expected="a model with .model.layers",
            found=type(network).__name__,
            remedy="This architecture is not supported yet.",
        )
    return blocks


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
        architecture=config.model_type.removesuffix("_text"),
        n_blocks=config.num_hidden_layers,
        width=config.hidden_size,
        tokenizer_sha256=tokenizer_digest(len(tokens), lambda i: (tokens[i] or "").encode()),
        model_sha256=sha256_of_files(sorted(path.glob("*.safetensors")) or sorted(path.glob("*.bin"))),
        model_name=path.name,
    )
