"""Sampling: llama.cpp's own samplers, chained in llama.cpp's own order. No logits are copied to Python."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import llama_cpp

from edgesteer.errors import EngineError


@dataclass(frozen=True)
class Sampling:
    """Sampling options with llama.cpp's names and defaults; a temperature of 0 or less is greedy."""

    temp: float = 0.8
    """Temperature; 0 is greedy."""
    top_k: int = 40
    """Sample from the k most likely tokens; 0: all."""
    top_p: float = 0.95
    """Sample from the most likely tokens that reach this probability together; 1: all."""
    min_p: float = 0.05
    """Leave out tokens below this share of the most likely one's probability; 0: none."""
    repeat_last_n: int = 64
    """Tokens that the penalties look back at; 0: none."""
    repeat_penalty: float = 1.0
    """Divides the logits of repeated tokens; 1: off."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it came; 0: off."""
    presence_penalty: float = 0.0
    """Subtracted from a token's logit if it came at all; 0: off."""
    seed: int = 0
    """Of the random draws; -1: another one each time."""


class Sampler:
    """A llama.cpp sampler chain. Use as a context manager, or call close()."""

    def __init__(self, sampling: Sampling, n_tokens: int) -> None:
        """n_tokens: the size of the vocabulary."""
        self._chain: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        if not self._chain:
            raise EngineError("llama.cpp cannot make a sampler", found="out of memory")
        for sampler in _samplers(sampling, n_tokens):
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, context: Any, output: int = -1) -> int:
        """Return the next token from the logits of an output row (-1 = the last), and take note of it."""
        return int(llama_cpp.llama_sampler_sample(self._chain, context, output))

    def close(self) -> None:
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _samplers(s: Sampling, n_tokens: int) -> list[Any]:
    chain: list[Any] = []
    if (s.repeat_penalty, s.frequency_penalty, s.presence_penalty) != (1.0, 0.0, 0.0):
        chain.append(
            llama_cpp.llama_sampler_init_penalties(
                n_tokens, s.repeat_last_n, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
            )
        )
    if s.temp <= 0:
        return [*chain, llama_cpp.llama_sampler_init_greedy()]
    return [
        *chain,
        llama_cpp.llama_sampler_init_top_k(s.top_k),
        llama_cpp.llama_sampler_init_top_p(s.top_p, 1),
        llama_cpp.llama_sampler_init_min_p(s.min_p, 1),
        llama_cpp.llama_sampler_init_temp(s.temp),
        llama_cpp.llama_sampler_init_dist(s.seed),
    ]
