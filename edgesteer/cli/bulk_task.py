"""What one line of bulk generation's input asks for: read from JSON, checked, and turned into requests.

Knows no engine and no output. Everything that a line can have wrong is an EdgeSteerError that names the field.
"""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from edgesteer.chat import Message
from edgesteer.cli.bulk_lines import LINE_BYTES, Line
from edgesteer.cli.request import make_prompt, require_utf8
from edgesteer.errors import EdgeSteerError

if TYPE_CHECKING:
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.request import Prompt, Request, Steering
    from edgesteer.runtime.sampling import Sampling

TOKEN = re.compile(r"\d{1,9}", re.ASCII)
ROLES = ("system", "user", "assistant")
SHOWN = 60
"""Characters of a wrong value that an error shows."""


@dataclass(frozen=True)
class Settings:
    """What a line may set for itself; the command line gives the values for those that do not."""

    steering: tuple[Steering, ...]
    sampling: Sampling
    system: str = ""
    raw: bool = False
    n_predict: int = -1
    stop: Sequence[str] = ()
    samples: int = 1


@dataclass(frozen=True)
class Task:
    """What a line asks for. words: a prompt, or the messages of a conversation. digest: of what decides its texts."""

    id: str | int
    digest: str
    words: str | list[Message]
    settings: Settings

    def prompt(self, model: LlamaModel) -> Prompt:
        """Return the tokens to start from. Raises EdgeSteerError where the model's chat template cannot render it."""
        from edgesteer.runtime.request import chat_prompt

        system = self.settings.system
        if isinstance(self.words, str):
            return make_prompt(model, self.words, system, self.settings.raw)
        if system and self.words[0]["role"] != "system":
            return chat_prompt(model, [{"role": "system", "content": system}, *self.words])
        return chat_prompt(model, self.words)

    def request(self, prompt: Prompt, sample: int) -> Request:
        """Return the request for one of the texts; each has a seed of its own, unless that is random anyway."""
        from edgesteer.runtime.request import Request

        settings, sampling = self.settings, self.settings.sampling
        if sampling.seed >= 0:
            sampling = replace(sampling, seed=sampling.seed + sample)
        limit = settings.n_predict if settings.n_predict >= 0 else None
        return Request(prompt, settings.steering, sampling, limit, settings.stop)


def parse_task(table: dict[str, Any], key: str | int, defaults: Settings) -> Task:
    """Return what the object of a line asks for. Raises EdgeSteerError, which does not name the line."""
    values = {name: read_field(name, value, defaults.steering) for name, value in table.items()}
    if ("prompt" in values) == ("messages" in values):
        raise EdgeSteerError("a line has either prompt or messages", found=" and ".join(table) or "neither")
    settings = settings_of(values, defaults)
    if "messages" in values and ("system" in values or settings.raw):
        raise EdgeSteerError("messages go with neither system nor raw", remedy="Make the system message the first one.")
    content = {name: value for name, value in table.items() if name not in ("id", "samples")}
    words = values["prompt"] if "prompt" in values else values["messages"]
    return Task(key, digest(content), words, settings)


def id_of(table: dict[str, Any], line: Line) -> str | int:
    """Return what a line is called: its id, or its number. Raises EdgeSteerError."""
    key: str | int = as_id("id", table["id"]) if "id" in table else line.number
    return key


def decode_table(line: Line) -> dict[str, Any]:
    """Return the JSON object of a line. Raises EdgeSteerError."""
    if line.data is None:
        raise EdgeSteerError("the line is too long", expected=f"at most {LINE_BYTES} bytes", found=line.size)
    try:
        table = json.loads(line.data.decode("utf-8"), parse_constant=refuse_constant)
    except UnicodeDecodeError as error:
        raise EdgeSteerError("the text is not UTF-8", found=f"a broken character at byte {error.start + 1}") from error
    except json.JSONDecodeError as error:
        raise EdgeSteerError("not valid JSON", found=f"{error.msg} at column {error.colno}") from error
    except (ValueError, RecursionError) as error:
        raise EdgeSteerError("not valid JSON", found=error) from error
    if not isinstance(table, dict):
        raise EdgeSteerError("not a JSON object", found=shown(table))
    return table


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name}, which JSON does not have")


def digest(value: object) -> str:
    """Return 12 hexadecimal digits that stand for a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:12]


def settings_of(values: Mapping[str, Any], defaults: Settings) -> Settings:
    """Return the defaults with what a line sets for itself."""
    own = {field.name for field in fields(Settings)}
    sampling = {name: value for name, value in values.items() if name in sampling_fields()}
    changed = {name: value for name, value in values.items() if name in own}
    return replace(defaults, sampling=replace(defaults.sampling, **sampling), **changed)


def read_field(name: str, value: Any, steering: tuple[Steering, ...]) -> Any:
    """Return a field's value as a task has it. Raises EdgeSteerError for an unknown field or another kind of value."""
    if name == "steering":
        return read_steering(value, steering)
    return read_with({**FIELDS, **sampling_fields()}, name, name, value)


