"""The feedback law inside the PyTorch model: what llama.cpp's hook does, on whole sequences, for calibration and tests.

The law itself is stated once, in edgesteer/controller.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgesteer.controller import Command, Controller
from edgesteer.export.activations import visiting_boundaries
from edgesteer.export.weights import LoadedModel


@dataclass(frozen=True)
class SteeredRun:
    """One steered pass over a sequence of some length; m steered blocks."""

    stream: torch.Tensor
    """(n_blocks+1, length, width) residual stream, after control at each boundary."""
    logits: torch.Tensor
    """(length, vocabulary)"""
    before: torch.Tensor
    """(m, length) alpha before control; of every row, steered or not."""
    control: torch.Tensor
    """(m, length) signed control; 0 on rows that are not steered."""
    sensor: torch.Tensor
    """(length,) the sensor's reading before control at its block; empty without a sensor."""


@torch.no_grad()
def run_steered(
    model: LoadedModel, controller: Controller, command: Command, tokens: torch.Tensor, rows: torch.Tensor
) -> SteeredRun:
    """Run a sequence with the controller acting on some of its rows.

    tokens: (length,). rows: (length,) bool, which rows are steered.
    """
    law = _Law(controller, command, rows)
    with visiting_boundaries(model, law.visit):
        output = model.network(input_ids=tokens[None], use_cache=False)
    return SteeredRun(
        torch.stack(law.stream),
        output.logits[0],
        torch.stack(law.before),
        torch.stack(law.control),
        law.sensor,
    )


class _Law:
    """The visitor of one pass; see Controller for the law."""

    def __init__(self, controller: Controller, command: Command, rows: torch.Tensor) -> None:
        self._controller, self._command, self._rows = controller, command, rows
        self.stream: list[torch.Tensor] = []
        self.before: list[torch.Tensor] = []
        self.control: list[torch.Tensor] = []
        self.sensor = torch.empty(0)

    def visit(self, boundary: int, x: torch.Tensor) -> torch.Tensor | None:
        c = self._controller
        block = boundary - 1
        if c.sensor is not None and block == c.sensor.block:
            self.sensor = x[0] @ torch.from_numpy(c.sensor.probe) - c.sensor.offset
        if block not in c.blocks:
            self.stream.append(x[0].clone())
            return None
        site = c.blocks.index(block)
        measured = self._measure(site, self.stream[-1] if c.reads_block_input else x[0])
        self.before.append(measured)
        steered = x + (self._turn if c.axis is not None else self._push)(site, measured, x[0])[None]
        self.stream.append(steered[0].clone())
        return steered

    def _push(self, site: int, measured: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
        """Return what is added to x, (length, width), and note the control."""
        c = self._controller
        error = float(c.rest[site]) + self._command.level * float(c.span[site]) - measured
        shaped = {"hold": error, "floor": error.clamp(min=0), "ceiling": error.clamp(max=0)}[self._command.mode]
        self.control.append(self._command.effort * shaped * self._rows)
        if c.pid is None:
            return self.control[site][:, None] * torch.from_numpy(c.gain[site])
        coupling = torch.tensor(c.coupling[site, : site + 1], dtype=torch.float32)
        controls = torch.stack(self.control) * coupling[:, None]
        return controls.T @ torch.from_numpy(c.gain[: site + 1])

    def _turn(self, site: int, along: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The same for a rotation; along: (length,) projection on the gain."""
        c, command = self._controller, self._command
        assert c.axis is not None
        gain, axis = torch.from_numpy(c.gain[site]), torch.from_numpy(c.axis[site])
        across = x @ axis
        angle = command.effort * (float(c.rest[site]) + command.level * float(c.span[site]))
        direction = torch.atan2(across, along)
        turned = torch.copysign((direction.abs() - angle).clamp(0, torch.pi), direction)
        radius = torch.hypot(along, across)
        moved_along, moved_across = (
            torch.where(self._rows & (angle != 0), new - old, 0.0)
            for new, old in ((radius * turned.cos(), along), (radius * turned.sin(), across))
        )
        self.control.append(moved_along)
        return moved_along[:, None] * gain + moved_across[:, None] * axis

    def _measure(self, site: int, x: torch.Tensor) -> torch.Tensor:
        if self._controller.probe is None:
            return torch.zeros(len(x))
        return x @ torch.from_numpy(self._controller.probe[site]) - float(self._controller.offset[site])
