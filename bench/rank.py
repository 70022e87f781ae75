"""Rank: how many factors of A_t - I a dynamics sidecar has to hold, against the exact Jacobians of neutral texts.

For each rank, what the best factors keep at the worst block: the energy of A_t - I, the gain matrices K_t of the
Riccati recursion, and the gains of law `lqr` along the class directions of a concept. 1 is everything; of a gain, it is
1 less the relative error. Seconds are of the processor, for the recursion; megabytes are those of the factors' file.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from common import MODELS, print_table
from numpy.typing import NDArray

from edgesteer.concept import load_concept, load_neutral, resolve_concept
from edgesteer.control import riccati
from edgesteer.control.factored import CostToGo, Vector, regulator_direction, solve_factored
from edgesteer.control.factored_model import TOLERANCE
from edgesteer.control.low_rank import LowRankBlock
from edgesteer.export.activations import collect_activations
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.linearize import LinearizeOptions, drawn_texts
from edgesteer.export.pipeline import ExportOptions, tokenize_all
from edgesteer.export.weights import LoadedModel, load_model
from edgesteer.registry import resolve_model

CONCEPT = "ocean"
TEXTS = 16
"""Of each pole, for the class directions."""
SHARES = (1 / 18, 1 / 9, 1 / 6, 2 / 9, 1 / 3, 4 / 9, 5 / 9, 2 / 3, 7 / 9)
"""Ranks over the width."""
HEADERS = ("rank", "energy", "gain matrices", "gains of lqr", "their mean", "MB", "seconds")

Float = NDArray[np.float64]


def class_directions(model: LoadedModel) -> Float:
    """Return E_t at every boundary, (T+1, n)."""
    concept = load_concept(resolve_concept(CONCEPT))
    up, down = (
        collect_activations(model, tokenize_all(model, examples[:TEXTS])).pooled("mean").mean(axis=0, dtype=np.float64)
        for examples in (concept.positive_examples, concept.negative_examples)
    )
    difference: Float = up - down
    return difference


def table(jacobians: Float, directions: Float) -> Iterator[list[str]]:
    """Yield a row for every rank. jacobians: (T, n, n). directions: (T+1, n)."""
    options = ExportOptions()
    costs = {name: getattr(options, name) for name in ("state_cost", "input_cost", "terminal_cost")}
    exact = riccati.solve_riccati(jacobians, **costs)
    gains = [
        riccati.regulator_direction(s, e, input_cost=options.input_cost)
        for s, e in zip(exact.cost_to_go[1:], directions[1:], strict=True)
    ]
    width = jacobians.shape[1]
    spectra = [np.linalg.svd(jacobian - np.eye(width)) for jacobian in jacobians]
    for rank in (round(share * width) for share in SHARES):
        blocks = [LowRankBlock(u[:, :rank] * sizes[:rank], v[:rank]) for u, sizes, v in spectra]
        started = time.process_time()
        solved = solve_factored(blocks, **costs, tolerance=TOLERANCE)[1:]
        seconds = time.process_time() - started
        energy = np.array([np.sum(sizes[:rank] ** 2) / np.sum(sizes**2) for _, sizes, _ in spectra])
        matrices = kept(products(solved, [block.dense for block in blocks], options), exact.gains)
        directed = kept(products(solved, directions[1:], options), gains)
        worst = [f"{each.min():.3f}" for each in (energy, matrices, directed)]
        megabytes = 2 * 2 * len(blocks) * rank * width / 1e6
        yield [str(rank), *worst, f"{directed.mean():.3f}", f"{megabytes:.1f}", f"{seconds:.1f}"]


def products(costs_to_go: Sequence[CostToGo], regulated: Iterable[Vector], options: ExportOptions) -> list[Vector]:
    """Return (S + R)^-1 S X at the output of every block."""
    return [
        regulator_direction(s, x, input_cost=options.input_cost) for s, x in zip(costs_to_go, regulated, strict=True)
    ]


def kept(approximate: Sequence[Vector], exact: Iterable[Vector]) -> Float:
    """Return 1 less the relative error of each block's gain, (T,)."""
    pairs = zip(approximate, exact, strict=True)
    return np.array([1 - np.linalg.norm(a - e) / np.linalg.norm(e) for a, e in pairs])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0])
    parser.add_argument("--prompts", type=int, default=LinearizeOptions().jacobian_prompts)
    arguments = parser.parse_args()
    model = load_model(resolve_model(arguments.model))
    options = LinearizeOptions(jacobian_prompts=arguments.prompts)
    texts = drawn_texts(tokenize_all(model, load_neutral()), options)
    jacobians = mean_jacobians(model, [text.tokens for text in texts]).astype(np.float64)
    title = f"What the best factors of {len(jacobians)} blocks of {arguments.model} keep, {len(texts)} neutral texts"
    print_table(title, HEADERS, list(table(jacobians, class_directions(model))))


if __name__ == "__main__":
    main()
