"""Given texts read by llama.cpp, not generated: their residual stream at every boundary, their logits under steering.

The rows of a text go through the model together, as in a prompt; a steered row is computed from the same past as if the
text were generated, because no row sees a later one. What runs share at their start, unread and unsteered, is
computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edgesteer.concept import Example
from edgesteer.control.activations import Activations
from edgesteer.control.calibration import SteeredText
from edgesteer.control.uncertainty import entropy
from edgesteer.controller import Array, Command, Controller
from edgesteer.fingerprint import Fingerprint, fingerprint_of_gguf
from edgesteer.runtime.engine import Commands, Engine
from edgesteer.runtime.hook import STEER, phi_code
from edgesteer.runtime.model import LlamaModel
from edgesteer.scratch import release, scratch_array
from edgesteer.tokens import ExampleTokens, tokenize_example

BATCH_TOKENS = 128
"""Rows of one decode: more save little time, and llama.cpp keeps the logits of all of them."""


class TextReader:
    """A model that texts are read with. Use as a context manager, or call close().

    path: GGUF file. Raises what LlamaModel and Engine raise.
    """

    def __init__(self, path: Path, *, threads: int | None = None, n_gpu_layers: int = 0) -> None:
        self.path = path
        self.model = LlamaModel(path, n_gpu_layers=n_gpu_layers)
        self._threads = threads

    def close(self) -> None:
        """Free the weights."""
        self.model.close()

    def __enter__(self) -> TextReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def n_blocks(self) -> int:
        return self.model.n_blocks

    @property
    def fingerprint(self) -> Fingerprint:
        """The model's; without the sha256 of its file, which `hashed_fingerprint` has."""
        return self.model.fingerprint

    def hashed_fingerprint(self) -> Fingerprint:
        """Return what a sidecar keeps of the model: the sha256 of its file too."""
        return fingerprint_of_gguf(self.path)

    def tokenize(self, example: Example) -> ExampleTokens:
        """Return the tokens of a text, the same as the exporter's."""
        bos = llama_cpp.llama_vocab_bos(self.model.vocabulary) if self.model.chat.adds_bos else None
        return tokenize_example(example, self.model.chat, bos, self._encode)

    def _encode(self, text: str) -> list[int]:
        return self.model.tokenize(text, add_special=False) if text else []

    @contextmanager
    def engine(self, texts: Sequence[ExampleTokens]) -> Iterator[Engine]:
        """Give an engine with room for some texts at once, each a sequence, and a hook without controllers."""
        with Engine(
            self.model,
            context_tokens=max(BATCH_TOKENS, sum(len(text.tokens) for text in texts)),
            batch_tokens=BATCH_TOKENS,
            n_sequences=len(texts),
            threads=self._threads,
            reloadable=True,
        ) as engine:
            yield engine

    def activations(
        self,
        texts: Sequence[ExampleTokens],
        rows: Callable[[ExampleTokens], slice],
        progress: Callable[[], None] = lambda: None,
    ) -> tuple[Activations, NDArray[np.float64]]:
        """Run every text once and keep the residual stream over some of its rows, on the disk; and the entropy of the
        next token after each of those rows, (N,), in nats.

        Raises EdgeSteerError when the disk has no room for it, and what Engine.decode raises.
        """
        kept = [range(len(text.tokens))[rows(text)] for text in texts]
        ends = np.cumsum([len(each) for each in kept])
        stream = scratch_array(self.n_blocks + 1, int(ends[-1]), self.model.width, on_disk=True)
        entropies = np.zeros(int(ends[-1]))
        previous: Sequence[int] = ()
        with self.engine([max(texts, key=lambda text: len(text.tokens))]) as engine:
            captured = capture_all(engine)
            for index in sorted(range(len(texts)), key=lambda i: texts[i].tokens):  # neighbours share their start
                text, each, end = texts[index], kept[index], ends[index]
                known = min(each.start, common_length(previous, text.tokens)) if engine.can_reuse else 0
                out = slice(end - len(each), end)
                entropies[out] = read_stream(engine, text, each, captured, stream[:, out], known)
                release(stream)
                previous = text.tokens
                progress()

        def read(boundary: int) -> Array:
            release(stream)
            values: Array = stream[boundary]
            return values

        lengths = [len(each) for each in kept]
        positions = np.concatenate([np.asarray(each, dtype=np.int64) for each in kept])
        text_of = np.repeat(np.arange(len(texts)), lengths)
        return Activations(read, len(stream), np.arange(len(text_of)), text_of, positions), entropies


