"""Dynamics: what every concept's controller needs to know of one model. A dynamics sidecar is its GGUF file.

How each block moves a small deviation of the residual stream, and where the stream lies on neutral text. Blocks are
numbered as in edgesteer/controller.py. The only file that knows the format's keys; DYNAMICS.md is the format. Knows no
torch and no llama.cpp.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesteer.control.covariance import FactoredCovariance
from edgesteer.control.low_rank import LowRankBlock
from edgesteer.controller import Array, check_tensor, require
from edgesteer.errors import SidecarError
from edgesteer.fingerprint import Fingerprint
from edgesteer.gguf_fields import FieldReader, check_header, flattened
from edgesteer.gguf_file import open_gguf, write_gguf

ARCHITECTURE = "edgesteer-dynamics"
FORMAT_VERSION = 1

TYPE_KEY = "general.type"
VERSION_KEY = "edgesteer.format_version"
FINGERPRINT_PREFIX = "edgesteer.model"
DYNAMICS_PREFIX = "edgesteer.dynamics"

HALF_PRECISION = ("left", "right", "factors")
"""Tensors that files hold as F16: their entries are at most of the size of the square root of a singular value."""

REMEDY = "Run `edgesteer linearize` again for this model."


@dataclass(frozen=True)
class Dynamics:
    """T blocks of a residual stream of width n, T+1 boundaries. Every array is float32.

    Block t moves a deviation by A_t = I + sum_i left_i right_i', over its ranks[t] rows of left and right; those of
    block 0 come first. A_t is the mean of Jacobians at the last tokens of neutral texts, all other tokens held fixed.
    Raises SidecarError when a tensor has the wrong shape or holds a value that is not finite.
    """

    n_blocks: int
    ranks: tuple[int, ...]
    """(T,)"""
    left: Array
    """(sum of ranks, n)"""
    right: Array
    """(sum of ranks, n)"""
    energy: Array
    """(T,) share of |A_t - I|^2 (Frobenius) that the factors keep, estimated."""
    mean: Array
    """(T+1, n) mean residual stream over the tokens of neutral completions: the negative class of any concept."""
    spread: Array
    """(T+1, n) standard deviation of each coordinate there."""
    factors: Array
    """(T+1, c, n) the correlation matrix of the coordinates is about F' F with its diagonal set to 1; |F| <= 1."""
    position_mean: Array
    """(positions, T+1, n) the mean by position in the completion; the last one holds from there on."""
    prompt_mean: Array
    """(T+1, n) mean over the words of the neutral prompts."""
    text_count: int
    """Neutral texts that the statistics are of."""
    token_count: int
    """Tokens of their completions."""
    jacobian_count: int
    """Neutral texts that the blocks were linearized at."""
    seed: int
    """Of the draw of those texts and of the randomized factorization."""

    @property
    def width(self) -> int:
        return int(self.mean.shape[-1])

    @property
    def blocks(self) -> tuple[LowRankBlock, ...]:
        """A_t of every block."""
        ends = np.cumsum(self.ranks)
        return tuple(
            LowRankBlock(self.left[end - rank : end].T, self.right[end - rank : end])
            for end, rank in zip(ends, self.ranks, strict=True)
        )

    def covariance(self, boundary: int) -> FactoredCovariance:
        """Return the covariance of the tokens of neutral completions at one boundary."""
        return FactoredCovariance(self.spread[boundary].astype(np.float64), self.factors[boundary].astype(np.float64))

    def __post_init__(self) -> None:
        require(
            len(self.ranks) == self.n_blocks and all(rank >= 1 for rank in self.ranks),
            "ranks",
            "ranks do not fit the model",
            expected=f"{self.n_blocks} numbers of at least 1",
            found=self.ranks,
            remedy=REMEDY,
        )
        boundaries, width, rows = self.n_blocks + 1, self.width, sum(self.ranks)
        for name, shape in {
            "left": (rows, width),
            "right": (rows, width),
            "energy": (self.n_blocks,),
            "mean": (boundaries, width),
            "spread": (boundaries, width),
            "factors": (boundaries, self.factors.shape[1] if self.factors.ndim == 3 else 1, width),
            "position_mean": (max(1, len(self.position_mean)), boundaries, width),
            "prompt_mean": (boundaries, width),
        }.items():
            check_tensor(getattr(self, name), shape, name, remedy=REMEDY)
        require(
            bool(np.all(self.spread >= 0)) and bool(np.all(np.sum(self.factors**2, axis=1) <= 1.01)),
            "factors",
            "no covariance has these factors",
            expected="a spread of at least 0 and columns of at most length 1",
            remedy=REMEDY,
        )


@dataclass(frozen=True)
class DynamicsSidecar:
    """What one file holds. Raises SidecarError when the dynamics do not fit the fingerprint."""

    fingerprint: Fingerprint
    dynamics: Dynamics

    def __post_init__(self) -> None:
        for size in ("n_blocks", "width"):
            ours, theirs = getattr(self.dynamics, size), getattr(self.fingerprint, size)
            what = f"{size} of the dynamics is not the model's"
            require(ours == theirs, "dynamics", what, expected=theirs, found=ours, remedy=REMEDY)


def write_dynamics(path: str | os.PathLike[str], sidecar: DynamicsSidecar) -> None:
    """Write the file atomically. The same dynamics give the same bytes.

    Raises EdgeSteerError when the file cannot be written, SidecarError when half precision cannot hold a factor.
    """
    metadata: dict[str, Any] = {TYPE_KEY: "adapter", VERSION_KEY: FORMAT_VERSION}
    metadata.update(flattened(FINGERPRINT_PREFIX, sidecar.fingerprint))
    tensors: dict[str, Any] = {}
    for key, value in flattened(DYNAMICS_PREFIX, sidecar.dynamics):
        if isinstance(value, np.ndarray):
            name = key.removeprefix(f"{DYNAMICS_PREFIX}.")
            tensors[name] = _halved(name, value) if name in HALF_PRECISION else value
        else:
            metadata[key] = value
    write_gguf(path, ARCHITECTURE, metadata, tensors)


def _halved(name: str, tensor: Array) -> np.ndarray[Any, np.dtype[np.float16]]:
    largest = float(np.abs(tensor).max(initial=0.0))
    most = float(np.finfo(np.float16).max)
    what = "value does not fit half precision"
    require(largest <= most, name, what, expected=f"up to {most:g}", found=largest, remedy=None)
    return tensor.astype(np.float16)


def read_dynamics(path: str | os.PathLike[str]) -> DynamicsSidecar:
    """Read a dynamics sidecar.

    Raises SidecarError, which names the file and the key or tensor at fault, when the file is missing, truncated,
    corrupt, no dynamics sidecar, of another format version, or holds dynamics that cannot be used.
    """
    with open_gguf(path, SidecarError, REMEDY) as reader:
        check_header(reader, "dynamics sidecar", ARCHITECTURE, VERSION_KEY, FORMAT_VERSION, "linearize")
        fields = FieldReader(reader, f"{DYNAMICS_PREFIX}.", REMEDY, HALF_PRECISION)
        return DynamicsSidecar(fields.build(Fingerprint, FINGERPRINT_PREFIX), fields.build(Dynamics, DYNAMICS_PREFIX))
