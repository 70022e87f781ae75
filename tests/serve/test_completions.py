"""From a body to the runtime's requests, without a model."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from edgesteer.runtime.request import Prompt, Request
from edgesteer.runtime.sampling import Sampling
from edgesteer.serve.completions import grammar_of, make_requests, sampling_of
from edgesteer.serve.errors import ApiError
from edgesteer.serve.schema import ChatCompletion, TextCompletion
from edgesteer.serve.service import Settings


def text_body(**fields: Any) -> TextCompletion:
    return TextCompletion.model_validate({"model": "m", "prompt": "x", **fields})


def chat_body(**fields: Any) -> ChatCompletion:
    return ChatCompletion.model_validate({"model": "m", "messages": [{"role": "user", "content": "x"}], **fields})


def prompt(*tokens: int) -> Prompt:
    return Prompt(list(tokens), np.ones(len(tokens), bool), np.zeros(len(tokens), bool))


def requests(body: Any, *prompts: Prompt, **settings: Any) -> list[Request]:
    service: Any = SimpleNamespace(settings=Settings("m", **{"max_choices": 8, **settings}))
    return make_requests(body, prompts or [prompt(5)], [], service)


def test_sampling_has_llama_cpps_names_and_its_defaults_where_nothing_is_asked() -> None:
    assert sampling_of(text_body()) == Sampling(seed=-1)
    asked = sampling_of(
        text_body(
            temperature=0.5, top_k=3, top_p=0.25, min_p=0.125, repeat_penalty=1.5, repeat_last_n=7, seed=4,
            frequency_penalty=-0.5, presence_penalty=0.75, logit_bias={"5": -1}, grammar='root ::= "a"',
        )
    )  # fmt: skip
    assert asked == Sampling(
        temp=0.5, top_k=3, top_p=0.25, min_p=0.125, repeat_penalty=1.5, repeat_last_n=7, seed=4,
        frequency_penalty=-0.5, presence_penalty=0.75, logit_bias={5: -1.0}, grammar='root ::= "a"',
    )  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "seeds"),
    [(None, [-1, -1]), (-1, [-1, -1]), (7, [7, 8]), (-2, [2**32 - 3, 2**32 - 2]), (2**32 - 2, [2**32 - 2, 0])],
)  # fmt: skip
def test_each_choice_has_the_next_seed_of_those_that_llama_cpp_has(asked: int | None, seeds: list[int]) -> None:
    assert [request.sampling.seed for request in requests(text_body(seed=asked, n=2))] == seeds


def test_choices_come_prompt_by_prompt() -> None:
    made = requests(text_body(n=2), prompt(1), prompt(2))
    assert [request.prompt.tokens for request in made] == [[1], [1], [2], [2]]


@pytest.mark.parametrize(("stop", "stops"), [(None, []), ("a", ["a"]), (["a", "b"], ["a", "b"])])
def test_stop_may_be_one_or_several(stop: Any, stops: list[str]) -> None:
    assert requests(text_body(stop=stop))[0].stop == stops


@pytest.mark.parametrize(
    ("body", "logprobs"),
    [
        (chat_body(), None),
        (chat_body(logprobs=False), None),
        (chat_body(logprobs=True), 0),
        (chat_body(logprobs=True, top_logprobs=3), 3),
        (text_body(), None),
        (text_body(logprobs=0), 0),
        (text_body(logprobs=3), 3),
    ],
)
def test_log_probabilities_are_asked_for_in_two_ways(body: Any, logprobs: int | None) -> None:
    assert requests(body)[0].logprobs == logprobs


@pytest.mark.parametrize(
    ("fields", "most", "limit"),
    [
        ({}, None, None),
        ({}, 9, 9),
        ({"max_tokens": 5}, 9, 5),
        ({"max_tokens": 5}, None, 5),
        ({"max_completion_tokens": 4, "max_tokens": 5}, 9, 4),
    ],
)
def test_the_servers_limit_is_the_default(fields: Any, most: int | None, limit: int | None) -> None:
    assert requests(chat_body(**fields), max_tokens=most)[0].max_tokens == limit


def test_more_than_the_servers_limits_is_refused() -> None:
    with pytest.raises(ApiError, match="max_tokens is too large: 10; this server allows 9"):
        requests(chat_body(max_tokens=10), max_tokens=9)
    with pytest.raises(ApiError, match="4 texts are asked for at once; this server allows 3"):
        requests(text_body(n=2), prompt(1), prompt(2), max_choices=3)


def test_response_format_is_a_grammar() -> None:
    schema = {"const": 7}
    form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}}
    assert "7" in grammar_of(chat_body(response_format=form))
    assert grammar_of(chat_body(response_format={"type": "json_object"})).startswith("root ")
    assert grammar_of(chat_body(response_format={"type": "text"}, grammar="root")) == "root"


def test_a_whole_number_may_be_written_with_a_point() -> None:
    assert text_body(n=2.0, max_tokens=5.0).max_tokens == 5
    with pytest.raises(ValidationError):
        text_body(n=2.5)


def test_what_openai_knows_and_we_do_not_is_ignored_or_refused_by_its_effect() -> None:
    chat_body(user="u", metadata={"a": "b"}, store=True, tools=[], tool_choice="auto", modalities=["text"])
    for unsupported in ({"tools": [{}]}, {"functions": [{}]}, {"modalities": ["audio"]}, {"audio": {"voice": "a"}}):
        with pytest.raises(ValidationError):
            chat_body(**unsupported)
