"""Learning on the device: time and memory of `edgesteer learn`, and how close its controller is to the exporter's.

Closeness: the exporter's controller steers a text; then both steer that same text, token by token, each with its own
loops. What is compared is alpha over the tokens, as the exporter's sensor reads it and as each one's own does:
|learned - exported| / |exported|, over all tokens of all prompts.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from common import print_table
from numpy.typing import NDArray

from edgesteer.chat import conversation
from edgesteer.concept import load_neutral
from edgesteer.controller import Controller
from edgesteer.registry import resolve_model
from edgesteer.runtime.batch import generate_all
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Request, Steering, chat_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.sidecar import read_sidecar

PROMPTS, TOKENS = 8, 40
EXPORTED, LEARNED = "exported", "learned"


def learn(options: argparse.Namespace, output: Path) -> list[str]:
    """Run `edgesteer learn` in a process of its own; return its seconds, CPU seconds and megabytes."""
    command = ["learn", options.model, "--dynamics", options.dynamics, "--concept", options.concept, "-o", output]
    threads = [] if options.threads is None else ["--threads", options.threads]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "edgesteer", *map(str, [*command, *threads]), "--quiet"], check=True)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = time.perf_counter() - start
    return [f"{seconds:.1f}", f"{used.ru_utime + used.ru_stime:.1f}", f"{used.ru_maxrss / 1e3:.0f}"]


def trajectories(
    engine: Engine, requests: list[Request], steering: list[Steering]
) -> tuple[list[list[int]], dict[str, NDArray[np.float64]]]:
    """Return the tokens of each text, and what each controller's sensor read at all of them, text after text."""
    results = generate_all(engine, [replace(each, steering=steering) for each in requests])
    names = [each.controller for each in steering]
    alpha = {name: np.concatenate([result.steering[i].alpha for result in results]) for i, name in enumerate(names)}
    return [result.tokens for result in results], alpha


def compare(model_path: Path, exported: Controller, learned: Controller, threads: int | None) -> list[list[str]]:
    """Return rows: whose sensor, mean alpha under both controllers, and their distance."""
    controllers = [replace(exported, name=EXPORTED), replace(learned, name=LEARNED)]
    with LlamaModel(model_path) as model, Engine(model, controllers, n_sequences=PROMPTS, threads=threads) as engine:
        prompts = [chat_prompt(model, conversation(each.prompt)) for each in load_neutral()[-PROMPTS:]]
        free = [Request(each, sampling=Sampling(temp=0), max_tokens=TOKENS) for each in prompts]
        texts, _ = trajectories(engine, free, [Steering(EXPORTED, 1.0)])
        forced = [Request(each, forced=text) for each, text in zip(prompts, texts, strict=True)]
        _, theirs = trajectories(engine, forced, [Steering(EXPORTED, 1.0)])
        _, ours = trajectories(engine, forced, [Steering(LEARNED, 1.0), Steering(EXPORTED, 1.0, rows="none")])
        _, none = trajectories(engine, forced, [Steering(EXPORTED, 1.0, rows="none")])
    rows = [("the exporter's", ours[EXPORTED]), ("its own", ours[LEARNED]), ("nothing steers", none[EXPORTED])]
    reference = theirs[EXPORTED]
    return [
        [name, f"{reference.mean():.3f}", f"{found.mean():.3f}",
         f"{np.linalg.norm(found - reference) / np.linalg.norm(reference):.1%}"]
        for name, found in rows
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("exported", type=Path, help="what `edgesteer export` made of the concept")
    parser.add_argument("dynamics", type=Path, help="what `edgesteer linearize` made of the model")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--concept", default="ocean")
    parser.add_argument("--output", type=Path, default=Path("learned.gguf"))
    parser.add_argument("--threads", type=int)
    options = parser.parse_args()
    cost = learn(options, options.output)
    print_table("edgesteer learn", ("seconds", "CPU seconds", "peak MB"), [cost])
    exported, learned = (next(iter(read_sidecar(p).controllers.values())) for p in (options.exported, options.output))
    print_table(
        "Alpha on the same texts",
        ("sensor", "alpha, exported", "alpha, learned", "distance"),
        compare(resolve_model(options.model), exported, learned, options.threads),
    )


if __name__ == "__main__":
    main()
