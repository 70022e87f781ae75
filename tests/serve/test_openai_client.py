"""OpenAI's own client, over real HTTP, with the tiny model behind it."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

pytestmark = pytest.mark.torch

USER = [{"role": "user", "content": "the end"}]
NO_END = {"0": -100, "2": -100}
LONG = [{"role": "user", "content": "x" * 600}]
GREEDY = {"model": "tiny", "temperature": 0, "max_tokens": 8, "logit_bias": NO_END}


@pytest.fixture(scope="module")
def client(server: Any) -> openai.OpenAI:
    return server.openai


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    return client.chat.completions.create(**{**GREEDY, "messages": USER, **fields})


def complete(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{**GREEDY, "prompt": "the end", **fields})


# ---- chat ----


def test_chat_answers_with_a_message_and_its_usage(client: openai.OpenAI, tiny_llama: Any) -> None:
    answer = chat(client)
    assert (answer.object, answer.model, answer.choices[0].message.role) == (
        "chat.completion",
        "tiny",
        "assistant",
    )
    assert len(answer.choices[0].message.content) > 0
    rendered = tiny_llama.chat.render(USER)
    assert answer.usage.prompt_tokens == len(tiny_llama.tokenize(rendered))
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (8, "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 8


def test_stream_says_what_the_whole_answer_says(client: openai.OpenAI) -> None:
    whole = chat(client)
    chunks = list(chat(client, stream=True))
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]


def test_stream_ends_with_the_usage_for_those_who_ask(client: openai.OpenAI) -> None:
    *chunks, last = chat(client, stream=True, stream_options={"include_usage": True})
    assert {chunk.usage for chunk in chunks} == {None}
    assert (last.choices, last.usage.completion_tokens) == ([], 8)


@pytest.mark.parametrize("stream", [False, True])
def test_text_ends_before_a_stop_string(client: openai.OpenAI, stream: bool) -> None:
    text = chat(client).choices[0].message.content
    answer = chat(client, stop=["never there", text[2:4]], stream=stream)
    if stream:
        choices = [chunk.choices[0] for chunk in answer]
        found, reason = "".join(each.delta.content or "" for each in choices), choices[-1].finish_reason
    else:
        found, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
    assert (found, reason) == (text[: text.index(text[2:4])], "stop")


def test_end_of_the_text_finishes_with_stop(client: openai.OpenAI) -> None:
    answer = chat(client, logit_bias={"2": 100})
    assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == ("", "stop")
    assert answer.usage.completion_tokens == 0


def test_a_seed_gives_the_same_text_again_and_none_another_one(client: openai.OpenAI) -> None:
    def text(**fields: Any) -> str:
        return str(chat(client, temperature=2, max_tokens=32, **fields).choices[0].message.content)

    assert text(seed=5) == text(seed=5)
    assert text(seed=5) != text(seed=6)
    assert text() != text()


def test_choices_of_one_seed_differ(client: openai.OpenAI) -> None:
    answer = chat(client, n=3, temperature=2, max_tokens=32, seed=5)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage.completion_tokens == 3 * 32


def test_choices_of_a_stream_come_under_their_numbers(client: openai.OpenAI) -> None:
    texts = {0: "", 1: ""}
    for chunk in chat(client, stream=True, n=2):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    alone = chat(client).choices[0].message.content
    assert texts == {0: alone, 1: alone}


def test_log_probabilities_spell_the_text_and_name_the_likeliest(client: openai.OpenAI) -> None:
    options: Any = {"logprobs": True, "top_logprobs": 3, "logit_bias": None, "max_tokens": 4}
    choice = chat(client, **options).choices[0]
    tokens = choice.logprobs.content
    spelt = b"".join(bytes(token.bytes) for token in tokens)
    assert spelt.decode("utf-8", "replace").startswith(choice.message.content)
    for token in tokens:
        assert [len(token.top_logprobs), token.top_logprobs[0].token] == [3, token.token]
        assert token.top_logprobs[0].logprob == token.logprob < 0
        assert token.top_logprobs[1].logprob <= token.logprob
    streamed = [chunk.choices[0].logprobs for chunk in chat(client, stream=True, **options)]
    assert [token for each in streamed if each for token in each.content] == tokens


def test_a_json_schema_shapes_the_text(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"warm": {"type": "boolean"}}, "required": ["warm"]}
    form: Any = {"type": "json_schema", "json_schema": {"name": "mood", "schema": schema}}
    answer = chat(client, response_format=form, max_tokens=100, temperature=1, seed=1)
    assert answer.choices[0].finish_reason == "stop"
    assert type(json.loads(answer.choices[0].message.content)["warm"]) is bool


def test_json_mode_opens_an_object(client: openai.OpenAI) -> None:
    answer = chat(client, response_format={"type": "json_object"})
    assert answer.choices[0].message.content.startswith("{")


def test_parts_of_a_text_and_the_developer_role_are_read(client: openai.OpenAI) -> None:
    parts: Any = [{"type": "text", "text": "the"}, {"type": "text", "text": "end"}]
    developer: Any = [{"role": "developer", "content": "hm"}, {"role": "user", "content": parts}]
    plain: Any = [{"role": "system", "content": "hm"}, {"role": "user", "content": "the\nend"}]
    answers = [chat(client, messages=messages).choices[0].message.content for messages in (developer, plain)]
    assert answers[0] == answers[1]


def test_an_answer_may_be_sent_back_as_it_came(client: openai.OpenAI) -> None:
    message = chat(client).choices[0].message.model_dump()
    assert chat(client, messages=[*USER, message, *USER]).usage.prompt_tokens > 40


def test_repeated_beginnings_are_read_from_the_cache(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "a" * 50}]
    first, second = (chat(client, messages=messages) for _ in range(2))
    assert second.usage.prompt_tokens_details.cached_tokens > 50
    assert second.choices[0].message.content == first.choices[0].message.content


def test_eight_requests_at_once_get_what_each_gets_alone(client: openai.OpenAI) -> None:
    # llama.cpp's logits differ by up to 4e-3 with what shares a batch; here the first token leads by ten times that
    prompts = [f"the {letter}" for letter in "bcefkmno"]

    def text(prompt: str) -> str:
        return str(complete(client, prompt=prompt).choices[0].text)

    alone = [text(prompt) for prompt in prompts]
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(text, prompts)) == alone
    assert len(set(alone)) > 1


# ---- plain completions ----


def test_completion_continues_a_text_or_its_tokens(client: openai.OpenAI, tiny_llama: Any) -> None:
    text = complete(client)
    assert (text.object, len(text.choices[0].text) > 0) == ("text_completion", True)
    tokens = complete(client, prompt=tiny_llama.tokenize("the end"))
    assert tokens.choices[0].text == text.choices[0].text


def test_each_prompt_of_a_list_gets_its_choices(client: openai.OpenAI) -> None:
    alone = [complete(client, prompt=prompt).choices[0].text for prompt in ("the end", "on")]
    together = complete(client, prompt=["the end", "on"], n=2)
    assert [choice.text for choice in together.choices] == [alone[0], alone[0], alone[1], alone[1]]
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    alone_tokens = [complete(client, prompt=prompt).usage.prompt_tokens for prompt in ("the end", "on")]
    assert together.usage.prompt_tokens == sum(alone_tokens)


def test_streamed_completion_says_what_the_whole_one_says(client: openai.OpenAI) -> None:
    chunks = list(complete(client, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete(client).choices[0].text
    assert chunks[-1].choices[0].finish_reason == "length"


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_completions_have_their_own_shape(client: openai.OpenAI, stream: bool) -> None:
    extra = {"grammar": 'root ::= "abc" [a-z]+'}
    answer = complete(client, stream=stream, logprobs=2, extra_body=extra)
    answers = [each.choices[0].logprobs for each in answer] if stream else [answer.choices[0].logprobs]
    offsets = [offset for each in answers if each for offset in each.text_offset]
    tokens = [token for each in answers if each for token in each.tokens]
    assert offsets == [sum(map(len, tokens[:index])) for index in range(len(tokens))]
    assert "".join(tokens).startswith("abc")
    assert {len(top) for each in answers if each for top in each.top_logprobs} == {2}
    assert all(value < 0 for each in answers if each for value in each.token_logprobs)


# ---- models and errors ----


def test_the_one_model_is_listed_and_can_be_asked_for(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").owned_by == "edgesteer"
    assert client.models.retrieve("tiny@warm=1").id == "tiny"


@pytest.mark.parametrize(
    ("fields", "error", "param", "code"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "model", "model_not_found"),
        ({"model": "tiny@cold=1"}, openai.NotFoundError, "model", "controller_not_found"),
        ({"messages": []}, openai.BadRequestError, "messages", None),
        ({"messages": LONG}, openai.BadRequestError, "messages", "context_length_exceeded"),
        ({"tools": [{"type": "function"}]}, openai.BadRequestError, "tools", None),
        ({"temperature": -1}, openai.BadRequestError, "temperature", None),
        ({"n": 100}, openai.BadRequestError, "n", None),
    ],
)  # fmt: skip
def test_errors_are_raised_as_openai_raises_them(
    fields: dict[str, Any], error: type[openai.APIStatusError], param: str, code: str | None, client: openai.OpenAI
) -> None:
    with pytest.raises(error) as raised:
        chat(client, **fields)
    assert (raised.value.param, raised.value.code, raised.value.type) == (param, code, "invalid_request_error")


def test_errors_before_a_stream_are_raised_as_well(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError):
        chat(client, stream=True, messages=[])
