"""The dynamics of a model: low-rank factors of its blocks' Jacobians, and where neutral text lies.

Independent of any concept. No n x n matrix is formed: the Jacobians are known by products, one token through one block.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.func import jvp, vjp, vmap

from edgesteer.concept import Example
from edgesteer.control.activations import Activations
from edgesteer.control.classes import POSITIONS
from edgesteer.control.covariance import factor_covariance
from edgesteer.control.low_rank import Factorization, Product, power_iterations, randomized_factors
from edgesteer.control.options import require_option
from edgesteer.controller import Array
from edgesteer.dynamics import Dynamics
from edgesteer.export.activations import collect_activations
from edgesteer.export.block_jacobian import BlockFunction
from edgesteer.export.jacobians import LinearizationPoints, alone
from edgesteer.export.pipeline import tokenize_all
from edgesteer.export.weights import LoadedModel, TokenizedText
from edgesteer.export.workers import ALONE, Workers
from edgesteer.progress import Progress
from edgesteer.tokens import neutral_parts, neutral_rows

BlockProduct = Callable[[BlockFunction, torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class LinearizeOptions:
    """How closely the dynamics are kept; docs/dynamics.md measures what the defaults leave out."""

    rank: int = 192
    """Most factors of a block's Jacobian less the identity."""
    energy: float = 1.0
    """Share of its squared entries to keep; fewer factors where they keep as much."""
    passes: int = 1
    """Power iterations of the randomized factorization: each doubles its time and sharpens it."""
    covariance_rank: int = 64
    """Factors of the token correlations at each boundary."""
    jacobian_prompts: int = 24
    """Neutral texts to linearize the blocks at."""
    seed: int = 0
    """Of the draw of those texts and of the factorization."""

    def __post_init__(self) -> None:
        for name, in_range, expected in (
            ("rank", self.rank >= 1, "at least 1"),
            ("energy", 0 < self.energy <= 1, "above 0, at most 1"),
            ("passes", self.passes >= 0, "at least 0"),
            ("covariance_rank", self.covariance_rank >= 1, "at least 1"),
            ("jacobian_prompts", self.jacobian_prompts >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            require_option(self, name, in_range, expected)


def linearize(
    model: LoadedModel,
    neutral: Sequence[Example],
    options: LinearizeOptions,
    progress: Progress,
    workers: Workers = ALONE,
) -> Dynamics:
    """Return the dynamics of a model on neutral texts. The same arguments give the same up to rounding.

    Raises ConceptError when a text has no tokens, ModelError when the model has no blocks that run on one token alone.
    """
    texts = tokenize_all(model, neutral)
    statistics = neutral_statistics(model, texts, options.covariance_rank, progress, workers)
    sequences = [text.tokens for text in drawn_texts(texts, options)]
    products = 2 + 2 * power_iterations(model.width, options.rank, options.passes)
    advance = progress.stage("Jacobian factors", model.n_blocks * len(sequences) * (1 + products))
    points = LinearizationPoints(model, sequences, workers, advance)
    blocks = [factors_at(points, number, options, advance) for number in range(model.n_blocks)]
    return Dynamics(
        n_blocks=model.n_blocks,
        ranks=tuple(len(block.right) for block in blocks),
        left=np.concatenate([block.left.T for block in blocks], dtype=np.float32),
        right=np.concatenate([block.right for block in blocks], dtype=np.float32),
        energy=np.array([block.energy for block in blocks], dtype=np.float32),
        **statistics,
        jacobian_count=len(sequences),
        seed=options.seed,
    )


def drawn_texts(texts: Sequence[TokenizedText], options: LinearizeOptions) -> list[TokenizedText]:
    """Return the texts to linearize at, drawn with the seed."""
    drawn = np.random.default_rng(options.seed).permutation(len(texts))[: options.jacobian_prompts]
    return [texts[index] for index in sorted(drawn)]


def factors_at(
    points: LinearizationPoints, number: int, options: LinearizeOptions, advance: Callable[[], None] = lambda: None
) -> Factorization:
    """Return the factors of the mean of one block's A - I at some points. advance: once a product and sequence."""
    names = (f"factors-{count}" for count in itertools.count())

    def products(product: BlockProduct) -> Product:
        def apply(columns: NDArray[Any]) -> NDArray[Any]:
            rows = torch.from_numpy(np.ascontiguousarray(columns.T))
            mean = points.mean(next(names), number, lambda run, x: product(alone(run), x[0], rows.to(x))[None], advance)
            less: NDArray[Any] = (mean - rows).numpy().T
            return less

        return apply

    return randomized_factors(
        products(tangents),
        products(cotangents),
        points.model.width,
        options.rank,
        energy=options.energy,
        passes=options.passes,
        seed=options.seed,
    )


@torch.no_grad()
def tangents(run: BlockFunction, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return A v for each row v, by forward products: (j, n)."""
    pushed: torch.Tensor = vmap(lambda v: jvp(run, (x,), (v,))[1])(rows)
    return pushed


def cotangents(run: BlockFunction, x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Return A' v for each row v, by reverse products: (j, n)."""
    pull = vjp(run, x)[1]
    pulled: torch.Tensor = vmap(pull)(rows)[0]
    return pulled


def neutral_statistics(
    model: LoadedModel, texts: Sequence[TokenizedText], rank: int, progress: Progress, workers: Workers
) -> dict[str, Any]:
    """Return the fields of Dynamics that say where the residual stream lies; rank: factors of the correlations."""
    advance = progress.stage("neutral text", len(texts) * model.n_blocks)
    completions, prompts = neutral_parts(collect_activations(model, texts, advance, neutral_rows, workers), texts)
    step = completions.position - np.array([text.completion_start for text in texts])[completions.text]
    rows = [boundary_statistics(completions, prompts, step, boundary, rank) for boundary in range(model.n_blocks + 1)]
    stacked = {name: np.stack([row[name] for row in rows]).astype(np.float32) for name in rows[0]}
    return {
        **stacked,
        "position_mean": np.ascontiguousarray(stacked["position_mean"].swapaxes(0, 1)),
        "text_count": len(texts),
        "token_count": len(step),
    }


def boundary_statistics(
    completions: Activations, prompts: Activations, step: NDArray[np.int64], boundary: int, rank: int
) -> dict[str, NDArray[Any]]:
    """Return mean, spread, correlation factors and means by position at one boundary; step: (N,) of each token."""
    tokens, words = completions.at(boundary), prompts.at(boundary)
    mean = tokens.mean(axis=0, dtype=np.float64)
    covariance = factor_covariance(tokens - mean, rank)
    return {
        "mean": mean,
        "spread": covariance.spread,
        "factors": covariance.factors,
        "position_mean": means_by_position(tokens, step),
        "prompt_mean": words.mean(axis=0, dtype=np.float64) if len(words) else mean,
    }


def means_by_position(tokens: Array, step: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the mean of the tokens at each of the first positions, the last for all from there on: (POSITIONS, n)."""
    late = step >= POSITIONS - 1
    settled = tokens[late if late.any() else slice(None)].mean(axis=0, dtype=np.float64)
    rows = [tokens[step == k].mean(axis=0, dtype=np.float64) if np.any(step == k) else settled
            for k in range(POSITIONS - 1)]  # fmt: skip
    return np.stack([*rows, settled])
