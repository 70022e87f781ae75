"""The routes that generate: /v1/chat/completions and /v1/completions, and /v1/models.

What a body asks for becomes requests of the runtime here; the shapes of the answers are in replies.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import Request as HttpRequest
from starlette.types import Receive, Scope, Send

from edgesteer.runtime.json_schema import JSON_OBJECT, json_schema_grammar
from edgesteer.runtime.request import Prompt, Request, Steering, chat_prompt, continued_prompt, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.sequence import Generation
from edgesteer.serve.answer import Answer
from edgesteer.serve.dials import steering_in_name
from edgesteer.serve.errors import ApiError
from edgesteer.serve.replies import ChatReply, Json, Reply, TextReply, usage_of
from edgesteer.serve.schema import ChatCompletion, TextCompletion
from edgesteer.serve.service import AnyService, OpenService, Service

router = APIRouter()
Body = ChatCompletion | TextCompletion
T = TypeVar("T")

SAMPLING = {
    "temperature": "temp",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repeat_last_n": "repeat_last_n",
    "repeat_penalty": "repeat_penalty",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
}
"""Fields of a body, and of Sampling."""
SEEDS = 2**32 - 1
CLIENT_GONE = 499


# ---- routes ----


@router.get("/v1/models")
async def list_models(service: AnyService) -> Json:
    """The one model of this server."""
    return {"object": "list", "data": [describe_model(service)]}


@router.get("/v1/models/{model:path}")
async def get_model(model: str, service: AnyService) -> Json:
    """The model, under its own name or one with a suffix."""
    steering_in_name(model, service.settings.model_id)
    return describe_model(service)


@router.post("/v1/chat/completions")
async def chat_completion(body: ChatCompletion, http: HttpRequest, service: OpenService) -> Response:
    """The next message of a conversation."""
    steering = steering_of(body, service)
    if service.model.chat.source is None:
        raise ApiError(400, "this model has no chat template; use /v1/completions", param="messages")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs", param="top_logprobs")
    roles = {"developer": "system"}
    messages = [{"role": roles.get(each.role, each.role), "content": each.text} for each in body.messages]
    prompt = await run_in_threadpool(chat_prompt, service.model, messages)
    check_lengths([prompt], service, "messages")
    return await respond(ChatReply, body, [prompt], steering, http, service)


@router.post("/v1/completions")
async def text_completion(body: TextCompletion, http: HttpRequest, service: OpenService) -> Response:
    """What follows a text."""
    steering = steering_of(body, service)
    prompts = await run_in_threadpool(lambda: [make_prompt(each, service) for each in body.prompts])
    check_lengths(prompts, service, "prompt")
    return await respond(TextReply, body, prompts, steering, http, service)


def describe_model(service: Service) -> Json:
    return {
        "id": service.settings.model_id,
        "object": "model",
        "created": service.started,
        "owned_by": "edgesteer",
    }


# ---- what a body asks for ----


def steering_of(body: Body, service: Service) -> list[Steering]:
    """Return the steering in the body's field or in the model's name. Raises ApiError when both have one."""
    named = steering_in_name(body.model, service.settings.model_id)
    if named is None:
        return service.dials.asked(body.steering)
    if body.steering is not None:
        raise ApiError(400, "steering is asked for twice: here and in the model's name", param="steering")
    return service.dials.asked(named, "model")


def make_prompt(text: str | list[int], service: Service) -> Prompt:
    """Return the prompt of a text or of tokens. Raises ApiError for tokens that the model does not have."""
    if isinstance(text, str):
        return plain_prompt(service.model, text)
    unknown = [token for token in text if token >= service.model.n_tokens]
    if unknown:
        last = service.model.n_tokens - 1
        raise ApiError(400, f"the model has tokens 0 to {last}; found {unknown[0]}", param="prompt")
    return continued_prompt(text)


def check_lengths(prompts: Sequence[Prompt], service: Service, param: str) -> None:
    """Raise ApiError unless every prompt has a token and leaves room for one more."""
    for length in [len(prompt.tokens) for prompt in prompts] or [0]:
        if not length:
            raise ApiError(400, "the prompt is empty", param=param)
        if length >= service.context_tokens:
            raise ApiError(
                400,
                f"the prompt has {length} tokens; the context holds {service.context_tokens}",
                param=param,
                code="context_length_exceeded",
            )


def sampling_of(body: Body) -> Sampling:
    """Return how to sample; what the body leaves open is as by default, and another seed each time."""
    asked = {field: getattr(body, name) for name, field in SAMPLING.items()}
    given: dict[str, Any] = {field: value for field, value in asked.items() if value is not None}
    bias = {int(token): each for token, each in (body.logit_bias or {}).items()}
    seed = -1 if body.seed is None or body.seed == -1 else body.seed % SEEDS
    return Sampling(**given, seed=seed, grammar=grammar_of(body), logit_bias=bias or None)


def grammar_of(body: Body) -> str:
    """Return the grammar that the body asks for, as such or as a format of JSON."""
    asked = body.response_format if isinstance(body, ChatCompletion) else None
    if asked is None or asked.type == "text":
        return body.grammar or ""
    if body.grammar:
        raise ApiError(400, "grammar and response_format exclude each other", param="response_format")
    if asked.type == "json_object":
        return JSON_OBJECT
    if asked.json_schema is None:
        raise ApiError(400, "there is no schema", param="response_format.json_schema")
    return json_schema_grammar(asked.json_schema.schema_)


def token_limit(body: Body, service: Service) -> int | None:
    """Return the most tokens to generate. Raises ApiError when the body asks for more than this server allows."""
    asked, most = body.token_limit, service.settings.max_tokens
    if asked is not None and most is not None and asked > most:
        raise ApiError(400, f"max_tokens is too large: {asked}; this server allows {most}", param="max_tokens")
    return most if asked is None else asked


def make_requests(
    body: Body, prompts: Sequence[Prompt], steering: Sequence[Steering], service: Service
) -> list[Request]:
    """Return one request for each text: the first prompt's, then the next one's. With a seed, each has another."""
    n, most = body.n or 1, service.settings.max_choices
    if n * len(prompts) > most:
        raise ApiError(400, f"{n * len(prompts)} texts are asked for at once; this server allows {most}", param="n")
    if body.telemetry and n * len(prompts) > 1:
        raise ApiError(400, "telemetry is for one text at a time", param="telemetry")
    sampling, limit = sampling_of(body), token_limit(body, service)
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    seeds = [-1 if sampling.seed == -1 else (sampling.seed + number) % SEEDS for number in range(n)]
    samplings = [replace(sampling, seed=seed) for seed in seeds]
    return [Request(prompt, steering, each, limit, stop, body.top) for prompt in prompts for each in samplings]


# ---- answers ----


async def respond(
    shape: type[Reply],
    body: Body,
    prompts: Sequence[Prompt],
    steering: Sequence[Steering],
    http: HttpRequest,
    service: Service,
) -> Response:
    """Generate the texts and answer with them, whole or as a stream of events."""
    if body.stream_options is not None and not body.stream:
        raise ApiError(400, "stream_options is only for streams", param="stream_options")
    requests = await run_in_threadpool(make_requests, body, prompts, steering, service)
    reply = shape(body.model, telemetry=bool(body.telemetry), warnings=service.dials.warnings(steering))
    answer = Answer(service.worker, service.metrics, requests)
    await answer.start()
    per_prompt = len(requests) // len(prompts)
    if body.stream:
        wants_usage = body.stream_options is not None and body.stream_options.include_usage
        return EventStream(answer, events(answer, reply, per_prompt if wants_usage else None))
    try:
        texts = await unless_gone(http, collect(answer))
    finally:
        answer.cancel()
    return JSONResponse(reply.body(texts, usage_of(texts, per_prompt)))


async def collect(answer: Answer) -> list[Generation]:
    """Wait for all texts, and return them in order."""
    texts = {index: piece.result async for index, piece in answer if piece.result is not None}
    return [texts[index] for index in sorted(texts)]


async def events(answer: Answer, reply: Reply, per_prompt: int | None) -> AsyncIterator[str]:
    """Yield server-sent events. per_prompt: texts of each prompt when usage is wanted, else None."""
    texts: dict[int, Generation] = {}
    more: Json = {} if per_prompt is None else {"usage": None}
    try:
        async for index, piece in answer:
            for chunk in reply.chunks(index, piece):
                yield event({**chunk, **more})
            if piece.result is not None:
                texts[index] = piece.result
        if per_prompt is not None:
            yield event(reply.usage_chunk(usage_of([texts[index] for index in sorted(texts)], per_prompt)))
    except ApiError as error:  # the status has been sent
        yield event(error.body)
    yield "data: [DONE]\n\n"


def event(body: Json) -> str:
    return f"data: {json.dumps(body, allow_nan=False)}\n\n"


class EventStream(StreamingResponse):
    """A stream of events that ends the generation with it, also when nobody reads it to its end."""

    def __init__(self, answer: Answer, content: AsyncIterator[str]) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        super().__init__(content, headers=headers, media_type="text/event-stream")
        self._answer = answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._answer.cancel()


async def unless_gone(http: HttpRequest, work: Awaitable[T]) -> T:
    """Return what the work returns; end it when the client goes before."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(wait_until_gone(http))
    try:
        await asyncio.wait({working, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(CLIENT_GONE, "the client has gone")
        return working.result()
    finally:
        working.cancel()
        gone.cancel()


async def wait_until_gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
