"""Controller: the one object that crosses from the exporter to the runtime. A sidecar is its file form.

Layer numbering, used everywhere: blocks are numbered 0 .. n_blocks-1; the residual stream has n_blocks+1 boundaries,
boundary 0 is the (scaled) token embedding and boundary b+1 is the output of block b.

Every law is one shape. At a steered block i, for one token whose residual stream is x,

    error_i   = rest_i + level * span_i - (probe_i . x_read - offset_i)
    control_i = effort * phi(error_i)
    x        <- x + control_i * gain_i

where x_read is the block's output (`lqr`) or its input (`a-lqr`), probe_i is absent for `add` (then the measurement
is 0), and phi is the identity (hold), max(0, .) (floor) or min(0, .) (ceiling).

This file knows no torch, no llama.cpp and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import SidecarError, SteeringError

Array = NDArray[np.float32]

LAWS = ("lqr", "a-lqr", "add")
MODES = ("one-sided", "hold", "floor", "ceiling")
FADE_IN = 0.25
"""Strength from which `lqr` works at full effort; see Controller.command."""


class Command(NamedTuple):
    """What one row of a batch asks of one controller: the two scalars of the law and the shape of phi."""

    level: float
    effort: float
    mode: str  # hold, floor or ceiling


@dataclass(frozen=True)
class Sensor:
    """What the outer loop measures: intrinsic alpha at one block's output (design: loop across tokens)."""

    block: int
    """The block whose output is read."""
    probe: Array
    """(width,) whitened probe of that boundary."""
    offset: float
    """probe . (negative class mean), so that alpha is 0 there and 1 at the positive class mean."""
    target: float
    """Alpha above its neutral value that strength 1 asks the running mean to reach."""
    memory_tokens: float
    """Time constant of the running mean, in tokens."""
    push: Array
    """(len(blocks),) alpha that one unit of control at each steered block adds at the sensor."""
    prompt_mean: float
    """Mean alpha over the words of neutral prompts."""
    position_mean: Array
    """(positions,) mean alpha of neutral text by position in the generated text; the last entry holds from there on."""


@dataclass(frozen=True)
class Statistics:
    """Calibration statistics of alpha at every block's output; each array is (n_blocks,)."""

    positive_mean: Array
    positive_spread: Array
    negative_mean: Array
    negative_spread: Array
    neutral_mean: Array
    neutral_spread: Array
    separation: Array
    """Distance of the held-out prompt means of the two classes over their pooled standard deviation (d')."""


@dataclass(frozen=True)
class Provenance:
    """How a controller was made; enough to make it again."""

    state_cost: float = 0.0
    input_cost: float = 0.0
    terminal_cost: float = 0.0
    jacobian_count: int = 0
    seed: int = 0
    pooling: str = "mean"  # mean over the completion's tokens, or last
    shrinkage: float = 0.0
    concept_sha256: str = ""
    prompt_count: int = 0


