"""Continuous batching: tokens a second of many texts at once over llama.cpp's own batched decode of the same shape.

Claim: at least 0.97. The baseline is a bare loop over llama.cpp's low-level API: one batch of all prompts, then one of
a token of each text, greedy samplers, no hook and no text. `steered`: every text under a controller at a strength of
its own, outer loop closed, at every block.
"""

from __future__ import annotations

import functools
import time

import llama_cpp
import numpy as np
from common import (
    MODELS,
    UNSTEERED,
    arguments,
    english_tokens,
    in_alternation,
    print_table,
    random_controller,
    spread,
)

from edgesteer.registry import resolve_model
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine, default_threads
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Request, Steering
from edgesteer.runtime.sampling import Sampling

PARALLEL = (1, 4, 8, 16)
PROMPT_TOKENS = 32
NEW_TOKENS = 48


class BareLlama:
    """llama.cpp's batched decode, as a C program would call it."""

    def __init__(self, model: LlamaModel, parallel: int, threads: int) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = 2 * parallel * (PROMPT_TOKENS + NEW_TOKENS)
        parameters.n_batch = parameters.n_ubatch = 512
        parameters.n_seq_max = parallel
        parameters.kv_unified = True
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model.handle, parameters)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)
        self.greedy = llama_cpp.llama_sampler_init_greedy()

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> None:
        """rows: token, position, sequence, whether logits are wanted."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for row, (token, position, sequence, output) in enumerate(rows):
            batch.token[row], batch.pos[row], batch.logits[row] = token, position, output
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
        assert llama_cpp.llama_decode(self.context, batch) == 0

    def sample(self, rows: list[int]) -> list[int]:
        return [llama_cpp.llama_sampler_sample(self.greedy, self.context, row) for row in rows]

    def run(self, prompts: list[list[int]]) -> float:
        """Return the seconds that all texts take."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        started = time.perf_counter()
        last = PROMPT_TOKENS - 1
        self.decode([(t, p, s, p == last) for s, prompt in enumerate(prompts) for p, t in enumerate(prompt)])
        tokens = self.sample([(s + 1) * PROMPT_TOKENS - 1 for s in range(len(prompts))])
        for position in range(PROMPT_TOKENS, PROMPT_TOKENS + NEW_TOKENS - 1):
            self.decode([(token, position, s, True) for s, token in enumerate(tokens)])
            tokens = self.sample(list(range(len(tokens))))
        return time.perf_counter() - started

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self.greedy)
        llama_cpp.llama_batch_free(self.batch)
        llama_cpp.llama_free(self.context)


def run_batch(batch: Batch, requests: list[Request]) -> float:
    """Return the seconds that all texts take."""
    batch.clear()
    started = time.perf_counter()
    sequences = [batch.submit(request) for request in requests]
    while batch.busy:
        batch.step()
    seconds = time.perf_counter() - started
    assert all(len(sequence.result.tokens) == NEW_TOKENS for sequence in sequences)
    return seconds


def make_requests(model: LlamaModel, prompts: list[list[int]], steered: bool) -> list[Request]:
    bias = {token: -1000.0 for token in range(model.n_tokens) if model.ends_generation(token)}
    sampling = Sampling(temp=0, logit_bias=bias)
    requests = []
    for number, tokens in enumerate(prompts):
        words = np.ones(len(tokens), dtype=bool)
        dials = [Steering("random", (number + 1) / len(prompts))] if steered else []
        requests.append(Request(Prompt(tokens, words, ~words), dials, sampling, NEW_TOKENS))
    return requests


def bench(model: LlamaModel, parallel: int, rounds: int, threads: int | None) -> dict[str, list[float]]:
    """Return seconds, by engine."""
    text = english_tokens(model, PROMPT_TOKENS * parallel)
    prompts = [text[s * PROMPT_TOKENS : (s + 1) * PROMPT_TOKENS] for s in range(parallel)]
    controller = random_controller(model.n_blocks, model.width)
    engine = functools.partial(
        Engine, context_tokens=2 * parallel * (PROMPT_TOKENS + NEW_TOKENS), n_sequences=parallel, threads=threads
    )
    bare = BareLlama(model, parallel, threads or default_threads())
    with engine(model) as plain, engine(model, [controller]) as hooked:
        taken = in_alternation({
            UNSTEERED: functools.partial(bare.run, prompts),
            "unsteered batch": functools.partial(run_batch, Batch(plain), make_requests(model, prompts, False)),
            "steered batch": functools.partial(run_batch, Batch(hooked), make_requests(model, prompts, True)),
        }, rounds)  # fmt: skip
    bare.close()
    return taken


def main() -> None:
    options = arguments(__doc__, rounds=10)
    rows = []
    for name in MODELS:
        with LlamaModel(resolve_model(name)) as model:
            for parallel in PARALLEL:
                taken = bench(model, parallel, options.rounds, options.threads)
                base = taken.pop(UNSTEERED)
                for engine, seconds in taken.items():
                    ratios = [a / b for a, b in zip(base, seconds, strict=True)]
                    speed = parallel * NEW_TOKENS / min(seconds)
                    rows.append([name, str(parallel), engine, spread(ratios), f"{min(base) / min(seconds):.3f}",
                                 f"{speed:.0f}"])  # fmt: skip
    columns = ("model", "texts at once", "engine", "tokens a second over llama.cpp's: median (quartiles)",
               "of the fastest", "tokens a second")  # fmt: skip
    print_table("Batches: tokens a second over llama.cpp's own batched decode", columns, rows)


if __name__ == "__main__":
    main()
