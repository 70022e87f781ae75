"""Export: seconds of each stage, the whole and the peak memory of making one sidecar of a built-in concept.

Then the claim on Jacobians: 25 prompts of 24 tokens, every block of SmolLM2 at full rank, in at most 75 s on two x86
cores and under 3 GB resident. Each part runs in a process of its own, because peak memory is a process's.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from collections.abc import Callable

from common import print_table

from edgesteer.concept import load_concept, load_neutral, resolve_concept
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.pipeline import ExportOptions, export_controller, tokenize_all
from edgesteer.export.weights import load_model
from edgesteer.registry import resolve_model

MODEL, CONCEPT = "smollm2", "ocean"
JACOBIAN_PROMPTS, JACOBIAN_TOKENS = 25, 24


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


def bench_jacobians() -> None:
    model = load_model(resolve_model(MODEL))
    texts = [text.tokens[:JACOBIAN_TOKENS] for text in tokenize_all(model, load_neutral()[:JACOBIAN_PROMPTS])]
    assert {len(tokens) for tokens in texts} == {JACOBIAN_TOKENS}
    started = time.perf_counter()
    mean_jacobians(model, texts)
    seconds = time.perf_counter() - started
    title = f"Jacobians of {len(texts)} prompts of {JACOBIAN_TOKENS} tokens, {model.n_blocks} blocks of {MODEL}"
    print_table(title, ["seconds", "peak, GB resident"], [[f"{seconds:.1f}", f"{peak_gigabytes():.2f}"]])


PARTS = {"export": bench_export, "jacobians": bench_jacobians}


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