@dataclass(frozen=True)
class Controller:
    """The feedback law of one concept for one model: m steered blocks of a residual stream of some width.

    Raises SidecarError when a tensor has the wrong shape or holds a value that is not finite.
    """

    name: str
    positive: str
    """Name of the pole that positive strengths steer towards."""
    negative: str
    law: str
    n_blocks: int
    blocks: tuple[int, ...]
    """The steered blocks, ascending."""
    probe: Array | None
    """(m, width), or None for a law that measures nothing."""
    offset: Array
    """(m,)"""
    gain: Array
    """(m, width)"""
    rest: Array
    """(m,) setpoint at level 0."""
    span: Array
    """(m,) change of the setpoint per unit of level."""
    scale: float = 1.0
    """Level per unit of strength: the calibration of the dial."""
    mode: str = "one-sided"
    default_strength: float = 1.0
    safe_range: tuple[float, float] = (-1.0, 1.0)
    sensor: Sensor | None = None
    statistics: Statistics | None = None
    provenance: Provenance = field(default_factory=Provenance)
    tracking_error_bound: float | None = None

    @property
    def width(self) -> int:
        return int(self.gain.shape[-1])

    @property
    def reads_block_input(self) -> bool:
        """True when the law measures the block's input (boundary i), False for its output (boundary i+1)."""
        return self.law == "a-lqr"

    def __post_init__(self) -> None:
        require(self.law in LAWS, self.name, "unknown law", expected=" or ".join(LAWS), found=self.law)
        require(self.mode in MODES, self.name, "unknown mode", expected=" or ".join(MODES), found=self.mode)
        require(
            bool(self.blocks)
            and list(self.blocks) == sorted(set(self.blocks))
            and self.blocks[0] >= 0
            and self.blocks[-1] < self.n_blocks,
            self.name,
            "steered blocks are wrong",
            expected=f"ascending numbers below {self.n_blocks}",
            found=self.blocks,
        )
        m = len(self.blocks)
        width = self.gain.shape[-1]
        check_tensor(self.gain, (m, width), f"{self.name}.gain")
        for name in ("offset", "rest", "span"):
            check_tensor(getattr(self, name), (m,), f"{self.name}.{name}")
        require(
            (self.probe is None) == (self.law == "add"),
            self.name,
            "probe does not fit the law",
            expected="a probe for every law but add",
            found=f"law {self.law}",
        )
        if self.probe is not None:
            check_tensor(self.probe, (m, width), f"{self.name}.probe")
        if self.sensor is not None:
            check_tensor(self.sensor.probe, (width,), f"{self.name}.sensor.probe")
            check_tensor(self.sensor.push, (m,), f"{self.name}.sensor.push")
            check_tensor(
                self.sensor.position_mean,
                (len(self.sensor.position_mean),),
                f"{self.name}.sensor.position_mean",
            )
            require(
                0 <= self.sensor.block < self.n_blocks,
                self.name,
                "sensor block is outside the model",
                expected=f"0 to {self.n_blocks - 1}",
                found=self.sensor.block,
            )
            require(
                self.sensor.memory_tokens >= 1 and len(self.sensor.position_mean) > 0,
                self.name,
                "sensor cannot be averaged over tokens",
                expected="memory_tokens of at least 1, and a neutral value of some position",
                found=f"{self.sensor.memory_tokens:g} and {len(self.sensor.position_mean)} values",
            )
        if self.statistics is not None:
            for f in fields(Statistics):
                check_tensor(getattr(self.statistics, f.name), (self.n_blocks,), f"{self.name}.statistics.{f.name}")
        low, high = self.safe_range
        require(
            low <= 0 <= high,
            self.name,
            "safe range does not hold 0",
            expected="low <= 0 <= high",
            found=self.safe_range,
        )

    def command(self, strength: float, mode: str | None = None) -> Command:
        """Turn the dial's position into the law's scalars: 0 is off, 1 the calibrated setting, -1 its mirror.

        The setpoint moves linearly with the strength. `lqr` holds even at the setpoint of strength 0, so there the
        effort fades in over the first FADE_IN of the dial, which then has no step at 0.
        """
        if not np.isfinite(strength):
            raise SteeringError(
                "strength is not a finite number",
                where=self.name,
                found=strength,
                remedy="Give a number such as 0.8.",
            )
        chosen = mode or self.mode
        if chosen not in MODES:
            raise SteeringError("unknown mode", where=self.name, expected=" or ".join(MODES), found=chosen)
        if self.law == "add":
            chosen = "hold"  # nothing is measured, so there is no side to restrict
        if chosen == "one-sided":
            chosen = "floor" if strength > 0 else "ceiling"
        effort = min(1.0, abs(strength) / FADE_IN) if self.law == "lqr" else float(strength != 0)
        return Command(level=strength * self.scale, effort=effort, mode=chosen)


def require(condition: bool, where: str, what: str, **details: Any) -> None:
    """Raise SidecarError unless the condition holds."""
    if not condition:
        raise SidecarError(what, where=where, remedy="Run `edgesteer export` again for this model.", **details)


def check_tensor(tensor: Array, shape: tuple[int, ...], name: str) -> None:
    """Raise SidecarError unless the tensor is float32, has this shape and holds finite values only."""
    require(
        tensor.dtype == np.float32 and tensor.shape == shape,
        name,
        "tensor has the wrong shape or type",
        expected=f"float32 {shape}",
        found=f"{tensor.dtype} {tensor.shape}",
    )
    require(
        bool(np.isfinite(tensor).all()),
        name,
        "tensor holds a value that is not finite",
        found=f"{int((~np.isfinite(tensor)).sum())} such values",
    )
