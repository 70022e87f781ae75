"""LlamaModel: a GGUF loaded by llama.cpp, with vocabulary, chat template and fingerprint. No context, no steering."""

from __future__ import annotations

import ctypes
import logging
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import llama_cpp

from edgesteer.chat import ChatTemplate
from edgesteer.errors import EngineError, ModelError
from edgesteer.fingerprint import Fingerprint, tokenizer_digest
from edgesteer.runtime.placement import place

logger = logging.getLogger(__name__)
_recent_log: deque[str] = deque(maxlen=8)
_records: list[list[str]] = []
_ERROR_LEVEL = 3


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _log(level: int, text: bytes, _user_data: Any) -> None:
    """Send llama.cpp's messages to logging, and keep its last errors for our own messages."""
    line = text.decode("utf-8", "replace").strip()
    if level == _ERROR_LEVEL and line:
        _recent_log.append(line)
    for record in _records:
        record.append(line)
    logger.debug(line)


class LlamaModel:
    """A model's weights. Use as a context manager, or call close().

    path: GGUF file. n_gpu_layers: blocks to offload (llama.cpp's meaning; -1 = all). rpc: HOST:PORT of servers of
    llama.cpp's RPC backend, whose devices come before this machine's. device: names of the devices to use, in this
    order; () = all. tensor_split: each device's share of the offloaded blocks; () = by their free memory.
    Raises ModelError when the file is missing or llama.cpp cannot load it, EngineError for devices that cannot be used.
    """

    def __init__(
        self,
        path: Path,
        *,
        n_gpu_layers: int = 0,
        rpc: Sequence[str] = (),
        device: Sequence[str] = (),
        tensor_split: Sequence[float] = (),
    ) -> None:
        if not path.is_file():
            raise ModelError("no such model file", where=path, remedy="`edgesteer models list` shows known models.")
        llama_cpp.llama_log_set(_log, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()
        parameters = llama_cpp.llama_model_default_params()
        self._kept = place(parameters, n_gpu_layers=n_gpu_layers, rpc=rpc, device=device, tensor_split=tensor_split)
        _recent_log.clear()
        handle = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        if not handle:
            raise ModelError(
                "llama.cpp cannot load this model",
                where=path,
                found=last_log_line(),
                remedy="Check that the file is a complete GGUF of a supported architecture.",
            )
        self.path = path
        self.handle: Any = handle
        if llama_cpp.llama_model_has_encoder(handle):  # the decoder works on what it makes of a prompt
            architecture = self.metadata("general.architecture")
            self.close()
            raise ModelError(
                f"{architecture} has an encoder, which cannot be steered",
                where=path,
                remedy="Use a model that only has a decoder, such as Llama, Qwen or Gemma.",
            )
        self.vocabulary: Any = llama_cpp.llama_model_get_vocab(handle)
        self.n_blocks = int(llama_cpp.llama_model_n_layer(handle))
        self.width = int(llama_cpp.llama_model_n_embd(handle))
        self.n_tokens = int(llama_cpp.llama_vocab_n_tokens(self.vocabulary))
        self.chat = self._chat_template()
        self.fingerprint = self._fingerprint()

    def close(self) -> None:
        """Free the weights. Contexts made from this model must be closed before."""
        if self.handle:
            llama_cpp.llama_model_free(self.handle)
            self.handle = None

    def __enter__(self) -> LlamaModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def tokenize(self, text: str, *, add_special: bool = True) -> list[int]:
        """Return the token ids of a text; special tokens in it are parsed, BOS is added if the model wants one."""
        data = text.encode()
        size = len(data) + 8
        for _ in range(2):
            buffer = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(self.vocabulary, data, len(data), buffer, size, add_special, True)
            if count >= 0:
                return list(buffer[:count])
            size = -count
        raise ModelError("llama.cpp cannot tokenize this text", where=self.path, found=repr(text[:40]))

    def check_tokens(self, tokens: Sequence[int]) -> None:
        """Raise EngineError when one of the tokens is not among the model's."""
        wrong = [token for token in tokens if not 0 <= token < self.n_tokens]
        if wrong:
            raise EngineError("the model has no such token", expected=f"0 to {self.n_tokens - 1}", found=wrong[0])

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of one token; control tokens give b"", or their names where special."""
        size = 64
        for _ in range(2):
            buffer = ctypes.create_string_buffer(size)
            count = llama_cpp.llama_token_to_piece(self.vocabulary, token, buffer, size, 0, special)
            if count >= 0:
                return buffer.raw[:count]
            size = -count
        raise ModelError("llama.cpp cannot spell this token", where=self.path, found=token)

    @property
    def n_parameters(self) -> int:
        return int(llama_cpp.llama_model_n_params(self.handle))

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors as the file stores them."""
        return int(llama_cpp.llama_model_size(self.handle))

    @property
    def is_recurrent(self) -> bool:
        """Whether some or all blocks keep one state in place of keys and values."""
        handle = self.handle
        return bool(llama_cpp.llama_model_is_recurrent(handle) or llama_cpp.llama_model_is_hybrid(handle))

    def ends_generation(self, token: int) -> bool:
        return bool(llama_cpp.llama_vocab_is_eog(self.vocabulary, token))

    def metadata(self, key: str) -> str:
        """Return a metadata value of the GGUF as text, or "" when it has none."""
        buffer = ctypes.create_string_buffer(512)
        found = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if found >= 0 else ""

    def _chat_template(self) -> ChatTemplate:
        source = llama_cpp.llama_model_chat_template(self.handle, None)
        return ChatTemplate(
            source=source.decode() if source else None,
            bos=self._token_text(llama_cpp.llama_vocab_bos(self.vocabulary)).decode("utf-8", "replace"),
            eos=self._token_text(llama_cpp.llama_vocab_eos(self.vocabulary)).decode("utf-8", "replace"),
            adds_bos=bool(llama_cpp.llama_vocab_get_add_bos(self.vocabulary)),
        )

    def _fingerprint(self) -> Fingerprint:
        return Fingerprint(
            architecture=self.metadata("general.architecture"),
            n_blocks=self.n_blocks,
            width=self.width,
            tokenizer_sha256=tokenizer_digest(self.n_tokens, self._token_text),
            model_sha256="",  # hashing gigabytes at every start would cost more than the first tokens
            model_name=self.metadata("general.name"),
        )

    def _token_text(self, token: int) -> bytes:
        return llama_cpp.llama_vocab_get_text(self.vocabulary, token) or b"" if token >= 0 else b""


@contextmanager
def recorded_log() -> Iterator[list[str]]:
    """Give a list to which llama.cpp's log lines of all levels are added for the time of the body."""
    record: list[str] = []
    _records.append(record)
    try:
        yield record
    finally:
        _records[:] = [each for each in _records if each is not record]


def last_log_line() -> str:
    """Return llama.cpp's last error message."""
    return _recent_log[-1] if _recent_log else "no message from llama.cpp"
