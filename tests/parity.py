"""One controller on one sequence on both sides: the PyTorch-hooked model and llama.cpp with the native hook.

Not on the import path: see tests/conftest.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgesteer.controller import Array, Command, Controller
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.hook import STEER, phi_code
from edgesteer.runtime.model import LlamaModel

if TYPE_CHECKING:
    from edgesteer.export.simulate import SteeredRun
    from edgesteer.export.weights import LoadedModel


class Captured:
    """One pass of llama.cpp over a sequence: the residual stream at every boundary, and the hook's telemetry."""

    def __init__(
        self, model: LlamaModel, controller: Controller, command: Command, tokens: Sequence[int], rows: Sequence[bool]
    ) -> None:
        length = len(tokens)
        with Engine(model, [controller], threads=1) as engine:
            assert engine.hook is not None
            stream = [engine.hook.capture(boundary, length) for boundary in range(model.n_blocks + 1)]
            commands = engine.idle(length)
            commands[np.array(rows), 0] = (command.level, command.effort, STEER, phi_code(command.mode))
            engine.decode(tokens, range(length), [True] * length, commands)
            self.stream = np.stack(stream)
            self.before, self.control = engine.hook.before.copy(), engine.hook.control.copy()
            self.logits = np.stack([engine.logits(row) for row in range(length)])


def in_pytorch(
    model: LoadedModel, controller: Controller, command: Command, tokens: Sequence[int], rows: Sequence[bool]
) -> SteeredRun:
    import torch

    from edgesteer.export.simulate import run_steered

    return run_steered(model, controller, command, torch.tensor(tokens), torch.tensor(rows))


def relative_errors(ours: SteeredRun, theirs: Captured) -> Array:
    """Return |difference| / |x| at each boundary, over all rows but the first.

    The first token's activations are larger than all others by orders of magnitude in real models, and would hide them.
    """
    x, y = ours.stream.numpy()[:, 1:], theirs.stream[:, 1:]
    errors: Array = np.linalg.norm(x - y, axis=(1, 2)) / np.linalg.norm(x, axis=(1, 2))
    return errors
