"""The feedback law inside the PyTorch model: what llama.cpp's hook does, on whole sequences, for calibration and tests.

The law itself is stated once, in edgesteer/controller.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from edgesteer.controller import Command, Controller
from edgesteer.export.sweep import Sweep
from edgesteer.export.weights import LoadedModel


class Steering(NamedTuple):
    """A sequence, and where and how it is steered."""

    tokens: torch.Tensor
    """(length,)"""
    rows: torch.Tensor
    """(length,) bool, which rows are steered."""
    command: Command


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


def run_steered(
    model: LoadedModel, controller: Controller, command: Command, tokens: torch.Tensor, rows: torch.Tensor
) -> SteeredRun:
    """Run a sequence with the controller acting on some of its rows.

    tokens: (length,). rows: (length,) bool, which rows are steered.
    """
    return next(run_all_steered(model, controller, [Steering(tokens, rows, command)]))


@torch.no_grad()
def run_all_steered(model: LoadedModel, controller: Controller, runs: Sequence[Steering]) -> Iterator[SteeredRun]:
    """Yield what each of several steered runs gives; they go through the network together."""
    sweep = Sweep(model, [run.tokens for run in runs])
    laws = [_Law(controller, run.command, run.rows.to(model.device)) for run in runs]
    while True:
        for index, law in enumerate(laws):
            steered = law.visit(sweep.boundary, sweep[index])
            if steered is not None:
                sweep[index] = steered
        if sweep.boundary == model.n_blocks:
            break
        sweep.advance()
    for law, logits in zip(laws, sweep.logits(), strict=True):
        yield SteeredRun(
            torch.stack(law.stream).cpu(),
            logits,
            torch.stack(law.before).cpu(),
            torch.stack(law.control).cpu(),
            law.sensor.cpu(),
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
        """Take in the stream at the next boundary, (length, width); return what takes its place."""
        c = self._controller
        block = boundary - 1
        if c.sensor is not None and block == c.sensor.block:
            self.sensor = x @ self._tensor(c.sensor.probe) - c.sensor.offset
        if block not in c.blocks:
            self.stream.append(x)
            return None
        site = c.blocks.index(block)
        measured = self._measure(site, self.stream[-1] if c.reads_block_input else x)
        self.before.append(measured)
        steered = x + (self._turn if c.axis is not None else self._push)(site, measured, x)
        self.stream.append(steered)
        return steered

    def _push(self, site: int, measured: torch.Tensor, _x: torch.Tensor) -> torch.Tensor:
        """Return what is added to x, (length, width), and note the control."""
        c = self._controller
        error = float(c.rest[site]) + self._command.level * float(c.span[site]) - measured
        shaped = {"hold": error, "floor": error.clamp(min=0), "ceiling": error.clamp(max=0)}[self._command.mode]
        self.control.append(self._command.effort * shaped * self._rows)
        if c.pid is None:
            return self.control[site][:, None] * self._tensor(c.gain[site])
        controls = torch.stack(self.control) * self._tensor(c.coupling[site, : site + 1]).float()[:, None]
        return controls.T @ self._tensor(c.gain[: site + 1])

    def _turn(self, site: int, along: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The same for a rotation; along: (length,) projection on the gain."""
        c, command = self._controller, self._command
        assert c.axis is not None
        gain, axis = self._tensor(c.gain[site]), self._tensor(c.axis[site])
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
            return torch.zeros(len(x), device=x.device)
        return x @ self._tensor(self._controller.probe[site]) - float(self._controller.offset[site])

    def _tensor(self, values: NDArray[Any]) -> torch.Tensor:
        return torch.as_tensor(values, device=self._rows.device)
