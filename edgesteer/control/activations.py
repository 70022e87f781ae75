"""Activations: the residual stream over some tokens of some texts, read one boundary at a time.

Where it lies, in memory or on a disk, is the business of the function that reads it: a whole model's stream over all
texts may be larger than the memory. Boundaries are numbered as in edgesteer/controller.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgesteer.controller import Array

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Activations:
    """N tokens of P texts; T+1 boundaries of width n."""

    read: Callable[[int], Array]
    """From a boundary to the stream there, (rows, n), of all tokens that were kept, selected or not."""
    boundaries: int
    """T+1"""
    row: NDArray[np.int64]
    """(N,) where `read` has each token."""
    text: NDArray[np.int64]
    """(N,) which text a token belongs to, ascending."""
    position: NDArray[np.int64]
    """(N,) the token's position in its sequence, prompt included."""

    @classmethod
    def of(cls, tokens: Array, text: NDArray[np.int64], position: NDArray[np.int64]) -> Activations:
        """Return those that an array holds. tokens: (N, T+1, n)."""
        return cls(lambda boundary: tokens[:, boundary], tokens.shape[1], np.arange(len(text)), text, position)

    def at(self, boundary: int) -> Array:
        """Return the stream at one boundary: (N, n)."""
        stream: Array = self.read(boundary)[self.row]
        return stream

    @property
    def tokens(self) -> Array:
        """The stream at all boundaries, in memory: (N, T+1, n)."""
        return np.stack([self.at(boundary) for boundary in range(self.boundaries)], axis=1)

    def pooled(self, pooling: str) -> Array:
        """Return one activation per text, (P, T+1, n): the mean over its tokens, or its last token."""
        starts = np.flatnonzero(np.diff(self.text, prepend=-1))
        ends = np.append(starts[1:], len(self.text))

        def of(stream: Array) -> Array:
            if pooling == "last":
                last: Array = stream[ends - 1]
                return last
            return np.stack([stream[a:b].mean(axis=0) for a, b in zip(starts, ends, strict=True)])

        return np.stack([of(self.at(boundary)) for boundary in range(self.boundaries)], axis=1)

    def select(self, texts: Mask) -> Activations:
        """Return the activations of some of the texts; texts: (P,) mask."""
        kept = self.where(texts[self.text])
        return Activations(self.read, self.boundaries, kept.row, (np.cumsum(texts) - 1)[kept.text], kept.position)

    def where(self, tokens: Mask) -> Activations:
        """Return some of the tokens; tokens: (N,) mask."""
        return Activations(
            self.read, self.boundaries, self.row[tokens], self.text[tokens], self.position[tokens]
        )