def read_steering(value: Any, defaults: tuple[Steering, ...]) -> tuple[Steering, ...]:
    """Return what {name: strength or {field: value}} asks for; controllers that it does not name are off."""
    if not isinstance(value, dict):
        raise wrong("steering", "an object of strengths by controller", value)
    known = {each.controller: each for each in defaults}
    for name in value:
        if name not in known:
            expected = " or ".join(known) or "none without --steer"
            raise EdgeSteerError("steering: no such controller", expected=expected, found=shown(name))
    return tuple(replace(known[name], **steering_fields(f"steering.{name}", each)) for name, each in value.items())


def steering_fields(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"strength": as_number(where, value)}
    return {name: read_with(STEERING_FIELDS, name, f"{where}.{name}", each) for name, each in value.items()}


# ---- kinds of values: each reader takes what to call a value, and the value ----

Reader = Callable[[str, Any], Any]


def read_with(readers: Mapping[str, Reader], name: str, where: str, value: Any) -> Any:
    if name not in readers:
        raise EdgeSteerError("unknown field", where=where, expected=f"one of {', '.join(readers)}")
    return readers[name](where, value)


def wrong(where: str, expected: str, value: Any) -> EdgeSteerError:
    return EdgeSteerError("wrong value", where=where, expected=expected, found=shown(value))


def shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."


def as_text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise wrong(where, "a text", value)
    return require_utf8(value, where)


def as_words(where: str, value: Any) -> str:
    if not as_text(where, value).strip():
        raise EdgeSteerError("the prompt is empty", where=where, remedy="Give a text to answer or to continue.")
    return str(value)


def as_flag(where: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise wrong(where, "true or false", value)
    return value


def as_integer(where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise wrong(where, "a whole number", value)
    return value


def as_count(where: str, value: Any) -> int:
    if as_integer(where, value) < 1:
        raise wrong(where, "at least 1", value)
    return int(value)


def as_length(where: str, value: Any) -> int:
    if as_integer(where, value) < -1:
        raise wrong(where, "a number of tokens, or -1", value)
    return int(value)


def as_number(where: str, value: Any) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= sys.float_info.max:
        raise wrong(where, "a finite number", value)
    return float(value)


def as_bias(where: str, value: Any) -> dict[int, float]:
    if not isinstance(value, dict) or not all(TOKEN.fullmatch(token) for token in value):
        raise wrong(where, "an object of numbers by token", value)
    return {int(token): as_number(f"{where}.{token}", bias) for token, bias in value.items()}


def as_id(where: str, value: Any) -> str | int:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise wrong(where, "a text or a whole number", value)
    return as_text(where, value) if isinstance(value, str) else value


def as_stop(where: str, value: Any) -> tuple[str, ...]:
    each = [value] if isinstance(value, str) else value
    if not isinstance(each, list) or not all(each):
        raise wrong(where, "a text or a list of texts, none of them empty", value)
    return tuple(as_text(where, one) for one in each)


def as_messages(where: str, value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise wrong(where, "a list of messages", value)
    return [as_message(f"{where}[{index}]", each) for index, each in enumerate(value)]


def as_message(where: str, value: Any) -> Message:
    if not isinstance(value, dict) or set(value) != {"role", "content"} or value["role"] not in ROLES:
        raise wrong(where, f"an object with role ({' or '.join(ROLES)}) and content", value)
    return {"role": value["role"], "content": as_text(f"{where}.content", value["content"])}


FIELDS: dict[str, Reader] = {
    "id": as_id,
    "prompt": as_words,
    "messages": as_messages,
    "system": as_text,
    "raw": as_flag,
    "n_predict": as_length,
    "stop": as_stop,
    "samples": as_count,
}
STEERING_FIELDS: dict[str, Reader] = {
    "strength": as_number,
    "mode": as_text,
    "rows": as_text,
    "loop": as_text,
    "decay_tokens": as_number,
}
KINDS: dict[str, Reader] = {
    "float": as_number,
    "int": as_integer,
    "str": as_text,
    "dict[int, float] | None": as_bias,
}
"""The reader of a sampling field, by its annotation."""


def sampling_fields() -> dict[str, Reader]:
    from edgesteer.runtime.sampling import Sampling

    return {field.name: KINDS[str(field.type)] for field in fields(Sampling)}
