"""Arm: one way of steering in an experiment, at some strengths. Knows no file and no prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgesteer.controller import Controller
from edgesteer.errors import SteeringError
from edgesteer.evaluate.paired import UNSTEERED
from edgesteer.runtime.request import Steering

STRENGTHS = (0.25, 0.5, 1.0, 1.5)
BASELINES = ("system-prompt", "open", "decay")
"""What needs no other file to be compared with: the concept asked for in words, and the controller's own loop across
tokens opened, without and with an effort that decays.
"""


@dataclass(frozen=True)
class Arm:
    """A way of steering.

    strengths: of the dial, each other than 0; an arm without a controller has none. system: asks for the concept in
    words. The other fields are those of Steering.
    """

    name: str
    controller: Controller | None = None
    strengths: tuple[float, ...] = ()
    system: str = ""
    mode: str | None = None
    rows: str = "last"
    loop: str = "closed"
    decay_tokens: float = 8.0

    def __post_init__(self) -> None:
        if (self.controller is None) == bool(self.strengths) or 0.0 in self.strengths:
            raise SteeringError(
                "strengths do not fit the way of steering",
                where=self.name,
                expected="numbers other than 0 for a controller, none without one",
                found=self.strengths,
            )
        if len(set(self.strengths)) < len(self.strengths):
            raise SteeringError("a strength stands twice", where=self.name, found=self.strengths)

    @property
    def settings(self) -> tuple[float, ...]:
        """The strengths of its records: 0 for an arm without a dial."""
        return self.strengths or (0.0,)

    def steering(self, strength: float) -> list[Steering]:
        """Return what a request asks of the controller."""
        if self.controller is None:
            return []
        return [Steering(self.controller.name, strength, self.mode, self.rows, self.loop, self.decay_tokens)]


def with_unsteered(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms after the unsteered one. Raises SteeringError when two have the same name."""
    found = [Arm(UNSTEERED), *(arm for arm in arms if arm.name != UNSTEERED)]
    names = [arm.name for arm in found]
    if len(set(names)) < len(names):
        raise SteeringError("two ways of steering have the same name", found=", ".join(names))
    return found


def with_own_controllers(arms: Sequence[Arm]) -> list[Arm]:
    """Return the arms with controllers that can be loaded together: one that several share stays one, and each has the
    name of the first arm that has it.
    """
    renamed: dict[int, Controller] = {}
    for arm in arms:
        if arm.controller is not None:
            renamed.setdefault(id(arm.controller), replace(arm.controller, name=arm.name))
    return [arm if arm.controller is None else replace(arm, controller=renamed[id(arm.controller)]) for arm in arms]


def controllers_of(arms: Sequence[Arm]) -> list[Controller]:
    """Return the controllers of all arms, each once."""
    return list({id(arm.controller): arm.controller for arm in arms if arm.controller is not None}.values())


def baseline(name: str, arm: Arm, system: str) -> Arm:
    """Return a baseline of an arm. system: the concept asked for in words. Raises SteeringError for an unknown one."""
    if name not in BASELINES:
        raise SteeringError("no such baseline", expected=" or ".join(BASELINES), found=name)
    if name != "system-prompt":
        return replace(arm, name=name, loop=name)
    if not system:
        raise SteeringError(
            "the suite has no system prompt to compare with", remedy="Give it one (system = ...), or leave this out."
        )
    return Arm(name, system=system)
