"""A sweep: several sequences go through the network together, one block after another.

So one block's weights are needed at a time, whether they are all in memory or read when they are needed, and whoever
looks at the residual stream or changes it does so between two blocks. Boundaries are numbered as in
edgesteer/controller.py.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from edgesteer.errors import ModelError
from edgesteer.export.weights import LoadedModel
from edgesteer.scratch import release, scratch_array

TOKENS_AT_ONCE = 512
"""Most tokens of several sequences that go through a block together: more gain nothing and cost memory."""

Arguments = dict[str, Any]
"""A block's arguments apart from the residual stream, by name."""
BlockCall = Callable[[torch.Tensor, Arguments], Any]


class Sweep:
    """The residual stream of several sequences at one boundary, the embedding at first; advance() goes to the next."""

    @torch.no_grad()
    def __init__(self, model: LoadedModel, sequences: Sequence[torch.Tensor]) -> None:
        """sequences: (length,) token ids each."""
        self._model = model
        lengths = [len(tokens) for tokens in sequences]
        self._batches = batches_of(lengths)
        """Indices of the sequences that go through a block together; their rows follow one another."""
        order = [index for batch in self._batches for index in batch]
        ends = np.cumsum([lengths[index] for index in order], dtype=int)
        self._rows = {index: slice(int(end) - lengths[index], int(end)) for index, end in zip(order, ends, strict=True)}
        self.stream = scratch_array(sum(lengths), model.width, on_disk=model.streamed is not None, dtype=model.dtype)
        self.arguments: list[list[Arguments]] = []
        """[sequence][block]"""
        self.boundary = 0
        for index, tokens in enumerate(sequences):
            x, arguments, self._packed = embedded(model, tokens)
            self[index] = x
            self.arguments.append(arguments)

    def __len__(self) -> int:
        return len(self.arguments)

    def __getitem__(self, index: int) -> torch.Tensor:
        """Return one sequence's residual stream, (length, width), on the model's device."""
        return torch.tensor(self.stream[self.rows(index)], device=self._model.device)

    def __setitem__(self, index: int, x: torch.Tensor) -> None:
        self.stream[self.rows(index)] = x.numpy(force=True)

    @torch.no_grad()
    def advance(self, progress: Callable[[], None] = lambda: None) -> None:
        """Run the next block. progress is called once a sequence. Raises ModelError when its weights cannot be read."""
        block = self._model.blocks[self.boundary]
        with self._model.block(self.boundary):
            for batch in self._batches:  # what else a block gets is the same for all sequences of one length
                x = torch.stack([self[index] for index in batch])
                made = run_block(block, x, self.arguments[batch[0]][self.boundary])
                for index, output in zip(batch, made, strict=True):
                    self[index] = output
                    progress()
        release(self.stream)
        self.boundary += 1

    @torch.no_grad()
    def logits(self) -> Iterator[torch.Tensor]:
        """Yield each sequence's logits, (length, vocabulary), on the CPU, after the last block."""
        with self._model.head():
            for index in range(len(self)):
                yield logits_of(self._model, self[index], self._packed)

    def rows(self, index: int) -> slice:
        """Return where in `stream` one sequence is."""
        return self._rows[index]


def batches_of(lengths: Sequence[int]) -> list[list[int]]:
    """Return the indices of equal lengths in lists of at most TOKENS_AT_ONCE tokens, or of one: all indices once."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[index]
        if batches and lengths[batches[-1][0]] == length and (len(batches[-1]) + 1) * length <= TOKENS_AT_ONCE:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def run_block(block: torch.nn.Module, x: torch.Tensor, arguments: Arguments) -> torch.Tensor:
    """Return a block's output over some sequences of one length; x: (count, length, width)."""
    output = block(x, **arguments)
    result: torch.Tensor = output[0] if isinstance(output, tuple) else output
    return result


def embedded(model: LoadedModel, tokens: torch.Tensor) -> tuple[torch.Tensor, list[Arguments], bool]:
    """Return what the network gives to its first block, (length, width), and each block's other arguments.

    The third is whether the network takes the first item of what a block returns.
    """
    for packed in (False, True):
        calls: list[tuple[torch.Tensor, Arguments]] = []

        def note(x: torch.Tensor, arguments: Arguments, packed: bool = packed, calls: list[Any] = calls) -> Any:
            calls.append((x, arguments))
            return (x,) if packed else x

        with blocks_replaced(model, lambda _: note), model.embedding(tokens) as numbers:
            with suppress(IndexError):  # once nothing is left to take the first item of
                model.network.base_model(input_ids=numbers[None], use_cache=False)
        if all(x.shape == calls[0][0].shape for x, _ in calls):
            return calls[0][0][0], [arguments for _, arguments in calls], packed
    raise ModelError(f"the blocks of {type(model.network).__name__} do not pass the residual stream on")


def logits_of(model: LoadedModel, x: torch.Tensor, packed: bool) -> torch.Tensor:
    """Return the logits that the network makes of the last boundary's residual stream; x: (length, width)."""
    output = (x[None],) if packed else x[None]
    with blocks_replaced(model, lambda _: lambda _x, _arguments: output):
        logits: torch.Tensor = model.network(inputs_embeds=x[None], use_cache=False).logits[0]
    return logits.cpu()


@contextmanager
def blocks_replaced(model: LoadedModel, call: Callable[[int], BlockCall]) -> Iterator[None]:
    """Have the network call call(index)(x, arguments) instead of each block, which needs no weights then."""
    try:
        for index, block in enumerate(model.blocks):
            block.forward = _named(block, call(index))
        yield
    finally:
        for block in model.blocks:
            vars(block).pop("forward", None)


def _named(block: torch.nn.Module, call: BlockCall) -> Callable[..., Any]:
    """Return a forward method that gives every argument but the first its name."""
    stream, *others = inspect.signature(block.forward).parameters

    def forward(*args: Any, **kwargs: Any) -> Any:
        arguments = {**dict(zip((stream, *others), args, strict=False)), **kwargs}
        return call(arguments.pop(stream), arguments)

    return forward
