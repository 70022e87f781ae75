"""What the attention of one token sees of the others: their keys and values, recorded once and then constant.

Knows the caches and the attention interface of transformers, and no derivatives.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from edgesteer.errors import ModelError
from edgesteer.export.architectures import ALTERNATIVE
from edgesteer.export.sweep import Arguments
from edgesteer.scratch import release, scratch_array

CACHE_NAMES = ("past_key_values", "layer_past")
"""What a block of transformers calls its cache of keys and values."""

ATTENTION_NAME = "edgesteer_one_token"
"""Of SeparatePast.attention among transformers' attention functions, while it is one of them."""


def cache_name(block: torch.nn.Module) -> str:
    """Return what a block calls its cache. Raises ModelError for one that takes none."""
    names = inspect.signature(block.forward).parameters
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise ModelError(f"{type(block).__name__} has no cache of keys and values", remedy=ALTERNATIVE)


class KeyValueTape:
    """Stands in for transformers' cache: keeps one block's keys and values, one sequence after another."""

    def __init__(self, length: int, on_disk: bool) -> None:
        """length: of all sequences together. on_disk: keep them in a memory-mapped file."""
        self._length = length
        self._on_disk = on_disk
        self._next = 0
        self._kept: list[NDArray[Any]] = []

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        parts = [part.transpose(1, 2).flatten(0, 1).numpy(force=True) for part in (keys, values)]  # (rows, heads, size)
        if not self._kept:
            self._kept = [
                scratch_array(self._length, *part.shape[1:], on_disk=self._on_disk, dtype=part.dtype) for part in parts
            ]
        rows = slice(self._next, self._next + len(parts[0]))
        for kept, part in zip(self._kept, parts, strict=True):
            kept[rows] = part
        self._next = rows.stop
        return keys, values

    def read(self, rows: slice) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the keys and the values of some tokens, counted over all sequences: (heads, length, size) each."""
        keys, values = (torch.tensor(kept[rows].swapaxes(0, 1)) for kept in self._kept)
        return keys, values

    def release(self) -> None:
        """Let go of the memory in which a mapped file was read or written."""
        for kept in self._kept:
            release(kept)


@dataclass(frozen=True)
class FrozenPast:
    """Stands in for transformers' cache: puts constant past keys and values in front of each token's own."""

    keys: torch.Tensor
    """(tokens, heads, length, size), as those of values."""
    values: torch.Tensor

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat((self.keys, keys), dim=-2), torch.cat((self.values, values), dim=-2)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Have the blocks that run in the body attend to this past."""
        yield


@dataclass(frozen=True)
class SeparatePast(FrozenPast):
    """The same for networks that let their attention be replaced: the past stays apart, so that derivatives by the
    tokens do not carry copies of it along, one for every direction and query head.
    """

    config: Any
    """The network's configuration, which names its attention."""

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return keys, values

    @contextmanager
    def attended(self) -> Iterator[None]:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        usual = self.config._attn_implementation
        ALL_ATTENTION_FUNCTIONS[ATTENTION_NAME] = self.attention
        self.config._attn_implementation = ATTENTION_NAME
        try:
            yield
        finally:
            self.config._attn_implementation = usual
            ALL_ATTENTION_FUNCTIONS.pop(ATTENTION_NAME)

    def attention(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        scaling: float | None = None,
        softcap: float | None = None,
        s_aux: torch.Tensor | None = None,
        **_options: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return what the tokens attend to, (tokens, 1, query heads, size), and no weights.

        query: (tokens, query heads, 1, size); keys, values: (tokens, heads, 1, size) of the tokens themselves;
        attention_mask: (tokens, 1, 1, length), added to the scores. Raises ModelError for attention sinks (s_aux).
        """
        if s_aux is not None:
            raise ModelError(f"{type(module).__name__} has attention sinks, which cannot be exported")
        queries = query.reshape(len(query), keys.shape[1], -1, query.shape[-1]) * (scaling or query.shape[-1] ** -0.5)
        past = by_head(queries, self.keys.mT)
        scores = torch.cat((past, (queries * keys).sum(-1, keepdim=True)), dim=-1)
        if softcap is not None:
            scores = torch.tanh(scores / softcap) * softcap
        if attention_mask is not None:
            scores = scores + attention_mask[..., : scores.shape[-1]]
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
        attended = by_head(weights[..., :-1], self.values) + weights[..., -1:] * values
        return attended.flatten(1, 2)[:, None], None


def by_head(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return left @ right of (tokens, heads, i, j) and (tokens, heads, j, k), where `right` is constant.

    At once, it would be copied for every direction of a derivative of `left`.
    """
    return torch.stack([a @ b for a, b in zip(left.unbind(1), right.unbind(1), strict=True)], dim=1)


def make_past(network: Any, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> FrozenPast:
    """Return the past of some tokens in a block; pairs: keys and values before each, (heads, length, size).

    Shorter ones are filled up at the front, where the tokens' attention masks must cover it.
    """
    longest = max(keys.shape[1] for keys, _ in pairs)
    keys, values = (
        torch.stack([nn.functional.pad(part, (0, 0, longest - part.shape[1], 0)) for part in parts])
        for parts in zip(*pairs, strict=True)
    )
    return SeparatePast(keys, values, network.base_model.config) if can_separate(network) else FrozenPast(keys, values)


def can_separate(network: Any) -> bool:
    """True for a network whose attention can be replaced and gets nothing of a sequence but a mask and positions."""
    return bool(network._supports_attention_backend)


def last_token_arguments(sequences: Sequence[Arguments]) -> Arguments:
    """Return a block's arguments for the last tokens of several sequences, from those for the whole sequences."""
    cut = [{name: at_last_token(name, value) for name, value in arguments.items()} for arguments in sequences]
    return {name: together(name, [arguments[name] for arguments in cut]) for name in cut[0]}


def at_last_token(name: str, value: Any) -> Any:
    """Cut an argument of a block from a whole sequence to its last token."""
    if name == "position_embeddings":
        return tuple(part[:, -1:] for part in value)  # cos and sin: (1, length, head)
    if name == "attention_mask" and value is not None:
        return value[..., -1:, :]  # (1, 1, length, length)
    if name in ("position_ids", "cache_position"):
        return value[..., -1:]
    return value


def together(name: str, values: list[Any]) -> Any:
    """Return one argument for several tokens; masks of shorter sequences cover the front."""
    if len(values) == 1 or values[0] is None:
        return values[0]
    if name == "position_embeddings":
        return tuple(torch.cat(parts) for parts in zip(*values, strict=True))
    if name == "attention_mask":
        longest, least = max(each.shape[-1] for each in values), torch.finfo(values[0].dtype).min
        return torch.cat([nn.functional.pad(each, (longest - each.shape[-1], 0), value=least) for each in values])
    return torch.cat(values) if name == "position_ids" else values[0]
