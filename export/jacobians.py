"""Layer Jacobians of the last token: A_t = d x_{t+1} / d x_t at one token, all other tokens held fixed.

The keys and values of the other tokens are constants in A_t, so only one token goes through a block: a factor of the
sequence length is saved over differentiating the whole sequence, and nothing is approximated.
Source: Skifstad, Yang, Chou, arXiv 2604.19018, section on the local linearization.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import vjp, vmap

from edgesteer.errors import ModelError
from edgesteer.export.architectures import ALTERNATIVE
from edgesteer.export.block_jacobian import BlockFunction, block_jacobian
from edgesteer.export.past import KeyValueTape, cache_name, can_separate, last_token_arguments, make_past
from edgesteer.export.sweep import Sweep, run_block
from edgesteer.export.weights import LoadedModel
from edgesteer.export.workers import ALONE, Workers

PRECISIONS = ("float32", "bfloat16")

TOGETHER = 16
"""Prompts whose products with one block are taken at once: then reading its weights takes no time worth mentioning."""

LARGEST_DEVIATION = 1e-2
"""Of a block's output at one token alone from the same in the whole sequence, relative; rounding is far below."""


class LinearizationPoints:
    """The last tokens of several sequences at every block's input, where it is linearized, and what they attend to."""

    def __init__(
        self,
        model: LoadedModel,
        sequences: Sequence[torch.Tensor],
        workers: Workers = ALONE,
        progress: Callable[[], None] = lambda: None,
    ) -> None:
        """sequences: (length,) token ids each. progress is called once a block and sequence.

        Raises ValueError without sequences, ModelError when a block has no keys and values.
        """
        if not sequences:
            raise ValueError("linearizing needs at least one prompt")
        self.model = model
        self.count = len(sequences)
        self._workers = workers
        self._own = workers.share(len(sequences))
        self._sweep = sweep = Sweep(model, [sequences[index] for index in self._own])
        self._tapes = [KeyValueTape(len(sweep.stream), model.streamed is not None) for _ in model.blocks]
        self._inputs = np.empty((model.n_blocks + 1, len(self._own), model.width), model.dtype)
        self._inputs[0] = self._last_tokens()
        advance = workers.pace(len(sequences), progress)
        for number, (block, tape) in enumerate(zip(model.blocks, self._tapes, strict=True)):
            with argument(sweep, number, cache_name(block), tape):
                sweep.advance(advance)
            tape.release()
            self._inputs[number + 1] = self._last_tokens()

    def _last_tokens(self) -> NDArray[Any]:
        return self._sweep.stream[[self._sweep.rows(index).stop - 1 for index in range(len(self._own))]]

    def mean(
        self,
        name: str,
        number: int,
        part: Callable[[BlockFunction, torch.Tensor], torch.Tensor],
        progress: Callable[[], None] = lambda: None,
        *,
        together: int = 1,
    ) -> torch.Tensor:
        """Return the mean over all sequences, of all processes, of what `part` makes of a block's function and inputs.

        In float64 on the CPU. name: letters and -; together with the block's number it stands for one mean of an
        export. part gets a function (count, width) -> (count, width) of the last tokens of some sequences, each on its
        own, and those tokens; it returns (count, ...). together: most sequences at once, where the network allows it.
        progress is called once a sequence.
        """
        step = together if can_separate(self.model.network) else 1
        ready: dict[int, torch.Tensor] = {}

        def of(index: int) -> torch.Tensor:
            place = self._own.index(index)
            if place not in ready:
                places = range(place - place % step, len(self._own))[:step]
                ready.update(zip(places, part(*self.function(places, number)), strict=True))
            return ready.pop(place)

        with self.model.block(number):
            mean = self._workers.mean(f"{name}-{number}", self.count, of, progress)
        self._tapes[number].release()
        return mean

    def inputs(self, places: Sequence[int], boundary: int) -> torch.Tensor:
        """Return the residual stream of the last tokens of some of this process's sequences: (count, width)."""
        return torch.tensor(self._inputs[boundary, places], device=self.model.device)

    @torch.no_grad()
    def function(self, places: Sequence[int], number: int) -> tuple[BlockFunction, torch.Tensor]:
        """Return a block as a function (count, width) -> (count, width) of the last tokens of some of this process's
        sequences, each on its own, and those tokens.

        Only to be called where the block has its weights: inside model.block(number). Raises ModelError when the block
        remembers more of the other tokens than keys and values.
        """
        block, device = self.model.blocks[number], self.model.device
        rows = [self._sweep.rows(place) for place in places]
        read = (self._tapes[number].read(slice(each.start, each.stop - 1)) for each in rows)
        past = make_past(self.model.network, [(keys.to(device), values.to(device)) for keys, values in read])
        arguments = last_token_arguments([self._sweep.arguments[place][number] for place in places])
        arguments[cache_name(block)] = past

        def run(x: torch.Tensor) -> torch.Tensor:
            with past.attended():
                return run_block(block, x[:, None], arguments)[:, 0]

        x = self.inputs(places, number)
        if places[0] == 0:
            check_one_token(block, number, run(x), self.inputs(places, number + 1))
        return run, x


@contextmanager
def argument(sweep: Sweep, number: int, name: str, value: object) -> Iterator[None]:
    """Have a block get one more argument, the same for all sequences of a sweep, in the body."""
    for arguments in sweep.arguments:
        arguments[number][name] = value
    yield
    for arguments in sweep.arguments:
        del arguments[number][name]


def one_token_blocks(model: LoadedModel, tokens: torch.Tensor) -> tuple[list[BlockFunction], torch.Tensor]:
    """Return each block of a model in memory as a function of the last token alone, and that token's residual stream.

    tokens: (length,). Returns T functions (width,) -> (width,) and a tensor (T, width): the input of each block.
    """
    points = LinearizationPoints(model, [tokens])
    functions, inputs = zip(*(points.function([0], number) for number in range(model.n_blocks)), strict=True)
    return [alone(run) for run in functions], torch.cat(inputs)


def alone(run: BlockFunction) -> BlockFunction:
    """Return a function of one token, (width,) -> (width,), from one of a single row."""
    return lambda x: run(x[None])[0]


def check_one_token(block: torch.nn.Module, number: int, output: torch.Tensor, expected: torch.Tensor) -> None:
    """Raise ModelError unless a block gives the same, (count, width), for tokens alone as in their whole sequences."""
    deviation = float(torch.linalg.norm(output - expected) / torch.linalg.norm(expected))
    if not deviation < LARGEST_DEVIATION:
        raise ModelError(
            f"{type(block).__name__} cannot be run on one token alone",
            where=f"block {number}",
            expected="what it computes in the whole sequence",
            found=f"a relative difference of {deviation:.1g}",
            remedy=ALTERNATIVE,
        )


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

    for number, block in enumerate(model.blocks):

        @torch.no_grad()
        def jacobian(run: BlockFunction, x: torch.Tensor, block: torch.nn.Module = block) -> torch.Tensor:
            with products_in(precision, x.device):
                return block_jacobian(block, alone(run), x[0])[None]

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
                pulled: torch.Tensor = vmap(pull)(after.to(x)[:, None].expand(-1, len(x), -1))[0]
            return pulled.transpose(0, 1)

        rows[number + 1 :, number] = points.mean("products", number, pulled_back, progress, together=TOGETHER)
    return rows


def products_in(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which matrices are multiplied in a precision; what is summed up over them is not."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
