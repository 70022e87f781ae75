"""Sampling: llama.cpp's samplers in the order and with the meaning that the options promise."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.sampling import Sampler, Sampling

DRAWS = 40


@pytest.fixture
def engine(tiny_llama: LlamaModel) -> Iterator[Engine]:
    """An engine with logits of one row to sample from."""
    with Engine(tiny_llama, context_tokens=256) as engine:
        engine.decode([40, 7, 101], range(3), [False, False, True])
        yield engine


def draws(engine: Engine, sampling: Sampling, count: int = DRAWS) -> list[int]:
    with Sampler(sampling, engine.model.n_tokens) as sampler:
        return [sampler.sample(engine.context) for _ in range(count)]


def likeliest(engine: Engine) -> list[int]:
    """Return all tokens, the likeliest first."""
    order: list[int] = np.argsort(-engine.logits()).tolist()
    return order


@pytest.mark.parametrize("temp", [0.0, -1.0])
def test_no_temperature_is_greedy(engine: Engine, temp: float) -> None:
    assert set(draws(engine, Sampling(temp=temp))) == {likeliest(engine)[0]}


def test_same_seed_gives_the_same_draws(engine: Engine) -> None:
    assert draws(engine, Sampling(seed=3)) == draws(engine, Sampling(seed=3))


def test_other_seed_gives_other_draws(engine: Engine) -> None:
    assert draws(engine, Sampling(seed=3)) != draws(engine, Sampling(seed=4))


def test_top_k_keeps_the_likeliest(engine: Engine) -> None:
    drawn = draws(engine, Sampling(temp=5.0, top_k=3, top_p=1.0, min_p=0.0))
    assert set(drawn) == set(likeliest(engine)[:3])


def test_top_p_keeps_the_likeliest_up_to_a_probability(engine: Engine) -> None:
    logits = np.sort(engine.logits())[::-1].astype(np.float64)
    probability = np.exp(logits) / np.exp(logits).sum()
    two = float(probability[:2].sum()) - 1e-4  # reached by the second token, not by the first
    drawn = draws(engine, Sampling(temp=5.0, top_k=0, top_p=two, min_p=0.0))
    assert set(drawn) == set(likeliest(engine)[:2])


def test_min_p_leaves_out_what_is_unlikely_beside_the_likeliest(engine: Engine) -> None:
    logits = np.sort(engine.logits())[::-1]
    share = float(np.exp((logits[1] + logits[2]) / 2 - logits[0]))
    drawn = draws(engine, Sampling(temp=5.0, top_k=0, top_p=1.0, min_p=share))
    assert set(drawn) == set(likeliest(engine)[:2])


@pytest.mark.parametrize(
    "penalty", [{"presence_penalty": 100.0}, {"frequency_penalty": 100.0}, {"repeat_penalty": 1e6}]
)
def test_penalties_keep_tokens_from_coming_again(engine: Engine, penalty: dict[str, float]) -> None:
    drawn = draws(engine, Sampling(temp=0.0, **penalty), count=5)
    assert len(set(drawn)) == 5


def test_penalties_forget_what_is_long_ago(engine: Engine) -> None:
    drawn = draws(engine, Sampling(temp=0.0, presence_penalty=100.0, repeat_last_n=1), count=4)
    assert drawn == likeliest(engine)[:2] * 2


def test_sampler_can_be_closed_twice(engine: Engine) -> None:
    sampler = Sampler(Sampling(), engine.model.n_tokens)
    sampler.close()
    sampler.close()
