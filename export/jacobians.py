"""Layer Jacobians of the last token: A_t = d x_{t+1} / d x_t at one token, all other tokens held fixed.

The keys and values of the other tokens are constants in A_t, so only one token goes through a block: a factor of the
sequence length is saved over differentiating the whole sequence, and nothing is approximated.
Source: Skifstad, Yang, Chou, arXiv 2604.19018, section on the local linearization.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import jacfwd, vjp, vmap

from edgesteer.errors import ModelError
from edgesteer.export.architectures import ALTERNATIVE
from edgesteer.export.sweep import Arguments, Sweep, run_block
from edgesteer.export.weights import LoadedModel
from edgesteer.export.workers import ALONE, Workers
from edgesteer.scratch import release, scratch_array

BlockFunction = Callable[[torch.Tensor], torch.Tensor]

PRECISIONS = ("float32", "bfloat16")

CACHE_NAMES = ("past_key_values", "layer_past")
"""What a block of transformers calls its cache of keys and values."""

LARGEST_DEVIATION = 1e-2
"""Of a block's output at one token alone from the same in the whole sequence, relative; rounding is far below."""


class Recorded(Exception):
    """A block has told its keys and values; the rest of it need not run."""


class KeyValueTape:
    """Stands in for transformers' cache: records one block's keys and values over a whole sequence, and stops it."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(self, keys: torch.Tensor, values: torch.Tensor, *_args: Any, **_kwargs: Any) -> None:
        self.keys, self.values = keys, values
        raise Recorded


@dataclass(frozen=True)
class FrozenPast:
    """Stands in for transformers' cache: puts constant past keys and values in front of the one token's own."""

    keys: torch.Tensor
    values: torch.Tensor

    def update(
        self, keys: torch.Tensor, values: torch.Tensor, _layer: int, *_args: Any, **_kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.cat((self.keys, keys), dim=-2), torch.cat((self.values, values), dim=-2)


class LinearizationPoints:
    """The residual stream of several sequences at every block's input, where the block is linearized at the last token.

    Raises ModelError when the blocks remember more of the other tokens than keys and values.
    """

    def __init__(
        self,
        model: LoadedModel,
        sequences: Sequence[torch.Tensor],
        workers: Workers = ALONE,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """sequences: (length,) token ids each. progress is called once a block and sequence of this process.

        Raises ValueError without sequences.
        """
        if not sequences:
            raise ValueError("linearizing needs at least one prompt")
        self.model = model
        self.count = len(sequences)
        self._workers = workers
        self._own = range(workers.rank, len(sequences), workers.size)
        self._sweep = Sweep(model, [sequences[index] for index in self._own])
        shape = (model.n_blocks + 1, *self._sweep.stream.shape)
        self._streams = scratch_array(*shape, on_disk=model.streamed is not None, dtype=model.dtype)
        self._streams[0] = self._sweep.stream
        for boundary in range(1, len(self._streams)):
            self._sweep.advance(progress)
            self._streams[boundary] = self._sweep.stream
            release(self._streams)

    def mean(
        self,
        name: str,
        number: int,
        part: Callable[[BlockFunction, torch.Tensor], torch.Tensor],
        progress: Callable[[], None] = lambda: None,
    ) -> torch.Tensor:
        """Return the mean over all sequences, of all processes, of what `part` makes of one block's function and input.

        In float64 on the CPU. name: letters and -; together with the block's number it stands for one mean of an
        export. progress is called once a sequence.
        """

        def of(index: int) -> torch.Tensor:
            return part(*self.function(self._own.index(index), number))

        with self.model.block(number):
            mean = self._workers.mean(f"{name}-{number}", self.count, of, progress)
        release(self._streams)
        return mean

    def stream(self, index: int, boundary: int) -> torch.Tensor:
        """Return the residual stream of one of this process's sequences at a boundary: (length, width)."""
        return torch.tensor(self._streams[boundary][self._sweep.rows(index)], device=self.model.device)

    @torch.no_grad()
    def function(self, index: int, number: int) -> tuple[BlockFunction, torch.Tensor]:
        """Return a block as a function (width,) -> (width,) of the last token of one of this process's sequences, and
        that token's input.

        Only to be called where the block has its weights: inside model.block(number).
        """
        block, arguments = self.model.blocks[number], self._sweep.arguments[index][number]
        x = self.stream(index, number)
        tape = KeyValueTape()
        with suppress(Recorded):
            run_block(block, x, {**arguments, cache_name(block): tape})
        past = FrozenPast(tape.keys[..., :-1, :], tape.values[..., :-1, :])
        run = _as_function(block, {**last_token_arguments(arguments), cache_name(block): past})
        if index == 0:
            check_one_token(block, number, run(x[-1]), self.stream(index, number + 1)[-1])
        return run, x[-1]


