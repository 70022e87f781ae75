"""Sampling: llama.cpp's own samplers, chained in llama.cpp's own order, and the log probabilities before them.

No logits are copied to Python unless the text is held to a grammar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EngineError
from edgesteer.runtime.grammar import Candidates, Grammar, check_grammar
from edgesteer.runtime.model import LlamaModel

COLDEST = 1e-6
"""Dividing logits by a smaller temperature could overflow; from here on sampling is greedy."""
LARGEST = 2**31 - 1
MAX_SECONDS = 10.0
"""Of one token under a grammar: an ambiguous one may take llama.cpp longer with each token, without end."""

RANGES: dict[str, tuple[float, float]] = {
    "temp": (-100.0, 100.0),
    "top_k": (0, LARGEST),
    "top_p": (0.0, 1.0),
    "min_p": (0.0, 1.0),
    "repeat_last_n": (-1, LARGEST),
    "repeat_penalty": (1e-3, 1e6),
    "frequency_penalty": (-1000.0, 1000.0),
    "presence_penalty": (-1000.0, 1000.0),
    "seed": (-1, 2**32 - 1),
    "logit_bias": (-1000.0, 1000.0),
}
"""What each option may be; wide enough for every sensible value, and such that no float32 overflows."""


@dataclass(frozen=True)
class Sampling:
    """Sampling options with llama.cpp's names and defaults; a temperature of 0 or less is greedy.

    Raises EngineError for a value outside RANGES, and for a grammar that cannot be used.
    """

    temp: float = 0.8
    """Temperature; 0 is greedy."""
    top_k: int = 40
    """Sample from the k most likely tokens; 0: all."""
    top_p: float = 0.95
    """Sample from the most likely tokens that reach this probability together; 1: all."""
    min_p: float = 0.05
    """Leave out tokens below this share of the most likely one's probability; 0: none."""
    repeat_last_n: int = 64
    """Tokens that the penalties look back at; 0: none; -1: all."""
    repeat_penalty: float = 1.0
    """Divides the logits of repeated tokens; 1: off."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it came; 0: off."""
    presence_penalty: float = 0.0
    """Subtracted from a token's logit if it came at all; 0: off."""
    seed: int = 0
    """Of the random draws; -1: another one each time."""
    grammar: str = ""
    """Hold the whole text to this grammar, in llama.cpp's GBNF; empty: any text."""
    logit_bias: dict[int, float] | None = None
    """Added to the logits of these tokens; -1000 keeps one from coming."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if each.type in ("int", "float"):
                _check_number(each.name, getattr(self, each.name), whole=each.type == "int")
        if not isinstance(self.logit_bias or {}, dict) or not isinstance(self.grammar, str):
            raise EngineError("logit_bias or grammar has the wrong type", expected="numbers by token, and a text")
        for token, bias in (self.logit_bias or {}).items():
            _check_number("logit_bias", bias)
            if not isinstance(token, Integral):
                raise EngineError("logit_bias names no token", expected="a token's number", found=repr(token))
        if self.grammar:
            check_grammar(self.grammar)


def _check_number(name: str, value: Any, *, whole: bool = False) -> None:
    low, high = RANGES[name]
    kind: Any = Integral if whole else Real
    if not isinstance(value, kind) or not low <= value <= high:
        noun = "a whole number" if whole else "a number"
        raise EngineError(f"{name} is out of range", expected=f"{noun} from {low} to {high}", found=repr(value))


class Sampler:
    """A llama.cpp sampler chain over one text. Use as a context manager, or call close()."""

    def __init__(self, sampling: Sampling, model: LlamaModel) -> None:
        """Raise EngineError when the bias names a token that the model does not have."""
        samplers = _samplers(sampling, model)
        self._grammar = Grammar(sampling.grammar, model) if sampling.grammar else None
        self._n_tokens = model.n_tokens
        self._chain: Any = llama_cpp.llama_sampler_chain_init(llama_cpp.llama_sampler_chain_default_params())
        for sampler in samplers:
            llama_cpp.llama_sampler_chain_add(self._chain, sampler)

    def sample(self, context: Any, output: int = -1) -> int:
        """Return the next token from the logits of an output row (-1 = the last), and take note of it.

        Raises EngineError when no token fits the grammar, or when the grammar takes too long.
        """
        if self._grammar is None:
            return int(llama_cpp.llama_sampler_sample(self._chain, context, output))
        started = time.perf_counter()
        pointer = llama_cpp.llama_get_logits_ith(context, output)
        logits = np.ctypeslib.as_array(pointer, shape=(self._n_tokens,))
        token = self._fitting_token(self._grammar, logits)
        self._grammar.accept(token)
        llama_cpp.llama_sampler_accept(self._chain, token)
        if time.perf_counter() - started > MAX_SECONDS:
            raise EngineError("the grammar takes too long", remedy="Write it so that each text can be read in one way.")
        return token

    def _fitting_token(self, grammar: Grammar, logits: NDArray[np.float32]) -> int:
        """Draw a token; only when the grammar refuses it, draw from those that fit. logits: (vocabulary,)."""
        token = self._draw(logits)
        if grammar.allows(token):
            return token
        fitting = grammar.mask(logits)
        while np.isfinite(fitting).any():
            token = self._draw(fitting)
            if grammar.allows(token):
                return token
            if not np.isfinite(fitting[token]):
                break
            fitting[token] = -np.inf
        raise EngineError(
            "no token of the model fits the grammar here", remedy="Give a grammar that the model can spell."
        )

    def _draw(self, logits: NDArray[np.float32]) -> int:
        return Candidates(np.arange(len(logits)), logits).apply(self._chain).selected

    def close(self) -> None:
        if self._grammar is not None:
            self._grammar.close()
        if self._chain:
            llama_cpp.llama_sampler_free(self._chain)
            self._chain = None

    def __enter__(self) -> Sampler:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _samplers(s: Sampling, model: LlamaModel) -> list[Any]:
    chain: list[Any] = []
    if s.logit_bias:
        chain.append(_logit_bias(s.logit_bias, model.n_tokens))
    if (s.repeat_penalty, s.frequency_penalty, s.presence_penalty) != (1.0, 0.0, 0.0):
        longest = int(llama_cpp.llama_model_n_ctx_train(model.handle))
        looked_back = longest if s.repeat_last_n < 0 else min(s.repeat_last_n, longest)
        chain.append(
            llama_cpp.llama_sampler_init_penalties(
                model.n_tokens, looked_back, s.repeat_penalty, s.frequency_penalty, s.presence_penalty
            )
        )
    if s.temp < COLDEST:
        return [*chain, llama_cpp.llama_sampler_init_greedy()]
    return [
        *chain,
        llama_cpp.llama_sampler_init_top_k(s.top_k),
        llama_cpp.llama_sampler_init_top_p(s.top_p, 1),
        llama_cpp.llama_sampler_init_min_p(s.min_p, 1),
        llama_cpp.llama_sampler_init_temp(s.temp),
        llama_cpp.llama_sampler_init_dist(s.seed),
    ]


def _logit_bias(bias: dict[int, float], n_tokens: int) -> Any:
    for token in bias:
        if not 0 <= token < n_tokens:
            raise EngineError("logit_bias names no token of the model", expected=f"0 to {n_tokens - 1}", found=token)
    entries = (llama_cpp.llama_logit_bias * len(bias))(*(llama_cpp.llama_logit_bias(*each) for each in bias.items()))
    return llama_cpp.llama_sampler_init_logit_bias(n_tokens, len(bias), entries)


class ForcedTokens:
    """In a Sampler's place: given tokens, one after the other, whatever the logits say."""

    def __init__(self, tokens: Sequence[int], model: LlamaModel) -> None:
        """Raise EngineError when the model does not have one of the tokens."""
        model.check_tokens(tokens)
        self._tokens = iter(tokens)

    def sample(self, context: Any, output: int = -1) -> int:
        return next(self._tokens)

    def close(self) -> None:
        """Nothing is held."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token, and how likely the model held it at its place, before any sampler.

    text: its bytes; b"" for a control token. logprob: natural logarithm. top: the most likely tokens at this place, the
    likeliest first; theirs is empty.
    """

    token: int
    text: bytes
    logprob: float
    top: list[TokenLogprob] = field(default_factory=list)


def token_logprob(logits: NDArray[np.float32], token: int, k: int, piece: Callable[[int], bytes]) -> TokenLogprob:
    """Return a token's log probability, and those of the k most likely tokens (of equals, the first ones).

    logits: the model's, (vocabulary,). piece: gives a token's bytes.
    """
    exact = logits.astype(np.float64)
    exact -= exact.max()
    exact -= np.log(np.exp(exact).sum())
    top = [TokenLogprob(each, piece(each), float(exact[each])) for each in _likeliest(exact, k)]
    return TokenLogprob(token, piece(token), float(exact[token]), top)


def _likeliest(logprobs: NDArray[np.float64], k: int) -> list[int]:
    """Return the k tokens of the highest log probability, descending."""
    k = min(k, len(logprobs))
    if k == 0:
        return []
    least = np.partition(logprobs, -k)[-k]
    tokens = np.flatnonzero(logprobs >= least)
    chosen: list[int] = tokens[np.argsort(-logprobs[tokens], kind="stable")][:k].tolist()
    return chosen
