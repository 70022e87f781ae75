"""Export: seconds of each stage, the whole and the peak memory of making one sidecar of a built-in concept.

Then the claim on Jacobians: 25 prompts of 24 tokens, every block of SmolLM2 at full rank, in at most 75 s on two x86
cores and under 3 GB resident. Then both ways of linearizing against the published one, on the same prompts: at least
20 times faster at full rank, 200 times by feature cost. Each part runs in a process of its own, because peak memory is
a process's.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from common import in_alternation, print_table, spread
from numpy.typing import NDArray

from edgesteer.concept import load_concept, load_neutral, resolve_concept
from edgesteer.export.block_jacobian import BlockFunction
from edgesteer.export.jacobians import LinearizationPoints, mean_jacobians, sensitivities_at
from edgesteer.export.pipeline import ExportOptions, export_controller, tokenize_all
from edgesteer.export.sweep import Sweep, run_block
from edgesteer.export.weights import LoadedModel, load_model
from edgesteer.registry import resolve_model

MODEL, CONCEPT = "smollm2", "ocean"
JACOBIAN_PROMPTS, JACOBIAN_TOKENS = 25, 24
PUBLISHED, FULL_RANK, FEATURE_COST = "whole sequence (published)", "one token, full rank", "one token, feature cost"
PUBLISHED_PROMPTS, PUBLISHED_STEP, ROUNDS = 8, 10, 5


class Stopwatch:
    """A Progress that notes how long each stage took, until the next one began."""

    def __init__(self) -> None:
        self._began: list[tuple[str, float]] = []

    def stage(self, name: str, total: int) -> Callable[[], None]:
        self._began.append((name, time.perf_counter()))
        return lambda: None

    def rows(self) -> list[list[str]]:
        """Name and seconds of every stage, the last of which ends now."""
        ends = [start for _, start in self._began[1:]] + [time.perf_counter()]
        return [[name, f"{end - start:.1f}"] for (name, start), end in zip(self._began, ends, strict=True)]


def peak_gigabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak * 1024 / 1e9


def bench_export() -> None:
    watch, started = Stopwatch(), time.perf_counter()
    watch.stage("loading the model", 1)
    model = load_model(resolve_model(MODEL))
    export_controller(model, load_concept(resolve_concept(CONCEPT)), load_neutral(), ExportOptions(), watch)
    rows = [*watch.rows(), ["**in all**", f"{time.perf_counter() - started:.1f}"]]
    title = f"Export of `{CONCEPT}` for {MODEL}, peak {peak_gigabytes():.2f} GB resident"
    print_table(title, ["stage", "seconds"], rows)


def tokens_of(model: LoadedModel, count: int) -> list[torch.Tensor]:
    """Return the first tokens of neutral texts: JACOBIAN_TOKENS each."""
    texts = [text.tokens[:JACOBIAN_TOKENS] for text in tokenize_all(model, load_neutral()[:count])]
    assert {len(tokens) for tokens in texts} == {JACOBIAN_TOKENS}
    return texts


def bench_jacobians() -> None:
    model = load_model(resolve_model(MODEL))
    texts = tokens_of(model, JACOBIAN_PROMPTS)
    started = time.perf_counter()
    mean_jacobians(model, texts)
    seconds = time.perf_counter() - started
    title = f"Jacobians of {len(texts)} prompts of {JACOBIAN_TOKENS} tokens, {model.n_blocks} blocks of {MODEL}"
    print_table(title, ["seconds", "peak, GB resident"], [[f"{seconds:.1f}", f"{peak_gigabytes():.2f}"]])


def last_tokens(model: LoadedModel, tokens: torch.Tensor) -> list[tuple[BlockFunction, torch.Tensor]]:
    """Return each block as a function of the last token that runs the whole sequence, and that token: (n,) -> (n,)."""
    sweep = Sweep(model, [tokens])
    functions: list[tuple[BlockFunction, torch.Tensor]] = []
    for block in model.blocks:
        x, arguments = sweep[0], sweep.arguments[0][sweep.boundary]

        def last_token(last: torch.Tensor, block: Any = block, x: Any = x, arguments: Any = arguments) -> torch.Tensor:
            return run_block(block, torch.cat([x[:-1], last[None]])[None], arguments)[0, -1]

        functions.append((last_token, x[-1]))
        sweep.advance()
    return functions


def published_jacobians(functions: Sequence[tuple[BlockFunction, torch.Tensor]]) -> NDArray[np.float32]:
    """Return A_t of some blocks by differentiating the whole sequence's pass for all n outputs: (t, n, n).

    As the published implementation does (Skifstad, Yang, Chou, arXiv 2604.19018): autograd's jacobian, vectorized.
    """
    jacobian: Any = torch.autograd.functional.jacobian
    made: NDArray[np.float32] = torch.stack([jacobian(run, x, vectorize=True) for run, x in functions]).numpy()
    return made


def bench_published() -> None:
    """CPU seconds of one thread: they do not count what other processes do meanwhile, as far as caches allow.

    The published way is measured at one block in PUBLISHED_STEP and taken times that: blocks are alike.
    """
    torch.set_num_threads(1)
    model = load_model(resolve_model(MODEL))
    prompts = tokens_of(model, PUBLISHED_PROMPTS)
    whole = [last_tokens(model, tokens)[::PUBLISHED_STEP] for tokens in prompts]
    probes = np.random.default_rng(0).standard_normal((model.n_blocks + 1, model.width))
    made: dict[str, NDArray[Any]] = {}
    ways: dict[str, Callable[[], NDArray[Any]]] = {
        PUBLISHED: lambda: np.mean([published_jacobians(functions) for functions in whole], axis=0),
        FULL_RANK: lambda: mean_jacobians(model, prompts),
        FEATURE_COST: lambda: sensitivities_at(LinearizationPoints(model, prompts), probes),
    }

    def measure(name: str) -> float:
        started = time.process_time()
        made[name] = ways[name]()
        seconds = (time.process_time() - started) / len(prompts)
        return seconds * model.n_blocks / len(whole[0]) if name == PUBLISHED else seconds

    taken = in_alternation({name: partial(measure, name) for name in ways}, ROUNDS)
    difference = np.linalg.norm(made[FULL_RANK][::PUBLISHED_STEP] - made[PUBLISHED]) / np.linalg.norm(made[PUBLISHED])
    rows = [
        [name, spread(seconds, ".2f"), spread([a / b for a, b in zip(taken[PUBLISHED], seconds, strict=True)], ".1f")]
        for name, seconds in taken.items()
    ]
    shape = f"{len(prompts)} prompts of {JACOBIAN_TOKENS} tokens, {model.n_blocks} blocks of {MODEL}"
    headers = ["way", "CPU seconds a prompt: median (quartiles)", "times faster: median (quartiles)"]
    print_table(f"{shape}, one thread, {ROUNDS} rounds", headers, rows)
    print(f"\nThe Jacobians of the first two differ by {difference:.1e} (relative norm).")


PARTS = {"export": bench_export, "jacobians": bench_jacobians, "published": bench_published}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", nargs="?", choices=PARTS)
    part = parser.parse_args().part
    if part:
        PARTS[part]()
        return
    for name in PARTS:
        subprocess.run([sys.executable, __file__, name], check=True)


if __name__ == "__main__":
    main()
