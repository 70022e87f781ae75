"""Decoding: the time of a token with every block steered over its time in plain llama.cpp, at the same positions.

Claim: at most 1.01. All engines share one model; blocks of tokens are decoded in alternation, and a block counts with
its median token. `unsteered, again` is a second plain context: its distance from 1 is the noise of this machine.
"""

from __future__ import annotations

import functools
import statistics
import time

import llama_cpp
from common import (
    MODELS,
    RATIO_COLUMNS,
    UNSTEERED,
    arguments,
    english_tokens,
    in_alternation,
    milliseconds_since,
    print_table,
    random_controller,
    ratio_rows,
)
from engines import IDLE, every_engine

from edgesteer.registry import resolve_model
from edgesteer.runtime.engine import Commands, Engine
from edgesteer.runtime.generate import TextStream
from edgesteer.runtime.hook import STEER, phi_code
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Steering, plain_prompt
from edgesteer.runtime.sampling import Sampling

PROMPT_TOKENS = 128
BLOCK_TOKENS = 32
TEXT = "Once upon a time, in a small village by the river, there lived"


def decode_block(engine: Engine, tokens: list[int], commands: Commands) -> float:
    """Decode tokens after the prompt that the engine holds, forget them again; return the median time of one, in ms."""
    times = []
    for position, token in enumerate(tokens, PROMPT_TOKENS):
        started = time.perf_counter()
        engine.decode([token], [position], [True], commands)
        llama_cpp.llama_synchronize(engine.context)
        times.append(milliseconds_since(started))
    engine.forget(0, PROMPT_TOKENS)
    return statistics.median(times)


def generate(engine: Engine, prompt: Prompt, steering: list[Steering]) -> float:
    """Generate a text; return the mean time of a token in ms: sampling, outer loop and telemetry included."""
    timings = TextStream(engine, prompt, steering, Sampling(temp=0), BLOCK_TOKENS).run().timings
    return timings.predicted_ms / (timings.predicted_n - 1)


def bench_blocks(model: LlamaModel, rounds: int, threads: int | None) -> dict[str, list[float]]:
    """Return milliseconds a token, by engine."""
    engines = every_engine(model, random_controller(model.n_blocks, model.width), threads)
    text = english_tokens(model, PROMPT_TOKENS + BLOCK_TOKENS)
    rows = range(PROMPT_TOKENS)
    measures = {}
    for name, engine in engines.items():
        commands = engine.idle(1)
        if engine.controllers and name != IDLE:
            commands[0, 0] = (1.0, 1.0, STEER, phi_code("hold"))
        engine.decode(text[:PROMPT_TOKENS], rows, [row == rows[-1] for row in rows])
        measures[name] = functools.partial(decode_block, engine, text[PROMPT_TOKENS:], commands)
    taken = in_alternation(measures, rounds)
    for engine in engines.values():
        engine.close()
    return taken


def bench_texts(model: LlamaModel, rounds: int, threads: int | None) -> dict[str, list[float]]:
    """Return milliseconds a token of whole texts, by how they are steered."""
    controller = random_controller(model.n_blocks, model.width)
    prompt = plain_prompt(model, TEXT)
    closed, opened = ([Steering(controller.name, 1.0, loop=loop)] for loop in ("closed", "open"))
    with Engine(model, threads=threads) as plain, Engine(model, [controller], threads=threads) as hooked:
        return in_alternation({
            UNSTEERED: functools.partial(generate, plain, prompt, []),
            "whole text, outer loop closed": functools.partial(generate, hooked, prompt, closed),
            "whole text, outer loop open": functools.partial(generate, hooked, prompt, opened),
        }, rounds)  # fmt: skip


def main() -> None:
    options = arguments(__doc__)
    rows = []
    for name in MODELS:
        with LlamaModel(resolve_model(name)) as model:
            for bench in (bench_blocks, bench_texts):
                rows += ratio_rows(name, bench(model, options.rounds, options.threads))
    print_table("Decoding: time of a token over plain llama.cpp's", RATIO_COLUMNS, rows)


if __name__ == "__main__":
    main()
