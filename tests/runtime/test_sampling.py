"""Sampling: llama.cpp's samplers in the order and with the meaning that the options promise."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from scipy.special import log_softmax

from edgesteer.errors import EngineError
from edgesteer.runtime import sampling as module
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.json_schema import json_schema_grammar
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.sampling import Sampler, Sampling, TokenLogprob, token_logprob

DRAWS = 40
SEEDS = range(12)


@pytest.fixture
def engine(tiny_llama: LlamaModel) -> Iterator[Engine]:
    """An engine with logits of one row to sample from."""
    with Engine(tiny_llama, context_tokens=256, threads=1) as engine:
        engine.decode([40, 7, 101], range(3), [False, False, True])
        yield engine


def draws(engine: Engine, sampling: Sampling, count: int = DRAWS) -> list[int]:
    with Sampler(sampling, engine.model) as sampler:
        return [sampler.sample(engine.context) for _ in range(count)]


def write(engine: Engine, sampling: Sampling, most: int = 500) -> bytes:
    """Draw from the same logits until a token ends the text."""
    text = b""
    with Sampler(sampling, engine.model) as sampler:
        for _ in range(most):
            token = sampler.sample(engine.context)
            if engine.model.ends_generation(token):
                return text
            text += engine.model.piece(token)
    raise AssertionError(f"did not end: {text!r}")


def spelled(engine: Engine, pattern: str) -> list[int]:
    """Return the tokens whose text a regular expression matches, the likeliest first."""
    return [each for each in likeliest(engine) if re.fullmatch(pattern.encode(), engine.model.piece(each))]


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


def test_penalties_can_look_back_at_all(engine: Engine) -> None:
    drawn = draws(engine, Sampling(temp=0.0, presence_penalty=100.0, repeat_last_n=-1), count=100)
    assert len(set(drawn)) == 100


def test_random_seed_gives_other_draws_each_time(engine: Engine) -> None:
    assert draws(engine, Sampling(seed=-1)) != draws(engine, Sampling(seed=-1))


def test_the_smallest_temperature_is_greedy(engine: Engine) -> None:
    assert set(draws(engine, Sampling(temp=1e-38))) == {likeliest(engine)[0]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temp", math.nan), ("temp", math.inf), ("temp", -math.inf), ("temp", 1e9), ("temp", "0.5"), ("temp", None),
        ("top_k", -1), ("top_k", 1.5), ("top_k", 2**31), ("top_p", 1.01), ("top_p", -0.01), ("min_p", 2), ("min_p", -1),
        ("repeat_last_n", -2), ("repeat_last_n", 2**31), ("repeat_penalty", 0.0), ("repeat_penalty", math.nan),
        ("frequency_penalty", 1e39), ("presence_penalty", -math.inf), ("seed", -2), ("seed", 2**32), ("seed", 10**400),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(EngineError, match=f"^{name} is out of range; expected a .*number from .* to .*; found "):
        Sampling(**{name: value})


def test_largest_values_sample(engine: Engine) -> None:
    largest = Sampling(
        temp=100.0, top_k=2**31 - 1, top_p=1.0, min_p=1.0, repeat_last_n=2**31 - 1, repeat_penalty=1e6,
        frequency_penalty=1000.0, presence_penalty=1000.0, seed=2**32 - 1,
    )  # fmt: skip
    assert len(set(draws(engine, largest, count=5))) == 5


# ---- logit bias ----


@pytest.mark.parametrize("temp", [0.0, 1.0])
def test_bias_forces_a_token(engine: Engine, temp: float) -> None:
    token = likeliest(engine)[-1]
    assert set(draws(engine, Sampling(temp=temp, logit_bias={token: 1000.0}))) == {token}


def test_bias_bans_a_token(engine: Engine) -> None:
    first, second = likeliest(engine)[:2]
    assert set(draws(engine, Sampling(temp=0.0, logit_bias={first: -1000.0}))) == {second}
    assert first in draws(engine, Sampling(temp=1.0, top_k=3))
    assert first not in draws(engine, Sampling(temp=1.0, top_k=3, logit_bias={first: -1000.0}))


def test_bias_is_added_to_the_logits(engine: Engine) -> None:
    first, second = likeliest(engine)[:2]
    gap = float(engine.logits()[first] - engine.logits()[second])
    assert draws(engine, Sampling(temp=0.0, logit_bias={second: gap - 1e-3}), count=1) == [first]
    assert draws(engine, Sampling(temp=0.0, logit_bias={second: gap + 1e-3}), count=1) == [second]


def test_bias_comes_before_the_penalties(engine: Engine) -> None:
    token = likeliest(engine)[-1]
    drawn = draws(engine, Sampling(temp=0.0, logit_bias={token: 100.0}, repeat_penalty=1e6), count=2)
    assert drawn == [token, likeliest(engine)[0]]


@pytest.mark.parametrize("token", [-1, 10**6, 2**40])
def test_bias_for_a_token_outside_the_vocabulary_is_refused(tiny_llama: LlamaModel, token: int) -> None:
    sampling = Sampling(logit_bias={5: 1.0, token: 1.0})
    with pytest.raises(
        EngineError, match=rf"^logit_bias names no token of the model; expected 0 to \d+; found {token}"
    ):
        Sampler(sampling, tiny_llama)


@pytest.mark.parametrize("bias", [{"5": 1.0}, {5: "1"}, {5: math.nan}, {5: -math.inf}, {5: 1001}, {5.0: 1.0}])
def test_bias_that_is_no_number_for_a_token_is_refused(bias: Any) -> None:
    with pytest.raises(EngineError, match="logit_bias"):
        Sampling(logit_bias=bias)


@pytest.mark.parametrize("options", [{"logit_bias": [5]}, {"logit_bias": 1.0}, {"grammar": 1}, {"grammar": None}])
def test_options_of_another_type_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="logit_bias or grammar has the wrong type"):
        Sampling(**options)


# ---- grammar ----


@pytest.mark.parametrize("seed", SEEDS)
def test_text_is_what_the_grammar_says(engine: Engine, seed: int) -> None:
    assert write(engine, Sampling(temp=1.0, seed=seed, grammar='root ::= "yes" | "no"')) in (b"yes", b"no")


def test_grammar_leaves_a_choice(engine: Engine) -> None:
    written = {write(engine, Sampling(temp=1.0, seed=seed, grammar='root ::= "yes" | "no"')) for seed in SEEDS}
    assert written == {b"yes", b"no"}


@pytest.mark.parametrize("seed", SEEDS)
def test_characters_of_several_bytes_are_written_whole(engine: Engine, seed: int) -> None:
    text = write(engine, Sampling(temp=1.0, seed=seed, grammar='root ::= ("日本" | [à-ü]) [😀-😎]{2} [^a-z]')).decode()
    assert re.fullmatch("(日本|[à-ü])[😀-😎]{2}[^a-z]", text, re.DOTALL)


def test_greedy_takes_the_likeliest_token_that_fits(engine: Engine) -> None:
    drawn = draws(engine, Sampling(temp=0.0, grammar="root ::= [b-dA-C] [0-9] [b-dA-C]"), count=3)
    letter, digit = spelled(engine, "[b-dA-C]")[0], spelled(engine, "[0-9]")[0]
    assert drawn == [letter, digit, letter]


def test_same_seed_gives_the_same_text_under_a_grammar(engine: Engine) -> None:
    first, again, other = (
        write(engine, Sampling(temp=1.0, seed=seed, grammar="root ::= [a-z]{30}")) for seed in (3, 3, 4)
    )
    assert first == again != other


def test_token_that_fits_is_drawn_as_without_a_grammar(engine: Engine) -> None:
    fitting = 0
    for seed in range(40):
        (free,) = draws(engine, Sampling(seed=seed), count=1)
        if free in spelled(engine, "[ -~]+"):
            fitting += 1
            assert draws(engine, Sampling(seed=seed, grammar="root ::= [ -~]*"), count=1) == [free]
    assert fitting


def test_token_that_was_refused_is_not_penalized(engine: Engine) -> None:
    best, second, third = spelled(engine, "[a-z]")[:3]
    letters = "".join(engine.model.piece(each).decode() for each in (best, second, third))
    grammar = f'root ::= "{letters[2]}" [{letters[:2]}]'
    drawn = draws(engine, Sampling(temp=0.0, presence_penalty=100.0, grammar=grammar), count=2)
    assert drawn == [third, best]


def test_penalties_count_under_a_grammar(engine: Engine) -> None:
    expected = spelled(engine, "[a-z]")[:5]
    assert draws(engine, Sampling(temp=0.0, presence_penalty=100.0, grammar="root ::= [a-z]*"), count=5) == expected


def test_text_does_not_end_before_the_grammar_does(engine: Engine) -> None:
    ends = {token: 1000.0 for token in range(engine.model.n_tokens) if engine.model.ends_generation(token)}
    assert write(engine, Sampling(temp=1.0, grammar='root ::= "abc" [0-9]?', logit_bias=ends)) == b"abc"


def test_token_without_text_does_not_stand_for_its_name(engine: Engine) -> None:
    (token,) = engine.model.tokenize("<|im_start|>")
    sampling = Sampling(temp=1.0, grammar='root ::= "<|im_start|>"', logit_bias={token: 1000.0})
    assert write(engine, sampling) == b"<|im_start|>"


@pytest.mark.parametrize("seed", SEEDS)
def test_text_under_the_grammar_of_a_schema_is_json_that_conforms(engine: Engine, seed: int) -> None:
    word = {"type": "string", "minLength": 1, "maxLength": 8}
    schema = {
        "type": "object",
        "properties": {
            "name": word,
            "mood": {"enum": ["froh 😀", 'so "so"']},
            "tags": {"type": "array", "items": word, "maxItems": 3},
            "age": {"type": "integer"},
        },
        "required": ["name", "mood", "tags"],
    }
    value = json.loads(write(engine, Sampling(temp=1.0, seed=seed, grammar=json_schema_grammar(schema))))
    assert {"name", "mood", "tags"} <= set(value) <= set(schema["properties"])
    assert 1 <= len(value["name"]) <= 8
    assert value["mood"] in schema["properties"]["mood"]["enum"]
    assert len(value["tags"]) <= 3
    assert all(1 <= len(tag) <= 8 for tag in value["tags"])
    assert isinstance(value.get("age", 0), int)


def test_grammar_that_no_token_fits_is_an_error(engine: Engine) -> None:
    sampling = Sampling(grammar=r'root ::= "a" [\U7FFFFFFF]')
    with Sampler(sampling, engine.model) as sampler:
        assert engine.model.piece(sampler.sample(engine.context)) == b"a"
        with pytest.raises(EngineError, match="no token of the model fits the grammar"):
            sampler.sample(engine.context)


def test_grammar_that_takes_too_long_is_an_error(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SECONDS", 0.0)
    with pytest.raises(EngineError, match="the grammar takes too long"):
        draws(engine, Sampling(grammar='root ::= "a"'), count=1)


def test_grammar_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(EngineError, match="line 1 of the grammar: grammar cannot be read"):
        Sampling(grammar="not a grammar")


# ---- log probabilities ----


def no_text(_: int) -> bytes:
    return b""


def test_logprobs_are_those_computed_by_hand() -> None:
    logits = np.log(np.array([1, 4, 3], np.float32))
    found = token_logprob(logits, 0, 2, lambda token: b"abc"[token : token + 1])
    assert found.logprob == pytest.approx(math.log(1 / 8))
    assert (found.token, found.text) == (0, b"a")
    assert [(each.token, each.text, each.top) for each in found.top] == [(1, b"b", []), (2, b"c", [])]
    assert [each.logprob for each in found.top] == pytest.approx([math.log(4 / 8), math.log(3 / 8)])


@pytest.mark.parametrize("scale", [1.0, 1e4, 1e30])
@pytest.mark.parametrize("k", [1, 5, 300])
def test_logprobs_are_scipys(scale: float, k: int) -> None:
    logits = (scale * np.random.default_rng(0).standard_normal(300)).astype(np.float32)
    expected = log_softmax(logits.astype(np.float64))
    found = token_logprob(logits, 7, k, no_text)
    order = np.argsort(-expected, kind="stable")[:k]
    assert found.logprob == pytest.approx(expected[7], abs=1e-12)
    assert [each.token for each in found.top] == order.tolist()
    assert [each.logprob for each in found.top] == pytest.approx(expected[order], abs=1e-12)


def test_logprobs_add_up_to_one(engine: Engine) -> None:
    found = token_logprob(engine.logits(), 0, engine.model.n_tokens, engine.model.piece)
    assert sum(math.exp(each.logprob) for each in found.top) == pytest.approx(1.0)
    assert [each.token for each in found.top] == likeliest(engine)


def test_no_likely_tokens_need_be_named() -> None:
    assert token_logprob(np.zeros(4, np.float32), 2, 0, no_text) == TokenLogprob(
        2, b"", pytest.approx(-math.log(4)), []
    )


def test_of_equally_likely_tokens_the_first_are_named() -> None:
    logits = np.array([0, 1, 0, 1, 1, -np.inf], np.float32)
    assert [each.token for each in token_logprob(logits, 0, 4, no_text).top] == [1, 3, 4, 0]


def test_impossible_token_has_no_probability() -> None:
    assert token_logprob(np.array([0, -np.inf], np.float32), 1, 2, no_text).logprob == -math.inf


def test_sampler_can_be_closed_twice(engine: Engine) -> None:
    sampler = Sampler(Sampling(grammar='root ::= "a"'), engine.model)
    sampler.close()
    sampler.close()
