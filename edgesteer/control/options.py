"""ControllerOptions: how a controller is made, whoever makes it. Plain values and their checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from edgesteer.controller import FIXED, LAWS
from edgesteer.errors import SteeringError

POOLINGS = ("mean", "last")
DIRECTIONS = ("mean", "pca")
REFERENCES = ("dial", FIXED)


class Loop(NamedTuple):
    """The outer loop; see Sensor in edgesteer/controller.py."""

    reference: str = "dial"
    target: float = 1.0
    memory_tokens: float = 8.0
    slope: float = 1.0
    fade_tokens: float = 0.0


SCHEDULED_LOOP = Loop(FIXED, target=0.6, memory_tokens=12.0, slope=2.0, fade_tokens=8.0)


@dataclass(frozen=True)
class ControllerOptions:
    """tests/runtime/test_steering.py measures what the defaults do. Raises SteeringError for values out of range."""

    law: str = "lqr"
    """The law; scheduled: a static vector whose gain follows how undecided the next token is; a-lqr as published, add a
    static vector, ablate, pid and rotate the other baselines."""
    direction: str = "mean"
    """Of law add: the difference of the class means, or the first principal component of the pairs' differences."""
    pooling: str = "mean"
    """One activation per text: the mean over its completion's tokens, or its last token."""
    shrinkage: float = 0.3
    """Of the token covariance towards its diagonal."""
    state_cost: float = 1.0
    """q: on the deviation of the residual stream at every boundary."""
    input_cost: float = 10.0
    """r: on the control."""
    terminal_cost: float = 1.0
    """q_f: on the deviation of the last boundary."""
    proportional: float = 1.0
    """Factor of pid on a block's error."""
    integral: float = 0.1
    """Factor of pid on the sum of the errors of the blocks so far."""
    derivative: float = 0.1
    """Factor of pid on the error's change since the block before."""
    blocks: tuple[int, ...] | None = None
    """The steered blocks."""
    target: float | None = None
    """What strength 1 asks the text to read above neutral, in distances of the classes, or, where it is fixed, as a
    share of the way to the pole; by default 1, for scheduled 0.6."""
    reference: str | None = None
    """Whether that target moves with the dial, or is fixed, so that strength says only how hard to push: dial, but for
    scheduled fixed."""
    memory_tokens: float | None = None
    """Time constant of the outer loop's running mean; by default 8, for scheduled 12."""
    slope: float | None = None
    """Of the outer loop's effort over the share of the target that is missing; by default 1, for scheduled 2."""
    fade_tokens: float | None = None
    """Tokens of full effort that empty the outer loop's reserve, 0: it never empties; by default 0, for scheduled 8."""
    recovery_tokens: float = 100.0
    """Time constant with which the reserve fills again."""
    dial_nats: float = 0.5
    """Divergence per token on neutral text, without the outer loop, that strength 1 may cause."""
    safe_nats: float = 1.5
    """The same at the ends of the safe range."""
    seed: int = 0
    """Of the draws: texts to linearize at, held-out folds."""

    of_analysis = ("pooling", "shrinkage", "seed")  # not a field: the options that an Analysis depends on

    @property
    def loop(self) -> Loop:
        """The outer loop that is asked for; what is left open is as is best for the law."""
        given = {name: value for name in Loop._fields if (value := getattr(self, name)) is not None}
        return (SCHEDULED_LOOP if self.law == "scheduled" else Loop())._replace(**given)

    def __post_init__(self) -> None:
        loop = self.loop
        for value, allowed, name in (
            (self.law, LAWS, "law"),
            (self.direction, DIRECTIONS if self.law == "add" else DIRECTIONS[:1], "direction"),
            (self.pooling, POOLINGS, "pooling"),
            (loop.reference, REFERENCES, "reference"),
        ):
            if value not in allowed:
                raise SteeringError(f"unknown {name}", expected=" or ".join(allowed), found=value)
        for name, in_range, expected in (
            ("shrinkage", 0 < self.shrinkage <= 1, "above 0, at most 1"),
            ("state_cost", self.state_cost >= 0, "at least 0"),
            ("input_cost", self.input_cost > 0, "above 0"),
            ("terminal_cost", self.terminal_cost >= 0, "at least 0"),
            ("proportional", self.proportional >= 0, "at least 0"),
            ("integral", self.integral >= 0, "at least 0"),
            ("derivative", self.derivative >= 0, "at least 0"),
            ("target", loop.target > 0, "above 0"),
            ("memory_tokens", loop.memory_tokens >= 1, "at least 1"),
            ("slope", loop.slope > 0, "above 0"),
            ("fade_tokens", loop.fade_tokens == 0 or loop.fade_tokens >= 1, "0 or at least 1"),
            ("recovery_tokens", self.recovery_tokens >= 1, "at least 1"),
            ("dial_nats", self.dial_nats > 0, "above 0"),
            ("safe_nats", self.safe_nats > 0, "above 0"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            require_option(self, name, in_range, expected)


def require_option(options: object, name: str, in_range: bool, expected: str) -> None:
    """Raise SteeringError unless an option's value is in its range."""
    if not in_range:
        raise SteeringError(f"{name} is out of range", expected=expected, found=getattr(options, name))
