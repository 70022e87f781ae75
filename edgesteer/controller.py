"""Controller: the one object that crosses from the exporter to the runtime. A sidecar is its file form.

Layer numbering, used everywhere: blocks are numbered 0 .. n_blocks-1; the residual stream has n_blocks+1 boundaries,
boundary 0 is the (scaled) token embedding and boundary b+1 is the output of block b.

Every law is one shape. At a steered block i, for one token whose residual stream is x,

    error_i   = rest_i + level * span_i - (probe_i . x_read - offset_i)
    control_i = effort * phi(error_i)
    x        <- x + control_i * gain_i

where x_read is the block's output, or its input (`a-lqr`, `pid`), probe_i is absent for `add` (then the measurement
is 0), and phi is the identity (hold), max(0, .) (floor) or min(0, .) (ceiling). `scheduled` measures minus the
uncertainty about the next token, without a setpoint: control_i = level * max(0, uncertainty_i), so that its effort is
the level. Two laws write more than that:

    pid      x <- x + sum over j <= i of coupling_ij control_j gain_j: over the blocks that this token went through
    rotate   x is turned by effort * (rest_i + level * span_i) radians in the plane of two unit axes, gain_i = probe_i
             and axis_i, towards +gain_i or, if that is negative, -gain_i, and no further than the pole. The length of x
             stays. control_i is how far x moved along gain_i

This file knows no torch, no llama.cpp and no files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import SidecarError, SteeringError

Array = NDArray[np.float32]

LAWS = ("lqr", "a-lqr", "add", "scheduled", "ablate", "pid", "rotate")
LAWS_WITH_SIDES = ("lqr", "a-lqr", "pid")
"""They have a setpoint that a mode may hold from one side alone."""
LAWS_WITH_A_BOUND = ("lqr", "a-lqr")
"""Their feedback is proportional to one reading a block."""
MODES = ("one-sided", "hold", "floor", "ceiling")
FIXED = "fixed"
SHORTEST_WAY = 0.25
"""Least alpha from neutral text to a pole that a fixed target counts with: alpha scatters about as much."""
UNIT_TOLERANCE = 1e-4
FADE_IN = 0.25
"""Strength from which `lqr` works at full effort; see Controller.command."""
REMEDY = "Run `edgesteer export` again for this model."


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
    """Alpha above its neutral value that strength 1 asks the running mean to reach; otherwise where reference is fixed.
    """
    memory_tokens: float
    """Time constant of the running mean, in tokens."""
    push: Array
    """(len(blocks),) alpha that one unit of control at each steered block adds at the sensor."""
    prompt_mean: float
    """Mean alpha over the words of neutral prompts."""
    position_mean: Array
    """(positions,) mean alpha of neutral text by position in the generated text; the last entry holds from there on."""
    slope: float = 1.0
    """Effort per shortfall: it is full while 1 / slope of the target is missing, and less from there on."""
    fade_tokens: float = 0.0
    """Tokens of full effort that empty the reserve which every effort draws on; 0: it never empties."""
    recovery_tokens: float = 100.0
    """Time constant with which the reserve fills again."""
    reference: str | None = None
    """None: the target moves with the strength. `fixed`: it is a share of the way from neutral text to the pole, the
    same at every strength, which says only how hard to push."""

    def setpoint(self, dial: float) -> float:
        """Return what the running mean is to reach, above neutral. dial: Controller.dial of a strength."""
        if self.reference is None:
            return self.target * dial
        asked = self.target * float(np.sign(dial))
        neutral = (self.prompt_mean + float(self.position_mean[-1])) / 2
        return asked * max(SHORTEST_WAY, 1.0 - neutral if asked > 0 else neutral)


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
    cost: str | None = None
    """What state_cost and terminal_cost are on where that is not the whole residual stream: `feature`, alpha."""


@dataclass(frozen=True)
class Certificate:
    """How far from its setpoint alpha may be after control, where control acted; `edgesteer certify` measures it.

    Arrays are (2, efforts, m): towards the positive and the negative pole, at each effort, at each steered block.
    """

    level: float
    """Covers setpoints from -level to level."""
    mode: str
    """The mode that it covers."""
    risk: float
    """Share of a text's tokens that may exceed the bound, on average over texts like those it was measured on."""
    texts: int
    """How many those were."""
    effort: Array
    """(efforts,) ascending from 0, where nothing is steered."""
    bound: Array
    """From linearization residuals, whatever their signs; in units of alpha."""
    measured: Array
    """The same quantile of the errors that were measured on those texts."""

    def covers(self, command: Command) -> bool:
        return abs(command.level) <= self.level * 1.0001 and command.mode == sided(self.mode, command.level)

    def at(self, level: float, effort: float) -> Array:
        """Return the bound at each steered block, (m,): of the next lower effort in the table, which is no lower."""
        row = int(np.searchsorted(self.effort, np.float32(effort), side="right")) - 1
        bound: Array = self.bound[0 if level > 0 else 1, max(row, 0)]
        return bound


