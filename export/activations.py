"""The residual stream of the PyTorch model over some rows of some texts, at every boundary.

Boundaries are numbered as in edgesteer/controller.py: 0 is the embedding, b+1 the output of block b.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from edgesteer.control.activations import Activations
from edgesteer.control.uncertainty import entropy
from edgesteer.controller import Array
from edgesteer.export.sweep import Sweep, embedded, logits_of
from edgesteer.export.weights import LoadedModel, TokenizedText
from edgesteer.export.workers import ALONE, Workers
from edgesteer.scratch import release, scratch_array
from edgesteer.tokens import completion_rows


def residual_stream(model: LoadedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return the residual stream of one sequence at all boundaries: (n_blocks+1, length, width)."""
    sweep = Sweep(model, [tokens])
    boundaries = [sweep[0]]
    for _ in range(model.n_blocks):
        sweep.advance()
        boundaries.append(sweep[0])
    return torch.stack(boundaries).cpu()


def collect_activations(
    model: LoadedModel,
    texts: Sequence[TokenizedText],
    progress: Callable[[], None] = lambda: None,
    rows: Callable[[TokenizedText], slice] = completion_rows,
    workers: Workers = ALONE,
) -> Activations:
    """Run every text once and keep the residual stream over its completion, or over other rows of it.

    It lies on the disk when the model streams. progress is called once a text and block.
    """
    kept = [rows(text) for text in texts]
    position = [np.arange(len(text.tokens), dtype=np.int64)[each] for text, each in zip(texts, kept, strict=True)]
    lengths = [len(each) for each in position]
    shape = (model.n_blocks + 1, sum(lengths), model.width)
    stream = scratch_array(*shape, on_disk=model.streamed is not None, dtype=model.dtype)
    own = workers.share(len(texts))
    sweep = Sweep(model, [texts[index].tokens for index in own])

    def keep() -> None:
        parts = workers.gather("activations", len(texts), lambda i: sweep[own.index(i)][kept[i]].numpy(force=True))
        np.concatenate(parts, out=stream[sweep.boundary])
        release(stream)

    keep()
    advance = workers.pace(len(texts), progress)
    for _ in range(model.n_blocks):
        sweep.advance(advance)
        keep()

    def read(boundary: int) -> Array:
        release(stream)
        rows: Array = stream[boundary]
        return rows

    return Activations(
        read, len(stream), np.arange(sum(lengths)), np.repeat(np.arange(len(texts)), lengths), np.concatenate(position)
    )


@torch.no_grad()
def next_token_entropies(
    model: LoadedModel, texts: Sequence[TokenizedText], activations: Activations
) -> NDArray[np.float64]:
    """Return the entropy of the next token after each of some texts' tokens, in nats: (N,), as the activations are."""
    packed = embedded(model, texts[0].tokens)[2]
    last = torch.from_numpy(activations.at(model.n_blocks)).to(model.device)
    starts = np.flatnonzero(np.diff(activations.text)) + 1
    with model.head():  # text by text, for the logits of all would be large
        parts = [entropy(logits_of(model, x, packed).numpy()) for x in torch.tensor_split(last, starts.tolist())]
    return np.concatenate(parts).astype(np.float64)
