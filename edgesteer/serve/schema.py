"""The bodies of requests: OpenAI's fields, llama.cpp's extra sampling fields, and what is ours.

A field that nobody knows is refused, so that a misspelt one is not ignored in silence. Only shapes and ranges are
checked here; what needs the loaded model or its controllers is not known.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from edgesteer.controller import MODES
from edgesteer.runtime.request import LOOPS, ROWS

MOST_LOGPROBS = 20
INT32 = 2**31 - 1


def as_whole(value: Any) -> Any:
    """Return 2 for 2.0: JSON does not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Whole = Annotated[int, BeforeValidator(as_whole)]
Unsupported = Annotated[None, BeforeValidator(lambda value: value or None), Field(description="Not supported.")]
"""A field of OpenAI's that must be absent or empty."""
Ignored = Annotated[Any, Field(description="Accepted, without effect.")]
Share = Annotated[float, Field(ge=0, le=1)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopString = Annotated[str, Field(min_length=1)]
StopStrings = Annotated[list[StopString], Field(max_length=16)]
Token = Annotated[Whole, Field(ge=0, le=INT32)]
Bias = Annotated[float, Field(ge=-100, le=100)]
TokenName = Annotated[str, Field(pattern="^[0-9]{1,9}$")]


class Body(BaseModel):
    """Strict: no text is taken for a number, no number is infinite, and no field is unknown."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class RequestBody(Body):
    """A whole body. JSON may spell half a character, which no text may hold."""

    @model_validator(mode="before")
    @classmethod
    def _is_text(cls, value: Any) -> Any:
        try:
            json.dumps(value if isinstance(value, dict) else None, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise PydanticCustomError("half_character", "the body holds half a character, a lone surrogate") from error
        return value


class Dial(Body):
    """One controller's steering in full."""

    strength: float
    mode: Annotated[str | None, Field(json_schema_extra={"enum": [*MODES, None]})] = None
    rows: Annotated[str, Field(json_schema_extra={"enum": list(ROWS)})] = "last"
    loop: Annotated[str, Field(json_schema_extra={"enum": list(LOOPS)})] = "closed"
    decay_tokens: Annotated[float, Field(gt=0)] = 8.0


class StreamOptions(Body):
    include_usage: bool | None = None
    include_obfuscation: Ignored = None


class Completion(RequestBody):
    """What chat and plain completions share."""

    model: str = Field(description="The model's id, or id@controller=strength,...")
    steering: dict[str, float | Dial] | None = Field(
        None, description="Strengths by controller; those that are left out are off. Absent: the server's defaults."
    )
    telemetry: bool | None = Field(None, description="Add what each controller's loop measured.")

    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[Whole, Field(ge=1, le=128)] | None = None
    max_tokens: Annotated[Whole, Field(ge=1, le=INT32)] | None = None
    stop: StopString | StopStrings | None = None
    seed: Annotated[Whole, Field(ge=-(2**63), lt=2**63, description="-1: another one each time.")] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Share | None = None
    top_k: Annotated[Whole, Field(ge=0, le=INT32)] | None = None
    min_p: Share | None = None
    frequency_penalty: Penalty | None = None
    presence_penalty: Penalty | None = None
    repeat_penalty: Annotated[float, Field(gt=0.01, le=100)] | None = None
    repeat_last_n: Annotated[Whole, Field(ge=-1, le=65_536)] | None = None
    logit_bias: Annotated[dict[TokenName, Bias], Field(max_length=1024)] | None = None
    grammar: Annotated[str | None, Field(description="GBNF, llama.cpp's grammars.")] = None

    user: Ignored = None


class Part(BaseModel):
    """A part of a message; this server reads text only."""

    model_config = ConfigDict(strict=True)

    type: Literal["text"]
    text: str


class Message(BaseModel):
    """A message; what else an answer of OpenAI's carries may be sent back with it as long as it is empty."""

    model_config = ConfigDict(strict=True)

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[Part]
    audio: Unsupported = None
    tool_calls: Unsupported = None
    function_call: Unsupported = None

    @property
    def text(self) -> str:
        return self.content if isinstance(self.content, str) else "\n".join(part.text for part in self.content)


class JsonSchema(Body):
    name: str | None = None
    description: Ignored = None
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    strict: Ignored = None


class ResponseFormat(Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class ChatCompletion(Completion):
    """The body of POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[Whole, Field(ge=1, le=INT32)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = None
    response_format: ResponseFormat | None = None

    audio: Unsupported = None
    function_call: Ignored = None
    functions: Unsupported = None
    metadata: Ignored = None
    modalities: list[Literal["text"]] | None = None
    moderation: Unsupported = None
    parallel_tool_calls: Ignored = None
    prediction: Unsupported = None
    prompt_cache_key: Ignored = None
    prompt_cache_options: Ignored = None
    prompt_cache_retention: Ignored = None
    reasoning_effort: Ignored = None
    safety_identifier: Ignored = None
    service_tier: Ignored = None
    store: Ignored = None
    tool_choice: Ignored = None
    tools: Unsupported = None
    verbosity: Ignored = None
    web_search_options: Unsupported = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def top(self) -> int | None:
        """How many likely tokens are shown beside each; None: no log probabilities at all."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextCompletion(Completion):
    """The body of POST /v1/completions."""

    prompt: str | list[str] | list[Token] | list[list[Token]]
    logprobs: Annotated[Whole, Field(ge=0, le=MOST_LOGPROBS)] | None = None

    best_of: Literal[1] | None = None
    echo: Unsupported = None
    suffix: Unsupported = None

    @property
    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def top(self) -> int | None:
        return self.logprobs

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Its prompts: a text or a list of tokens is one."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if self.prompt and isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt  # type: ignore[return-value]


class LoadController(RequestBody):
    """The body of POST /v1/steering."""

    file: str = Field(description="A file that GET /v1/steering/files lists.")
    controller: str | None = Field(None, description="Its name in the file; may be left out when there is one only.")
    name: Annotated[str, Field(min_length=1, max_length=64)] | None = Field(
        None, description="The name that requests use; as in the file when left out."
    )
    default_strength: float = Field(0.0, description="For requests that say nothing of steering.")


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """OpenAI's shape of an error."""

    error: ErrorDetail
