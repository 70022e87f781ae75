"""Dials: what a request may ask of the loaded controllers, and what it gets when it asks for nothing.

Turns the body's `steering` and the suffix of a model's name into the runtime's Steering. Knows no HTTP but its errors.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from edgesteer.controller import Controller
from edgesteer.errors import SteeringError
from edgesteer.runtime.generate import outside_safe_range
from edgesteer.runtime.request import Steering
from edgesteer.runtime.worker import Worker
from edgesteer.serve.errors import ApiError
from edgesteer.serve.schema import Dial

STRENGTH_LIMIT = 2.0
"""A request may go so many times as far as the safe range."""


class Dials:
    """The controllers of a worker with this server's default strengths and the names of their files."""

    def __init__(self, worker: Worker, defaults: Mapping[str, float], files: Mapping[str, str]) -> None:
        self._worker = worker
        self._defaults = dict(defaults)
        self._files = dict(files)

    @property
    def names(self) -> list[str]:
        return [controller.name for controller in self._worker.controllers]

    def note(self, name: str, default: float, file: str) -> None:
        """Take note of a controller that has been loaded."""
        self._defaults[name], self._files[name] = default, file

    def forget(self, name: str) -> None:
        """Forget a controller that has been unloaded."""
        self._defaults.pop(name, None)
        self._files.pop(name, None)

    def find(self, name: str, param: str | None = None) -> Controller:
        """Return the controller of this name. Raises ApiError, 404."""
        for controller in self._worker.controllers:
            if controller.name == name:
                return controller
        loaded = ", ".join(self.names) or "none"
        raise ApiError(
            404, f"no controller is called {name!r}; loaded: {loaded}", param=param, code="controller_not_found"
        )

    def asked(self, steering: Mapping[str, float | Dial] | None, param: str = "steering") -> list[Steering]:
        """Return what a request asks for; None: what this server does by default.

        Raises ApiError: 404 for an unknown controller, 400 for what it cannot do.
        """
        if steering is None:
            return [Steering(name, strength) for name, strength in self._defaults.items() if strength]
        return [self._steering(name, value, param) for name, value in steering.items()]

    def _steering(self, name: str, value: float | Dial, param: str) -> Steering:
        dial = value if isinstance(value, Dial) else Dial(strength=value)
        where = f"{param}.{name}" if param == "steering" else param
        controller = self.find(name, where)
        check_strength(dial.strength, self.limits(controller), name, where)
        try:
            steering = Steering(name, **dial.model_dump())
            controller.command(steering.strength, steering.mode)  # raises for an unknown mode
        except SteeringError as error:
            raise ApiError(400, str(error), param=where) from error
        return steering

    def limits(self, controller: Controller) -> tuple[float, float]:
        """Return the least and the greatest strength that a request may ask for; whoever started us may go further."""
        low, high = controller.safe_range
        default = self._defaults.get(controller.name, 0.0)
        return min(STRENGTH_LIMIT * low, default), max(STRENGTH_LIMIT * high, default)

    def warnings(self, steering: Sequence[Steering]) -> list[str]:
        """Return a line for each strength outside its controller's safe range."""
        asked = {each.controller: each.strength for each in steering}
        loaded = [each for each in self._worker.controllers if each.name in asked]
        lines = [outside_safe_range(each, asked[each.name]) for each in loaded]
        return [line for line in lines if line]

    def describe(self, controller: Controller) -> dict[str, Any]:
        """Return what GET /v1/steering shows of a controller."""
        return {
            "name": controller.name,
            "positive": controller.positive,
            "negative": controller.negative,
            "law": controller.law,
            "blocks": list(controller.blocks),
            "default_strength": self._defaults.get(controller.name, 0.0),
            "tuned_strength": controller.default_strength,
            "safe_range": list(controller.safe_range),
            "limits": list(self.limits(controller)),
            "has_sensor": controller.sensor is not None,
            "file": self._files.get(controller.name),
        }


def check_strength(strength: float, limits: tuple[float, float], name: str, param: str) -> None:
    """Raise ApiError, 400, unless the strength is a number within the limits."""
    low, high = limits
    if not low <= strength <= high:  # NaN is not
        raise ApiError(
            400,
            f"{name}: strength {strength:g} is outside the limits {low:g} to {high:g}",
            param=param,
            code="strength_out_of_range",
        )


def steering_in_name(asked: str, model_id: str) -> dict[str, float] | None:
    """Return the strengths in a model's name, `id@warm=0.8,formal=-0.5`; None for the id alone.

    Raises ApiError: 404 for another model, 400 for a suffix that cannot be read.
    """
    if asked == model_id:
        return None
    if not asked.startswith(f"{model_id}@"):
        raise ApiError(
            404, f"no model is called {asked!r}; this server has {model_id!r}", param="model", code="model_not_found"
        )
    pairs = [parse_pair(pair) for pair in asked[len(model_id) + 1 :].split(",") if pair]
    if len(dict(pairs)) < len(pairs):
        raise ApiError(400, f"a controller is named twice in {asked!r}", param="model")
    return dict(pairs)


def parse_pair(text: str) -> tuple[str, float]:
    """Read NAME=STRENGTH."""
    name, _, number = text.rpartition("=")
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not name or not math.isfinite(strength):
        raise ApiError(400, f"{text!r} is not a steering; expected NAME=STRENGTH such as warm=0.8", param="model")
    return name, strength
