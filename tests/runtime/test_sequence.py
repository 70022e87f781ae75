"""Forced tokens: scored as the steered model holds them while it generates; unsteered, as likelihood.py does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pytest

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError, EngineError
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.likelihood import log_likelihoods
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Request, Steering, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.sequence import Generation

pytestmark = pytest.mark.torch  # makes the tiny model

PROMPT = "Where are the boats"
END = 2
"""The tiny model's end of a text."""
F16 = {"rtol": 2e-3, "atol": 2e-3}
"""What the 16-bit KV cache makes of another order of summation."""
WAYS = (
    Steering("tone", 1.0),
    Steering("tone", -0.7, rows="all"),
    Steering("tone", 1.0, loop="open"),
    Steering("tone", 2.0, loop="decay"),
)


@pytest.fixture
def engine(tiny_llama: LlamaModel, make_controller: Callable[..., Controller]) -> Iterator[Engine]:
    controller = make_controller(4, 32, name="tone")
    with Engine(tiny_llama, [controller], context_tokens=256, n_sequences=3, threads=1) as engine:
        yield engine


@pytest.fixture
def tokens(tiny_llama: LlamaModel) -> list[int]:
    """A text to force."""
    return tiny_llama.tokenize(" on the hill, in the rain")


def run(engine: Engine, *requests: Request) -> list[Generation]:
    batch = Batch(engine)
    sequences = [batch.submit(request) for request in requests]
    while batch.busy:
        for _, event in batch.step():
            assert not isinstance(event, EdgeSteerError)
    return [sequence.result for sequence in sequences]


def forced(engine: Engine, tokens: Sequence[int], *steering: Steering) -> Request:
    return Request(plain_prompt(engine.model, PROMPT), steering, forced=tokens)


def logprobs(generation: Generation) -> list[float]:
    return [each.logprob for each in generation.logprobs]


def test_forced_tokens_are_the_text(engine: Engine, tokens: list[int]) -> None:
    (found,) = run(engine, forced(engine, tokens))
    assert found.tokens == [each.token for each in found.logprobs] == tokens
    assert found.text == " on the hill, in the rain"


def test_unsteered_scores_are_the_log_likelihoods(engine: Engine, tokens: list[int]) -> None:
    (found,) = run(engine, forced(engine, tokens))
    prompt = plain_prompt(engine.model, PROMPT).tokens
    (expected,) = log_likelihoods(engine, [prompt + tokens])
    np.testing.assert_allclose(logprobs(found), expected[len(prompt) - 1 :], **F16)


def test_strength_zero_changes_no_bit_of_a_score(engine: Engine, tokens: list[int]) -> None:
    (unsteered,), (off,) = run(engine, forced(engine, tokens)), run(engine, forced(engine, tokens, Steering("tone", 0)))
    assert logprobs(off) == logprobs(unsteered)


@pytest.mark.parametrize("steering", WAYS, ids=lambda each: f"{each.rows}-{each.loop}")
def test_forcing_what_was_generated_repeats_its_log_probabilities_and_readings(
    engine: Engine, steering: Steering
) -> None:
    prompt, sampling = plain_prompt(engine.model, PROMPT), Sampling(seed=4, logit_bias={0: -1000.0, END: -1000.0})
    (written,) = run(engine, Request(prompt, [steering], sampling, max_tokens=16, logprobs=0))
    (scored,) = run(engine, Request(prompt, [steering], forced=written.tokens))
    assert len(written.tokens) == 16
    assert logprobs(scored) == logprobs(written)
    assert scored.steering == written.steering


@pytest.mark.parametrize("steering", WAYS, ids=lambda each: f"{each.rows}-{each.loop}")
def test_steering_changes_the_scores(engine: Engine, tokens: list[int], steering: Steering) -> None:
    (unsteered,), (steered,) = run(engine, forced(engine, tokens)), run(engine, forced(engine, tokens, steering))
    assert np.abs(np.subtract(logprobs(steered), logprobs(unsteered))).max() > 0.1


def test_scores_do_not_depend_on_the_neighbours(engine: Engine, tokens: list[int]) -> None:
    requests = [forced(engine, tokens, *way) for way in ((), (WAYS[0],), (WAYS[1],), (WAYS[2],))]
    alone = [run(engine, request)[0] for request in requests]
    for one, other in zip(run(engine, *requests), alone, strict=True):
        np.testing.assert_allclose(logprobs(one), logprobs(other), **F16)


def test_a_token_that_would_end_the_text_is_scored_like_any_other(engine: Engine, tokens: list[int]) -> None:
    (found,) = run(engine, forced(engine, [tokens[0], END, *tokens[1:]]))
    assert [each.token for each in found.logprobs] == [tokens[0], END, *tokens[1:]]
    assert found.stop_reason == "length"


def test_the_likeliest_tokens_come_with_each_forced_one_where_asked(engine: Engine, tokens: list[int]) -> None:
    request = Request(plain_prompt(engine.model, PROMPT), forced=tokens, logprobs=2)
    (found,) = run(engine, request)
    assert all(len(each.top) == 2 and each.top[0].logprob >= each.logprob for each in found.logprobs)


def test_forced_tokens_may_fill_the_context(engine: Engine) -> None:
    room = engine.context_tokens - len(plain_prompt(engine.model, PROMPT).tokens) + 1
    (found,) = run(engine, forced(engine, [40] * room))
    assert len(found.logprobs) == room


def test_more_forced_tokens_than_fit_are_refused(engine: Engine) -> None:
    room = engine.context_tokens - len(plain_prompt(engine.model, PROMPT).tokens) + 1
    with pytest.raises(EngineError, match=f"at most {room}; found {room + 1}"):
        Batch(engine).submit(forced(engine, [40] * (room + 1)))


@pytest.mark.parametrize("token", [-1, 1 << 20])
def test_a_token_that_the_model_lacks_is_refused(engine: Engine, token: int) -> None:
    with pytest.raises(EngineError, match="no such token"):
        Batch(engine).submit(forced(engine, [40, token]))


@pytest.mark.parametrize(
    "options", [{"max_tokens": 3}, {"stop": ["."]}, {"sampling": Sampling(grammar='root ::= "a"')}], ids=str
)
def test_forced_tokens_do_not_end_early(engine: Engine, options: dict[str, object]) -> None:
    with pytest.raises(EngineError, match="end by themselves"):
        Request(plain_prompt(engine.model, PROMPT), forced=[40], **options)  # type: ignore[arg-type]


def test_no_forced_tokens_are_refused(engine: Engine) -> None:
    with pytest.raises(EngineError, match="no tokens are forced"):
        forced(engine, [])
