"""Settings: what may be changed about a controller without making it anew, and the controllers that result.

Blocks are left out, gains get a profile over the blocks, the mode and the outer loop change. Knows no model.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from edgesteer.controller import FIXED, Array, Controller, Sensor
from edgesteer.errors import SteeringError

KEEP = "as it is"
UNSHAPED = ("ablate", "rotate")
"""Laws whose gains have length 1."""
SIDED = ("lqr", "a-lqr", "pid")
"""Laws with a setpoint, so that there are sides of it."""
PROFILE_DEPTH = 0.6
NEAR_TARGET = 0.6
"""Alpha that few texts fall short of which carry the concept by themselves."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Setting:
    """One choice of each aspect: a key of BLOCKS, of SHAPES, a mode, a key of LOOPS; or KEEP."""

    blocks: str = KEEP
    shape: str = KEEP
    mode: str = KEEP
    loop: str = KEEP

    @property
    def changes(self) -> dict[str, str]:
        """What is not KEEP, by aspect."""
        chosen = {each.name: str(getattr(self, each.name)) for each in fields(self)}
        return {aspect: choice for aspect, choice in chosen.items() if choice != KEEP}

    @property
    def name(self) -> str:
        return ", ".join(self.changes.values()) or KEEP

    def combined(self, other: Setting) -> Setting | None:
        """Return the setting with the changes of both; None when there is an aspect that both change."""
        if self.changes.keys() & other.changes.keys():
            return None
        return replace(self, **other.changes)


