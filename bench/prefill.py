"""Prefill: the time of a prompt in one batch with every block steered over its time in plain llama.cpp.

By default only the prompt's last row is steered and the sensor reads the others. All rows are the dearest case.
"""

from __future__ import annotations

import functools
import time

import llama_cpp
from common import (
    MODELS,
    RATIO_COLUMNS,
    arguments,
    english_tokens,
    in_alternation,
    milliseconds_since,
    print_table,
    random_controller,
    ratio_rows,
)
from engines import IDLE, STEERED, every_engine

from edgesteer.registry import resolve_model
from edgesteer.runtime.engine import Commands, Engine
from edgesteer.runtime.hook import SENSE, STEER, phi_code
from edgesteer.runtime.model import LlamaModel

PROMPT_TOKENS = 256
LAST, ALL = f"{STEERED}, last row and sensor", f"{STEERED}, all rows"


def prefill(engine: Engine, tokens: list[int], commands: Commands) -> float:
    """Run a prompt, forget it, and return the time in ms."""
    rows = range(len(tokens))
    outputs = [row == rows[-1] for row in rows]
    started = time.perf_counter()
    engine.decode(tokens, rows, outputs, commands)
    llama_cpp.llama_synchronize(engine.context)
    elapsed = milliseconds_since(started)
    engine.forget()
    return elapsed


def commands_of(engine: Engine, name: str) -> Commands:
    """Return what each row of the prompt asks for: (PROMPT_TOKENS, n_controllers)."""
    commands = engine.idle(PROMPT_TOKENS)
    if engine.controllers and name != IDLE:
        commands["action"] = SENSE
        commands[-1 if name == LAST else slice(None), 0] = (1.0, 1.0, STEER, phi_code("hold"))
    return commands


def bench_prefill(model: LlamaModel, rounds: int, threads: int | None) -> dict[str, list[float]]:
    """Return milliseconds a prompt, by engine."""
    engines = every_engine(model, random_controller(model.n_blocks, model.width), threads)
    engines[LAST] = engines[ALL] = engines.pop(STEERED)
    tokens = english_tokens(model, PROMPT_TOKENS)
    taken = in_alternation({
        name: functools.partial(prefill, engine, tokens, commands_of(engine, name)) for name, engine in engines.items()
    }, rounds)  # fmt: skip
    for engine in engines.values():
        engine.close()
    return taken


def main() -> None:
    options = arguments(__doc__, rounds=15)
    rows = []
    for name in MODELS:
        with LlamaModel(resolve_model(name)) as model:
            rows += ratio_rows(name, bench_prefill(model, options.rounds, options.threads))
    title = f"Prefill: time of {PROMPT_TOKENS} tokens over plain llama.cpp's"
    print_table(title, RATIO_COLUMNS, rows)


if __name__ == "__main__":
    main()
