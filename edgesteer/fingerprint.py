"""Fingerprint: which base model a sidecar belongs to, and how it is taken from a GGUF file.

The runtime takes the same fingerprint from a loaded model. This file knows no llama.cpp and no torch.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from gguf import GGUFReader

from edgesteer.errors import FingerprintError, ModelError
from edgesteer.gguf_file import metadata_value, open_gguf, shards_of

TOKEN_SAMPLES = 2048
"""Token texts that the tokenizer's digest looks at: few enough to ask llama.cpp for at every start."""

COMPARED_FIELDS = ("architecture", "n_blocks", "width", "tokenizer_sha256")
"""What a sidecar and a model must share. A sidecar also fits other quantizations of its model."""

READ_SIZE = 1 << 20

T = TypeVar("T")


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a base model."""

    architecture: str
    """As llama.cpp names it: general.architecture."""
    n_blocks: int
    width: int
    """Of the residual stream."""
    tokenizer_sha256: str
    """See tokenizer_digest."""
    model_sha256: str
    """Of the file or files that the model was read from; empty when unknown."""
    model_name: str

    def mismatch(self, loaded: Fingerprint) -> list[tuple[str, object, object]]:
        """Return (field, this one's value, the loaded model's value) for each field that sets them apart."""
        pairs = [(name, getattr(self, name), getattr(loaded, name)) for name in COMPARED_FIELDS]
        return [(name, ours, theirs) for name, ours, theirs in pairs if ours != theirs]


def check(
    sidecar: Fingerprint,
    loaded: Fingerprint,
    path: str | os.PathLike[str],
    *,
    what: str = "sidecar belongs to another model",
    remedy: str = "Load that model, or run `edgesteer export` for this one.",
) -> None:
    """Raise FingerprintError, with both sides, unless the sidecar at `path` belongs to the loaded model."""
    differences = sidecar.mismatch(loaded)
    if not differences:
        return
    raise FingerprintError(
        what,
        where=path,
        expected=_described(sidecar, {field: ours for field, ours, _ in differences}),
        found=_described(loaded, {field: theirs for field, _, theirs in differences}),
        remedy=remedy,
    )


def _described(fingerprint: Fingerprint, values: dict[str, object]) -> str:
    details = ", ".join(f"{field} {str(value)[:16]}" for field, value in values.items())
    return f"{fingerprint.model_name} ({details})"


def tokenizer_digest(n_tokens: int, token_text: Callable[[int], bytes]) -> str:
    """Return the sha256 (hex) of the vocabulary's size and the texts of evenly spaced tokens.

    token_text: the text of a token id, as llama_vocab_get_text gives it
    """
    digest = hashlib.sha256(n_tokens.to_bytes(8, "little"))
    samples = min(n_tokens, TOKEN_SAMPLES)
    for sample in range(samples):
        text = token_text(sample * n_tokens // samples)
        digest.update(len(text).to_bytes(8, "little") + text)
    return digest.hexdigest()


def fingerprint_of_gguf(path: str | os.PathLike[str]) -> Fingerprint:
    """Read the fingerprint of a base model's GGUF, the sha256 of the whole file or of all its shards included.

    Raises ModelError when a file is missing, truncated, corrupt, or lacks what identifies a model.
    """
    remedy = "Download the model again."
    with open_gguf(path, ModelError, remedy) as reader:
        shards = shards_of(path, reader, ModelError, remedy)
        architecture = _required(reader, "general.architecture", str)
        return Fingerprint(
            architecture=architecture,
            n_blocks=_required(reader, f"{architecture}.block_count", int),
            width=_required(reader, f"{architecture}.embedding_length", int),
            tokenizer_sha256=_tokenizer_of(reader),
            model_sha256=sha256_of_file(path) if len(shards) == 1 else sha256_of_files(shards),
            model_name=metadata_value(reader, "general.name") or Path(path).stem,
        )


def _required(reader: GGUFReader, key: str, kind: type[T]) -> T:
    value = metadata_value(reader, key)
    if not isinstance(value, kind):
        raise ModelError("not a language model: key is missing or misused", expected=key, found=value)
    return value


def _tokenizer_of(reader: GGUFReader) -> str:
    field = reader.get_field("tokenizer.ggml.tokens")
    if field is None:
        raise ModelError("not a language model: key is missing", expected="tokenizer.ggml.tokens")

    def text(token: int) -> bytes:
        # As llama.cpp reads it: a C string, and an empty one is given a name.
        stored: bytes = field.parts[field.data[token]].tobytes().split(b"\0")[0]
        return stored or b"[EMPTY_%d]" % token

    return tokenizer_digest(len(field.data), text)


def sha256_of_file(path: str | os.PathLike[str]) -> str:
    """Return the sha256 (hex) of a file. Raises ModelError when it cannot be read."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(READ_SIZE):
                digest.update(chunk)
    except OSError as error:
        raise ModelError("file cannot be read", where=path, found=error.strerror) from error
    return digest.hexdigest()


def sha256_of_files(paths: list[Path]) -> str:
    """Return one sha256 (hex) of several files: that of sha256sum's list of them, sorted by name."""
    lines = [f"{sha256_of_file(path)}  {path.name}\n" for path in sorted(paths, key=lambda path: path.name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
