"""Layer Jacobians of the last token: A_t = d x_{t+1} / d x_t at one token, all other tokens held fixed.

The keys and values of the other tokens are constants in A_t, so only one token goes through a block: a factor of the
sequence length is saved over differentiating the whole sequence, and nothing is approximated.
Source: Skifstad, Yang, Chou, arXiv 2604.19018, section on the local linearization.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import jacfwd

from edgesteer.export.weights import LoadedModel

BlockFunction = Callable[[torch.Tensor], torch.Tensor]


@dataclass
class KeyValueTape:
    """Stands in for transformers' cache: records every block's keys and values of a whole-sequence pass."""

    keys: dict[int, torch.Tensor] = field(default_factory=dict)
    values: dict[int, torch.Tensor] = field(default_factory=dict)

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self.keys[layer], self.values[layer] = keys, values
        return keys, values


@dataclass(frozen=True)
class FrozenPast:
    """Stands in for transformers' cache: puts constant past keys and values in front of the one token's own."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, _layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat((self.keys, keys), dim=-2), torch.cat((self.values, values), dim=-2)


@torch.no_grad()
def one_token_blocks(model: LoadedModel, tokens: torch.Tensor) -> tuple[list[BlockFunction], torch.Tensor]:
    """Return each block as a function of the last token alone, and that token's residual stream.

    tokens: (length,). Returns T functions (width,) -> (width,) and a tensor (T, width): the input of each block.
    """
    tape = KeyValueTape()
    calls: list[tuple[torch.Tensor, dict[str, Any]]] = []

    def record(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        calls.append((args[0], kwargs))
        return args, {**kwargs, "past_key_values": tape}

    handles = [block.register_forward_pre_hook(record, with_kwargs=True) for block in model.blocks]
    try:
        model.network(input_ids=tokens[None], use_cache=False, logits_to_keep=1)
    finally:
        for handle in handles:
            handle.remove()
    functions = []
    for index, (block, (_, kwargs)) in enumerate(zip(model.blocks, calls, strict=True)):
        past = FrozenPast(tape.keys[index][..., :-1, :], tape.values[index][..., :-1, :])
        functions.append(_as_function(block, {**last_token_arguments(kwargs), "past_key_values": past}))
    return functions, torch.stack([x[0, -1] for x, _ in calls])


def last_token_arguments(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Cut a block's keyword arguments from the whole sequence to its last token."""

    def cut(name: str, value: Any) -> Any:
        if name == "position_embeddings":
            return tuple(part[:, -1:] for part in value)  # cos and sin: (1, length, head)
        if name == "attention_mask" and value is not None:
            return value[..., -1:, :]  # (1, 1, length, length)
        if name in ("position_ids", "cache_position"):
            return value[..., -1:]
        return value

    return {name: cut(name, value) for name, value in kwargs.items()}


def _as_function(block: torch.nn.Module, kwargs: dict[str, Any]) -> BlockFunction:
    def run(x: torch.Tensor) -> torch.Tensor:
        output = block(x[None, None], **kwargs)
        result: torch.Tensor = (output[0] if isinstance(output, tuple) else output)[0, 0]
        return result

    return run


def last_token_jacobians(model: LoadedModel, tokens: torch.Tensor) -> torch.Tensor:
    """Return A_t of every block at the last token of one sequence: (T, width, width), row = output coordinate."""
    functions, inputs = one_token_blocks(model, tokens)
    with torch.no_grad():
        return torch.stack([jacfwd(run)(x) for run, x in zip(functions, inputs, strict=True)])


def mean_jacobians(
    model: LoadedModel, sequences: Sequence[torch.Tensor], progress: Callable[[], None] = lambda: None
) -> NDArray[np.float32]:
    """Return the Jacobians averaged over the last tokens of several sequences: (T, width, width).

    Raises ValueError without sequences.
    """
    if not sequences:
        raise ValueError("the mean Jacobian needs at least one sequence")
    total = torch.zeros(model.n_blocks, model.width, model.width)
    for tokens in sequences:
        total += last_token_jacobians(model, tokens)
        progress()
    mean: NDArray[np.float32] = (total / len(sequences)).numpy()
    return mean