def common_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens two texts begin with alike."""
    return next((k for k, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def capture_all(engine: Engine) -> list[Array]:
    """Return arrays, (batch_tokens, width) each, that from now on hold every boundary of the last decode."""
    assert engine.hook is not None
    return [engine.hook.capture(boundary, engine.batch_tokens) for boundary in range(engine.model.n_blocks + 1)]


def read_stream(
    engine: Engine, text: ExampleTokens, rows: range, captured: Sequence[Array], out: Array, known: int
) -> list[float]:
    """Write the residual stream of some rows of a text to `out`, (T+1, rows, width); return the next token's entropies.

    known: as for `decoded`.
    """
    entropies: list[float] = []
    for first, wanted in decoded(engine, text.tokens, rows, known):
        to = slice(wanted.start - rows.start, wanted.stop - rows.start)
        for boundary, stream in enumerate(captured[:-1]):
            out[boundary, to] = stream[wanted.start - first : wanted.stop - first]
        out[-1, to] = captured[-1][: len(wanted)]  # the last block computes the rows that asked for logits only
        entropies += [float(entropy(engine.logits(row - first))) for row in wanted]
    return entropies


def decoded(
    engine: Engine,
    tokens: Sequence[int],
    outputs: range,
    known: int = 0,
    commands: Commands | None = None,
    sequence: int = 0,
) -> Iterator[tuple[int, range]]:
    """Decode a text; yield the first row of each decode and its outputs, while they can be read.

    outputs: rows of the text that ask for logits. known: rows at its start that the sequence holds already. commands:
    (tokens, controllers).
    """
    engine.forget(sequence, known)
    for first in range(known, len(tokens), engine.batch_tokens):
        positions = range(first, min(first + engine.batch_tokens, len(tokens)))
        engine.decode(
            [tokens[each] for each in positions],
            positions,
            [each in outputs for each in positions],
            None if commands is None else commands[first : positions.stop],
            [sequence] * len(positions),
        )
        start = max(first, outputs.start)
        yield first, range(start, max(start, min(positions.stop, outputs.stop)))


class LlamaTexts:
    """Neutral texts of a calibration (control.calibration.NeutralTexts), read by llama.cpp under steering.

    engine: of these texts; see TextReader.engine. Each keeps its prompt there from one run to the next.
    """

    def __init__(self, engine: Engine, texts: Sequence[ExampleTokens]) -> None:
        self._engine, self._texts = engine, texts
        self._known = [text.completion_start - 1 if engine.can_reuse else 0 for text in texts]
        for number, (text, known) in enumerate(zip(texts, self._known, strict=True)):
            for _ in decoded(engine, text.tokens[:known], range(0), sequence=number):
                pass  # nothing to read: it only has to be in the cache

    def __len__(self) -> int:
        return len(self._texts)

    def steered(self, controller: Controller, command: Command) -> Iterator[SteeredText]:
        """Yield each text's completion, steered by one command from the token before it on, as if it were generated."""
        self._engine.set_controllers([controller])
        for number, text in enumerate(self._texts):
            yield self._read(number, text, controller, command)

    def _read(self, number: int, text: ExampleTokens, controller: Controller, command: Command) -> SteeredText:
        engine, m = self._engine, len(controller.blocks)
        completion = range(text.completion_start, len(text.tokens))
        commands = engine.idle(len(text.tokens))
        commands[completion.start - 1 :] = (command.level, command.effort, STEER, phi_code(command.mode))
        logits, control, sensor = [], [], []
        for first, wanted in decoded(engine, text.tokens, completion, self._known[number], commands, number):
            before, _, controls = engine.measured(controller)
            rows = [each - first for each in wanted]
            logits += [engine.logits(row) for row in rows]
            control.append(controls[:m, rows])
            sensor.append(before[-1, rows])
        return SteeredText(np.stack(logits), np.concatenate(control, axis=1), np.concatenate(sensor))