@dataclass(frozen=True)
class Pid:
    """Factors of law `pid`: on a block's error, on its sum over the blocks so far, on its change since the last."""

    proportional: float
    integral: float
    derivative: float


@dataclass(frozen=True)
class Controller:
    """The feedback law of one concept for one model: m steered blocks of a residual stream of some width.

    Raises SidecarError when a tensor has the wrong shape or holds a value that is not finite.
    """

    name: str
    positive: str
    """Name of the pole that positive strengths steer towards; those of `ablate` remove what sets the poles apart."""
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
    negative_scale: float | None = None
    """The same for strengths below 0, where the two sides are calibrated apart; None: scale."""
    mode: str = "one-sided"
    default_strength: float = 1.0
    safe_range: tuple[float, float] = (-1.0, 1.0)
    """Strengths beyond it break text. One that begins at 0 says that the controller steers one way only."""
    sensor: Sensor | None = None
    statistics: Statistics | None = None
    provenance: Provenance = field(default_factory=Provenance)
    certificate: Certificate | None = None
    axis: Array | None = None
    """(m, width) the second axis of the planes of `rotate`; None for the other laws."""
    pid: Pid | None = None
    """None but for `pid`."""

    @property
    def width(self) -> int:
        return int(self.gain.shape[-1])

    @property
    def reads_block_input(self) -> bool:
        """True when the law measures the block's input (boundary i), False for its output (boundary i+1)."""
        return self.law in ("a-lqr", "pid")

    @property
    def has_setpoint(self) -> bool:
        """Whether control is by the distance of a reading of the concept from where it should be."""
        return self.law not in ("scheduled", "rotate")

    @property
    def coupling(self) -> NDArray[np.float64]:
        """(m, m) lower triangular: the i-th steered block writes the sum over j of coupling_ij control_j gain_j."""
        unit = np.eye(len(self.blocks))
        if self.pid is None:
            return unit
        last = np.eye(len(self.blocks), k=-1)
        sums = np.tri(len(self.blocks))
        coupling: NDArray[np.float64] = (
            self.pid.proportional * unit + self.pid.integral * sums + self.pid.derivative * (unit - last)
        )
        return coupling

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
        self._check_law()
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
            require(
                self.sensor.reference in (None, FIXED),
                self.name,
                "unknown reference of the sensor",
                expected=FIXED,
                found=self.sensor.reference,
            )
            fade, recovery = self.sensor.fade_tokens, self.sensor.recovery_tokens
            require(
                self.sensor.slope > 0 and (fade == 0 or fade >= 1) and recovery >= 1,
                self.name,
                "sensor gives no effort",
                expected="slope above 0, fade_tokens 0 or at least 1, recovery_tokens at least 1",
                found=f"{self.sensor.slope:g}, {fade:g} and {recovery:g}",
            )
        if self.statistics is not None:
            for f in fields(Statistics):
                check_tensor(getattr(self.statistics, f.name), (self.n_blocks,), f"{self.name}.statistics.{f.name}")
        if self.certificate is not None:
            check_certificate(self.certificate, m, f"{self.name}.certificate")
        require(
            self.negative_scale is None or not (self.scale <= 0 or self.negative_scale <= 0),
            self.name,
            "scales do not fit each other",
            expected="both above 0",
            found=f"{self.scale:g} and {self.negative_scale}",
        )
        low, high = self.safe_range
        require(
            low <= 0 <= high,
            self.name,
            "safe range does not hold 0",
            expected="low <= 0 <= high",
            found=self.safe_range,
        )

    def _check_law(self) -> None:
        for name, given, laws in (
            ("probe", self.probe, [law for law in LAWS if law != "add"]),
            ("axis", self.axis, ["rotate"]),
            ("pid", self.pid, ["pid"]),
        ):
            require(
                (given is not None) == (self.law in laws),
                self.name,
                f"{name} does not fit the law",
                expected=f"one for {', '.join(laws)} only",
                found=f"law {self.law}",
            )
        for name, tensor in (("probe", self.probe), ("axis", self.axis)):
            if tensor is not None:
                check_tensor(tensor, self.gain.shape, f"{self.name}.{name}")
        if self.law in ("ablate", "rotate"):
            self._check_unit_vectors()

    def _check_unit_vectors(self) -> None:
        vectors = [self.gain] if self.axis is None else [self.gain, self.axis]
        products = np.einsum("amn,bmn->mab", vectors, vectors)
        zeros = [self.offset] if self.law == "rotate" else [self.offset, self.rest, self.span]
        require(
            np.allclose(products, np.eye(len(vectors)), atol=UNIT_TOLERANCE)
            and bool(np.all(self.probe == self.gain))
            and not np.any(zeros),
            self.name,
            "vectors do not fit the law",
            expected="gain (and axis) orthogonal and of length 1, probe = gain, offset = 0, for ablate rest = span = 0",
        )

    def dial(self, strength: float) -> float:
        """Return a strength in units of the positive side: the factor of the level and of the outer loop's target."""
        if strength >= 0 or self.negative_scale is None:
            return strength
        return strength * self.negative_scale / self.scale

    def command(self, strength: float, mode: str | None = None) -> Command:
        """Turn the dial's position into the law's scalars: 0 is off, 1 the calibrated setting, -1 the other side's.

        The setpoint moves linearly with the strength. `lqr` holds even at the setpoint of strength 0, so there the
        effort fades in over the first FADE_IN of the dial, which then has no step at 0. `ablate` has no setpoint: the
        strength is the share that is removed, from 0 to 1. Raises SteeringError for a strength or a mode that the
        controller does not have.
        """
        if not np.isfinite(strength):
            raise SteeringError(
                "strength is not a finite number",
                where=self.name,
                found=strength,
                remedy="Give a number such as 0.8.",
            )
        if strength < 0 == self.safe_range[0]:
            raise SteeringError(
                f"this controller steers towards {self.positive} only",
                where=self.name,
                expected="a strength of 0 or more",
                found=strength,
            )
        chosen = mode or self.mode
        if chosen not in MODES:
            raise SteeringError("unknown mode", where=self.name, expected=" or ".join(MODES), found=chosen)
        efforts = {"lqr": min(1.0, abs(strength) / FADE_IN), "ablate": min(1.0, max(0.0, strength))}
        effort = efforts.get(self.law, float(strength != 0))
        return self.at_level(self.dial(strength) * self.scale, effort, sided(chosen, strength))

    def at_level(self, level: float, effort: float = 1.0, mode: str | None = None) -> Command:
        """Return the command of a level. mode: None for the controller's."""
        if self.law == "scheduled":
            return Command(level=0.0, effort=effort * level, mode="floor")
        if self.law not in LAWS_WITH_SIDES:
            mode = "hold"
        return Command(level=level, effort=effort, mode=sided(mode or self.mode, level))


