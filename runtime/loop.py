"""SteeringLoop: one controller at work on one text: its dial, its outer loop, its commands to the hook, its telemetry.

Knows no llama.cpp and no other text; what the hook measured is given to it.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.outer_loop import Decay, Effort, FullEffort, OuterLoop
from edgesteer.controller import Array, Controller
from edgesteer.runtime.hook import COMMAND, MEASURE, OFF, SENSE, STEER, phi_code
from edgesteer.runtime.request import Prompt, Steering
from edgesteer.runtime.telemetry import Reading, SteeringReport, Trace


class SteeringLoop:
    """What a request asks of a controller, carried out token by token.

    Raises SteeringError when the strength is not finite or the mode unknown.
    """

    def __init__(self, steering: Steering, controller: Controller) -> None:
        self.steering = steering
        self.controller = controller
        self._command = controller.command(steering.strength, steering.mode)
        self._effort = make_effort(controller, steering)
        self._trace = Trace(controller, self._command)
        self._count = 0

    @property
    def action(self) -> int:
        """What a steered row asks for; strength 0 asks for nothing, so that it is exactly the unsteered model."""
        if self.steering.rows == "none":
            return MEASURE
        return STEER if self._command.effort else OFF

    @property
    def senses_prompt(self) -> bool:
        """Whether the loop starts from what the sensor reads over the prompt's words."""
        return self.action != OFF and isinstance(self._effort, OuterLoop)

    def command(self) -> tuple[float, float, int, int]:
        """Return a COMMAND for the next token."""
        command = self._command
        return command.level, command.effort * self._effort.effort(), self.action, phi_code(command.mode)

    def prompt_commands(self, prompt: Prompt) -> NDArray[np.void]:
        """Return the commands for a prompt's rows: (tokens,) of COMMAND."""
        commands = np.zeros(len(prompt.tokens), dtype=COMMAND)
        if self.action == OFF:
            return commands
        commands["action"] = SENSE if self.senses_prompt else OFF
        steered = np.zeros(len(commands), dtype=bool)
        steered[-1] = True
        if self.steering.rows == "all":
            steered[:] = True
        elif self.steering.rows == "generated":
            steered |= prompt.generated
        commands[steered] = self.command()
        return commands

    def start(self, prompt_alpha: Array, continued: bool) -> None:
        """Begin from what the sensor read over the prompt's words; see Prompt."""
        if isinstance(self._effort, OuterLoop):
            self._effort.start(prompt_alpha, continued)

    def observe(self, before: Array, after: Array, control: Array) -> Reading:
        """Take in what the hook measured at a generated token: (controller's sites,) each."""
        effort, setpoint = self._effort.effort(), self._sensor_setpoint()
        alpha, pushed = self._trace.take(before, after, control)
        self._effort.observe(alpha, pushed)
        self._count += 1
        mean = self._effort.mean if isinstance(self._effort, OuterLoop) else math.nan
        return self._trace.note(effort, mean, setpoint, pushed)

    def report(self) -> SteeringReport:
        return self._trace.report(self.steering.strength)

    def _sensor_setpoint(self) -> float | None:
        """What the sensor should read at this token: what neutral text reads there, and what is asked above it."""
        sensor = self.controller.sensor
        if sensor is None:
            return None
        neutral = float(sensor.position_mean[min(self._count, len(sensor.position_mean) - 1)])
        return neutral + sensor.setpoint(self.controller.dial(self.steering.strength))


def make_effort(controller: Controller, steering: Steering) -> Effort:
    """Return the outer loop that a request asks for."""
    if steering.loop == "decay":
        return Decay(steering.decay_tokens)
    if steering.loop == "closed" and controller.sensor is not None:
        return OuterLoop(controller.sensor, controller.dial(steering.strength))
    return FullEffort()