def middle(controller: Controller) -> Mask:
    m = len(controller.blocks)
    places = np.arange(m)
    return np.asarray((places >= m // 4) & (places < m - m // 4))


def strongest(controller: Controller) -> Mask:
    """Return the half of the blocks that count most at the sensor; all of them without one."""
    m = len(controller.blocks)
    if controller.sensor is None or not np.any(controller.sensor.push):
        return np.ones(m, dtype=bool)
    order = np.argsort(-np.abs(controller.sensor.push), kind="stable")
    return np.asarray(np.isin(np.arange(m), order[: (m + 1) // 2]))


def before_sensor(controller: Controller) -> Mask:
    last = controller.n_blocks if controller.sensor is None else controller.sensor.block
    return np.asarray(np.array(controller.blocks) <= last)


BLOCKS: dict[str, Callable[[Controller], Mask]] = {
    "upper half": lambda controller: np.arange(m := len(controller.blocks)) >= m // 2,
    "strongest half": strongest,
    "middle half": middle,
    "every other block": lambda controller: np.arange(len(controller.blocks)) % 2 == 0,
    "upper third": lambda controller: np.arange(m := len(controller.blocks)) >= 2 * m // 3,
    "up to the sensor": before_sensor,
}
"""Which of the steered blocks stay."""

SHAPES: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "rising": lambda place: 1 + PROFILE_DEPTH * (2 * place - 1),
    "falling": lambda place: 1 - PROFILE_DEPTH * (2 * place - 1),
    "hump": lambda place: 1 - PROFILE_DEPTH * np.cos(2 * math.pi * place),
}
"""Factors of the gains by place, from 0 at the first steered block to 1 at the last."""

LOOPS: dict[str, Callable[[Sensor], Sensor]] = {
    "briefer push": lambda sensor: replace(sensor, fade_tokens=max(1.0, sensor.fade_tokens / 2 or 3.0)),
    "longer push": lambda sensor: replace(sensor, fade_tokens=sensor.fade_tokens * 3 or 9.0),
    "steady push": lambda sensor: replace(sensor, fade_tokens=0.0),
    "repeated push": lambda sensor: replace(sensor, recovery_tokens=max(1.0, sensor.recovery_tokens / 4)),
    "fixed target": lambda sensor: replace(sensor, reference=FIXED, target=NEAR_TARGET, slope=2.0, memory_tokens=12.0),
}
"""What becomes of the outer loop."""


def candidates(controller: Controller, *, quick: bool = False) -> dict[Setting, Controller]:
    """Return the settings to try, with what they make of a controller: first KEEP, then what changes one aspect.

    Settings that come to the same are left out. quick: about half of them. Raises what `applied` raises.
    """
    found = {Setting(): applied(Setting(), controller)}
    for setting in single_changes(controller):
        made = applied(setting, controller)
        if not any(same(made, other) for other in found.values()):
            found[setting] = made
    return dict(list(found.items())[:: 2 if quick else 1])


def single_changes(controller: Controller) -> Iterator[Setting]:
    """Yield every setting that changes one aspect, where the law has it."""
    for blocks in BLOCKS:
        yield Setting(blocks=blocks)
    if controller.law not in UNSHAPED:
        for shape in SHAPES:
            yield Setting(shape=shape)
    if controller.sensor is not None:
        for loop in LOOPS:
            yield Setting(loop=loop)
    if controller.law in SIDED:
        yield Setting(mode="hold" if controller.mode == "one-sided" else "one-sided")


def applied(setting: Setting, controller: Controller) -> Controller:
    """Return the controller in a setting, its dial as it was.

    Raises SteeringError for `ablate`, whose dial is the share that it removes.
    """
    if controller.law == "ablate":
        raise SteeringError(
            "this law's dial cannot be tuned", where=controller.name, expected="a law with a level", found="ablate"
        )
    if setting.blocks != KEEP:
        controller = restricted(controller, BLOCKS[setting.blocks](controller))
    if setting.shape != KEEP:
        controller = shaped(controller, SHAPES[setting.shape](np.linspace(0, 1, len(controller.blocks))))
    if setting.mode != KEEP:
        controller = replace(controller, mode=setting.mode)
    if setting.loop != KEEP and controller.sensor is not None:
        controller = replace(controller, sensor=LOOPS[setting.loop](controller.sensor))
    return controller


def restricted(controller: Controller, kept: Mask) -> Controller:
    """Return the controller at some of its steered blocks only: (m,) mask, not all False."""
    if kept.all():
        return controller

    def rows(tensor: Array | None) -> Array | None:
        return None if tensor is None else tensor[kept]

    sensor = controller.sensor
    tensors = {name: rows(getattr(controller, name)) for name in ("probe", "axis", "gain", "offset", "rest", "span")}
    return replace(
        controller,
        blocks=tuple(np.array(controller.blocks)[kept].tolist()),
        sensor=None if sensor is None else replace(sensor, push=sensor.push[kept]),
        certificate=None,
        **tensors,  # type: ignore[arg-type]
    )


def shaped(controller: Controller, profile: NDArray[np.float64]) -> Controller:
    """Return the controller with its gains times a profile: (m,); a mean of 1 keeps them in all about as large."""
    factor = (profile / profile.mean()).astype(np.float32)
    sensor = controller.sensor
    return replace(
        controller,
        gain=controller.gain * factor[:, None],
        sensor=None if sensor is None else replace(sensor, push=sensor.push * factor),
        certificate=None,
    )


def redialled(controller: Controller, strength: float) -> Controller:
    """Return the controller whose strength 1 is what a strength was, in level and in what the outer loop asks for."""
    sensor = controller.sensor
    if sensor is not None and sensor.reference is None:
        sensor = replace(sensor, target=sensor.setpoint(strength))
    return replace(
        controller,
        scale=controller.scale * strength,
        negative_scale=None if controller.negative_scale is None else controller.negative_scale * strength,
        sensor=sensor,
    )


def same(one: Controller, other: Controller) -> bool:
    """Whether two settings of one controller are the same."""
    if (one.blocks, one.mode) != (other.blocks, other.mode) or not np.array_equal(one.gain, other.gain):
        return False
    if one.sensor is None or other.sensor is None:
        return one.sensor is other.sensor
    names = ("target", "slope", "memory_tokens", "fade_tokens", "recovery_tokens", "reference")
    return all(getattr(one.sensor, name) == getattr(other.sensor, name) for name in names)