def sided(mode: str, strength: float) -> str:
    """Return hold, floor or ceiling: the side that one-sided means at this sign of the strength."""
    return mode if mode != "one-sided" else "floor" if strength > 0 else "ceiling"


def check_certificate(certificate: Certificate, n_steered: int, where: str) -> None:
    """Raise SidecarError unless the table has a bound for every pole, effort and steered block."""
    efforts = len(certificate.effort)
    check_tensor(certificate.effort, (efforts,), f"{where}.effort")
    for name in ("bound", "measured"):
        check_tensor(getattr(certificate, name), (2, efforts, n_steered), f"{where}.{name}")
    require(certificate.mode in MODES, where, "unknown mode", expected=" or ".join(MODES), found=certificate.mode)
    require(
        efforts > 0 and certificate.effort[0] == 0 and bool(np.all(np.diff(certificate.effort) > 0)),
        where,
        "efforts are wrong",
        expected="ascending from 0",
        found=certificate.effort.tolist(),
    )


def require(condition: bool, where: str, what: str, *, remedy: str | None = REMEDY, **details: Any) -> None:
    """Raise SidecarError unless the condition holds."""
    if not condition:
        raise SidecarError(what, where=where, remedy=remedy, **details)


def check_tensor(tensor: Array, shape: tuple[int, ...], name: str, *, remedy: str = REMEDY) -> None:
    """Raise SidecarError unless the tensor is float32, has this shape and holds finite values only."""
    require(
        tensor.dtype == np.float32 and tensor.shape == shape,
        name,
        "tensor has the wrong shape or type",
        expected=f"float32 {shape}",
        found=f"{tensor.dtype} {tensor.shape}",
        remedy=remedy,
    )
    require(
        bool(np.isfinite(tensor).all()),
        name,
        "tensor holds a value that is not finite",
        found=f"{int((~np.isfinite(tensor)).sum())} such values",
        remedy=remedy,
    )
