"""The residual stream of the PyTorch model: read it at every boundary, and sum it up into class statistics.

Boundaries are numbered as in edgesteer/controller.py: 0 is the embedding, b+1 the output of block b.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edgesteer.export.weights import LoadedModel, TokenizedText

BoundaryVisitor = Callable[[int, torch.Tensor], torch.Tensor | None]


@contextmanager
def visiting_boundaries(model: LoadedModel, visit: BoundaryVisitor) -> Iterator[None]:
    """Call visit(boundary, x) at every boundary of each forward pass inside the context.

    x: (batch, length, width). A tensor that visit returns takes the place of x in the rest of the pass.
    """

    def at_input(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        replacement = visit(0, args[0])
        return None if replacement is None else (replacement, *args[1:])

    def at_output(boundary: int) -> Callable[..., Any]:
        def hook(_module: Any, _args: Any, output: Any) -> Any:
            x = output[0] if isinstance(output, tuple) else output
            replacement = visit(boundary, x)
            if replacement is None:
                return None
            return (replacement, *output[1:]) if isinstance(output, tuple) else replacement

        return hook

    handles = [model.blocks[0].register_forward_pre_hook(at_input)]
    handles += [b.register_forward_hook(at_output(i + 1)) for i, b in enumerate(model.blocks)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def residual_stream(model: LoadedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return the residual stream of one sequence at all boundaries: (n_blocks+1, length, width)."""
    boundaries: list[torch.Tensor] = []

    def keep(_boundary: int, x: torch.Tensor) -> None:
        boundaries.append(x[0].clone())

    with visiting_boundaries(model, keep):
        model.network(input_ids=tokens[None], use_cache=False, logits_to_keep=1)
    return torch.stack(boundaries)


@dataclass(frozen=True)
class Activations:
    """The residual stream over the completions of P texts with N tokens in all; T+1 boundaries, width n."""

    tokens: NDArray[np.float32]
    """(N, T+1, n)"""
    text: NDArray[np.int64]
    """(N,) which text a token belongs to, ascending."""
    position: NDArray[np.int64]
    """(N,) the token's position in its sequence, prompt included."""

    def pooled(self, pooling: str) -> NDArray[np.float32]:
        """Return one activation per text, (P, T+1, n): the mean over its tokens, or its last token."""
        starts = np.flatnonzero(np.diff(self.text, prepend=-1))
        ends = np.append(starts[1:], len(self.text))
        if pooling == "last":
            last: NDArray[np.float32] = self.tokens[ends - 1]
            return last
        return np.stack([self.tokens[a:b].mean(axis=0) for a, b in zip(starts, ends, strict=True)])

    def select(self, texts: NDArray[np.bool_]) -> Activations:
        """Return the activations of some of the texts; texts: (P,) mask."""
        kept = self.where(texts[self.text])
        return Activations(kept.tokens, (np.cumsum(texts) - 1)[kept.text], kept.position)

    def where(self, tokens: NDArray[np.bool_]) -> Activations:
        """Return some of the tokens; tokens: (N,) mask."""
        return Activations(self.tokens[tokens], self.text[tokens], self.position[tokens])


def completion_rows(text: TokenizedText) -> slice:
    return slice(text.completion_start, len(text.tokens))


def collect_activations(
    model: LoadedModel,
    texts: Sequence[TokenizedText],
    progress: Callable[[], None] = lambda: None,
    rows: Callable[[TokenizedText], slice] = completion_rows,
) -> Activations:
    """Run every text once and keep the residual stream over its completion, or over other rows of it."""
    tokens, text, position = [], [], []
    for index, item in enumerate(texts):
        kept = rows(item)
        stream = residual_stream(model, item.tokens)[:, kept]  # (T+1, length, n)
        tokens.append(stream.transpose(0, 1).contiguous().numpy())
        text.append(np.full(stream.shape[1], index, dtype=np.int64))
        position.append(np.arange(len(item.tokens), dtype=np.int64)[kept])
        progress()
    return Activations(np.concatenate(tokens), np.concatenate(text), np.concatenate(position))
