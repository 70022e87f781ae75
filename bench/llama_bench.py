"""What edgesteer profile measures over what a bare loop on llama.cpp's low-level API measures, in alternation.

Claim: within 3 %. The bare loop is llama-bench's: a prompt in one llama_decode (pp), then single tokens at that depth
(tg); but each token is chosen by llama.cpp's greedy sampler, which llama-bench leaves out and every text needs. `decode
alone` is without it.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import llama_cpp
from common import MODELS, arguments, english_tokens, in_alternation, print_table, spread

from edgesteer.profile.latency import Repeat, RequestMaker, measure
from edgesteer.registry import resolve_model
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine, default_threads
from edgesteer.runtime.model import LlamaModel

PROMPT_TOKENS = 256
NEW_TOKENS = 64
BATCH_TOKENS = 512
BARE = "llama.cpp"


class BareLlama:
    """llama.cpp as llama-bench uses it."""

    def __init__(self, model: LlamaModel, threads: int) -> None:
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = PROMPT_TOKENS + NEW_TOKENS
        parameters.n_batch = parameters.n_ubatch = BATCH_TOKENS
        parameters.n_threads = parameters.n_threads_batch = threads
        self.context = llama_cpp.llama_init_from_model(model.handle, parameters)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.greedy = llama_cpp.llama_sampler_init_greedy()
        self.prompt = english_tokens(model, PROMPT_TOKENS)
        assert len(self.prompt) == PROMPT_TOKENS

    def decode(self, tokens: list[int]) -> None:
        array = (llama_cpp.llama_token * len(tokens))(*tokens)
        assert llama_cpp.llama_decode(self.context, llama_cpp.llama_batch_get_one(array, len(tokens))) == 0
        llama_cpp.llama_synchronize(self.context)

    def next_token(self, sampled: bool) -> int:
        return int(llama_cpp.llama_sampler_sample(self.greedy, self.context, -1)) if sampled else self.prompt[0]

    def first_token_ms(self, sampled: bool) -> float:
        llama_cpp.llama_memory_clear(self.memory, True)
        started = time.perf_counter()
        self.decode(self.prompt)
        self.next_token(sampled)
        return 1000 * (time.perf_counter() - started)

    def token_ms(self, sampled: bool) -> float:
        llama_cpp.llama_memory_clear(self.memory, True)
        self.decode(self.prompt)
        token = self.next_token(sampled)
        started = time.perf_counter()
        for _ in range(NEW_TOKENS - 1):
            self.decode([token])
            token = self.next_token(sampled)
        return 1000 * (time.perf_counter() - started) / (NEW_TOKENS - 1)

    def close(self) -> None:
        llama_cpp.llama_sampler_free(self.greedy)
        llama_cpp.llama_free(self.context)


def bench(model: LlamaModel, rounds: int, threads: int) -> list[list[str]]:
    """Return a row for each quantity."""
    bare, maker = BareLlama(model, threads), RequestMaker(model)
    context_tokens = PROMPT_TOKENS + NEW_TOKENS
    with Engine(model, context_tokens=context_tokens, batch_tokens=BATCH_TOKENS, threads=threads) as engine:
        batch = Batch(engine)

        def profiled(gen_len: int, value: Callable[[Repeat], float]) -> float:
            return value(measure(batch, maker(PROMPT_TOKENS, gen_len, 1, steered=False)))

        rows = []
        quantities = {
            f"pp{PROMPT_TOKENS}: first token": (bare.first_token_ms, 1, lambda times: times.ttft_ms[0]),
            f"tg{NEW_TOKENS} at depth {PROMPT_TOKENS}: a token": (
                bare.token_ms, NEW_TOKENS, lambda times: times.tpot_ms[0],
            ),
        }  # fmt: skip
        for name, (bare_ms, gen_len, value) in quantities.items():
            taken = in_alternation({
                BARE: functools.partial(bare_ms, True),
                "decode alone": functools.partial(bare_ms, False),
                "edgesteer profile": functools.partial(profiled, gen_len, value),
            }, rounds)  # fmt: skip
            base = taken.pop(BARE)
            ratios = [spread([a / b for a, b in zip(values, base, strict=True)]) for values in taken.values()]
            rows.append([name, f"{min(base):.2f}", *ratios])
    bare.close()
    return rows


def main() -> None:
    options = arguments(__doc__, rounds=15)
    rows = []
    for name in MODELS:
        with LlamaModel(resolve_model(name)) as model:
            rows += [[name, *row] for row in bench(model, options.rounds, options.threads or default_threads())]
    columns = ("model", "", "llama.cpp, fastest, ms", "decode alone, over it", "edgesteer profile, over it")
    print_table("What edgesteer profile measures, over a bare loop on llama.cpp (median, quartiles)", columns, rows)


if __name__ == "__main__":
    main()
