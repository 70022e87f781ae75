"""NumPy twin of the native hook: controllers act on the residual stream of a made-up network, in float64.

Written from the law in edgesteer/controller.py alone. It knows nothing of hook.c or hook.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.controller import Array, Command, Controller

Doubles = NDArray[np.float64]
Block = Callable[[Doubles], Doubles]
READ_THE_INPUT = ("a-lqr", "pid")


class Demand(NamedTuple):
    """What one row asks of one controller."""

    action: str  # off, sense, measure or steer
    command: Command = Command(0.0, 0.0, "hold")


@dataclass(frozen=True)
class Trace:
    """What happened. The telemetry's first axis: for each controller its steered blocks, then its sensor."""

    boundaries: list[Doubles]
    """n_blocks + 1 of (rows, width), after control; NaN in rows that the last block does not compute."""
    before: Doubles
    after: Doubles
    control: Doubles


def phi(error: Doubles, mode: str) -> Doubles:
    return {"hold": error, "floor": np.maximum(error, 0), "ceiling": np.minimum(error, 0)}[mode]


def alpha(x: Doubles, probe: Array | None, offset: float) -> Doubles:
    return np.zeros(len(x)) if probe is None else x @ probe.astype(np.float64) - float(offset)


def control(controller: Controller, k: int, command: Command, measurement: Doubles) -> Doubles:
    """The control at the k-th steered block of a controller."""
    error = float(controller.rest[k]) + command.level * float(controller.span[k]) - measurement
    return command.effort * phi(error, command.mode)


def writes(
    controller: Controller, k: int, command: Command, measurement: float, x: Doubles, history: list[Doubles]
) -> tuple[float, Doubles]:
    """The control at the k-th steered block, and what it adds to x. history: what the blocks before gave, for `pid`."""
    gain = controller.gain[k].astype(np.float64)
    if controller.law == "rotate":
        assert controller.axis is not None
        axis = controller.axis[k].astype(np.float64)
        radius, angle = np.hypot(x @ gain, x @ axis), np.arctan2(x @ axis, x @ gain)
        turned = command.effort * (float(controller.rest[k]) + command.level * float(controller.span[k]))
        new = np.copysign(np.clip(abs(angle) - turned, 0, np.pi), angle)
        along, across = radius * np.cos(new) - x @ gain, radius * np.sin(new) - x @ axis
        return float(along), along * gain + across * axis
    value = float(control(controller, k, command, np.array([measurement]))[0])
    history.append(value * gain)
    if controller.pid is None:
        return value, value * gain
    change = history[-1] - (history[-2] if len(history) > 1 else 0)
    pid = controller.pid
    return value, pid.proportional * history[-1] + pid.integral * np.sum(history, axis=0) + pid.derivative * change


class Recorder:
    """Collects the telemetry of one run; a site is (controller's number, its k-th block or "sensor")."""

    def __init__(self, controllers: Sequence[Controller], rows: int) -> None:
        self.sites: list[tuple[int, int | str]] = []
        for number, controller in enumerate(controllers):
            self.sites += [(number, k) for k in range(len(controller.blocks))]
            self.sites += [(number, "sensor")] if controller.sensor is not None else []
        self.before, self.after, self.control = np.full((3, len(self.sites), rows), np.nan)
        self.histories: dict[tuple[int, int], list[Doubles]] = defaultdict(list)
        """By controller and row."""

    def measured(
        self, site: tuple[int, int | str], rows: NDArray[np.bool_], before: Doubles, after: Doubles
    ) -> None:
        index = self.sites.index(site)
        self.before[index, rows], self.after[index, rows], self.control[index, rows] = (
            before[rows],
            after[rows],
            0,
        )

    def controlled(self, site: tuple[int, int | str], row: int, value: float) -> None:
        self.control[self.sites.index(site), row] = value


def run(
    controllers: Sequence[Controller],
    demands: Sequence[Sequence[Demand]],
    embedding: Array,
    blocks: Sequence[Block],
    is_output: Sequence[bool] | None = None,
) -> Trace:
    """Send rows through the network under the controllers.

    demands: per row, per controller. embedding: (rows, width). is_output: the rows that the last block
    computes (default: all); the others are not steered there.
    """
    rows = len(embedding)
    recorder = Recorder(controllers, rows)
    boundaries = [embedding.astype(np.float64)]
    for b, block in enumerate(blocks):
        last = b == len(blocks) - 1
        computed = np.array(is_output if last and is_output is not None else [True] * rows, dtype=bool)
        boundaries.append(run_block(b, controllers, demands, boundaries[-1], block, computed, recorder))
    return Trace(boundaries, recorder.before, recorder.after, recorder.control)


def run_block(
    b: int,
    controllers: Sequence[Controller],
    demands: Sequence[Sequence[Demand]],
    x_in: Doubles,
    block: Block,
    computed: NDArray[np.bool_],
    recorder: Recorder,
) -> Doubles:
    x_raw = block(x_in)
    pushes = np.zeros_like(x_raw)
    controls: list[tuple[tuple[int, int | str], int, float]] = []
    for number, controller in enumerate(controllers):
        if b not in controller.blocks:
            continue
        k = controller.blocks.index(b)
        measurement = measure_actuator(controller, k, x_in if controller.law in READ_THE_INPUT else x_raw)
        for row in np.flatnonzero(computed).tolist():
            action, command = demands[row][number]
            if action == "steer":
                history = recorder.histories[number, row]
                value, push = writes(controller, k, command, float(measurement[row]), x_raw[row], history)
                pushes[row] += push
                controls.append(((number, k), row, value))
    x_out = x_raw + pushes
    record_measurements(b, controllers, demands, (x_in, x_raw, x_out), computed, recorder)
    for site, row, value in controls:
        recorder.controlled(site, row, value)
    x_out[~computed] = np.nan
    return x_out


def measure_actuator(controller: Controller, k: int, x: Doubles) -> Doubles:
    return alpha(x, None if controller.probe is None else controller.probe[k], float(controller.offset[k]))


def record_measurements(
    b: int,
    controllers: Sequence[Controller],
    demands: Sequence[Sequence[Demand]],
    stream: tuple[Doubles, Doubles, Doubles],
    computed: NDArray[np.bool_],
    recorder: Recorder,
) -> None:
    x_in, x_raw, x_out = stream
    for number, controller in enumerate(controllers):
        actions = [row[number].action for row in demands]
        measuring = np.array([action in ("measure", "steer") for action in actions], dtype=bool)
        sensing = measuring | np.array([action == "sense" for action in actions], dtype=bool)
        if b in controller.blocks:
            k = controller.blocks.index(b)
            if controller.law in READ_THE_INPUT:
                value = measure_actuator(controller, k, x_in)
                recorder.measured((number, k), measuring, value, value)
            else:
                before, after = (measure_actuator(controller, k, x) for x in (x_raw, x_out))
                recorder.measured((number, k), measuring & computed, before, after)
        sensor = controller.sensor
        if sensor is not None and sensor.block == b:
            before, after = (alpha(x, sensor.probe, sensor.offset) for x in (x_raw, x_out))
            recorder.measured((number, "sensor"), sensing & computed, before, after)