def one_token_blocks(model: LoadedModel, tokens: torch.Tensor) -> tuple[list[BlockFunction], torch.Tensor]:
    """Return each block of a model in memory as a function of the last token alone, and that token's residual stream.

    tokens: (length,). Returns T functions (width,) -> (width,) and a tensor (T, width): the input of each block.
    """
    points = LinearizationPoints(model, [tokens])
    functions, inputs = zip(*(points.function(0, number) for number in range(model.n_blocks)), strict=True)
    return list(functions), torch.stack(inputs)


def cache_name(block: torch.nn.Module) -> str:
    """Return what a block calls its cache. Raises ModelError for one that takes none."""
    names = inspect.signature(block.forward).parameters
    for name in CACHE_NAMES:
        if name in names:
            return name
    raise ModelError(f"{type(block).__name__} has no cache of keys and values", remedy=ALTERNATIVE)


def check_one_token(block: torch.nn.Module, number: int, output: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise ModelError unless a block gives the same, (width,), for the last token alone as in the whole sequence."""
    deviation = float(torch.linalg.norm(output - expected) / torch.linalg.norm(expected))
    if not deviation < LARGEST_DEVIATION:
        raise ModelError(
            f"{type(block).__name__} cannot be run on one token alone",
            where=f"block {number}",
            expected="what it computes in the whole sequence",
            found=f"a relative difference of {deviation:.1g}",
            remedy=ALTERNATIVE,
        )


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


def _as_function(block: torch.nn.Module, arguments: Arguments) -> BlockFunction:
    def run(x: torch.Tensor) -> torch.Tensor:
        return run_block(block, x[None], arguments)[0]

    return run


def mean_jacobians(
    model: LoadedModel,
    sequences: Sequence[torch.Tensor],
    progress: Callable[[], None] = lambda: None,
    workers: Workers = ALONE,
) -> NDArray[np.float32]:
    """Return A_t of every block, averaged over the last tokens of several sequences: (T, width, width).

    A row is an output coordinate. progress is called once a sequence and block. Raises ValueError without sequences.
    """
    return jacobians_at(LinearizationPoints(model, sequences, workers), progress)


def jacobians_at(
    points: LinearizationPoints, progress: Callable[[], None] = lambda: None, *, precision: str = "float32"
) -> NDArray[np.float32]:
    """The same at some points; precision: one of PRECISIONS, of the products."""
    model = points.model
    mean = np.empty((model.n_blocks, model.width, model.width), dtype=np.float32)

    @torch.no_grad()
    def jacobian(run: BlockFunction, x: torch.Tensor) -> torch.Tensor:
        with products_in(precision, x.device):
            result: torch.Tensor = jacfwd(run)(x)
            return result

    for number in range(model.n_blocks):
        mean[number] = points.mean("jacobian", number, jacobian, progress)
    return mean


def sensitivities_at(
    points: LinearizationPoints,
    probes: NDArray[np.float64],
    progress: Callable[[], None] = lambda: None,
    *,
    precision: str = "float32",
) -> NDArray[np.float64]:
    """Return a_s[t]' = w_s' A_{s-1} ... A_t, the derivative of each boundary's reading by the stream at each boundary.

    Averaged over the points block by block, as mean_jacobians is, and equal to edgesteer.control.bound.sensitivities of
    its result, but no A_t is formed: one vector-Jacobian product a reading, block and sequence, the last block first.

    probes: (T+1, n), w_s. Returns (T+1, T+1, n), indexed [s, t]; 0 where t > s. progress: as of mean_jacobians.
    """
    n_blocks = points.model.n_blocks
    rows = np.zeros((n_blocks + 1, *probes.shape))
    rows[np.arange(n_blocks + 1), np.arange(n_blocks + 1)] = probes
    for number in reversed(range(n_blocks)):
        after = torch.from_numpy(rows[number + 1 :, number + 1])

        def pulled_back(run: BlockFunction, x: torch.Tensor, after: torch.Tensor = after) -> torch.Tensor:
            with products_in(precision, x.device):
                pull = vjp(run, x)[1]
                pulled: torch.Tensor = vmap(pull)(after.to(x))[0]
            return pulled

        rows[number + 1 :, number] = points.mean("products", number, pulled_back, progress)
    return rows


def products_in(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which matrices are multiplied in a precision; what is summed up over them is not."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
