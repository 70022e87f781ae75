"""What `generate` is asked: the prompt's text, and the controllers that --steer names."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edgesteer.chat import conversation
from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError, SteeringError
from edgesteer.fingerprint import Fingerprint
from edgesteer.steering_file import pick_controller, read_steering, split_name, unused_name

if TYPE_CHECKING:
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.request import Prompt, Steering

STANDARD_INPUT = "standard input"


class SteerValue(NamedTuple):
    """One value of --steer."""

    file: Path
    name: str | None
    """None: the file's only controller."""
    strength: float | None
    """None: the controller's default."""


def parse_steer(text: str) -> SteerValue:
    """Read FILE[#NAME][=STRENGTH]. The name of a file that exists may hold both signs. Raises SteeringError."""
    place, number = text, ""
    if "=" in text and not Path(text).is_file():
        place, _, number = text.rpartition("=")
        return SteerValue(*split_name(place), as_strength(number, text))
    return SteerValue(*split_name(place), None)


def as_strength(number: str, where: str) -> float:
    try:
        strength = float(number)
    except ValueError:
        strength = math.nan
    if not math.isfinite(strength):
        raise SteeringError(
            "strength is not a number", where=where, expected="FILE=STRENGTH such as warm.gguf=0.8", found=repr(number)
        )
    return strength


def load_steering(
    values: Sequence[SteerValue], loaded: Fingerprint, **request: Any
) -> tuple[list[Controller], list[Steering]]:
    """Return the controllers that the values name, each under a name of its own, and what is asked of each.

    request: the other fields of Steering. Raises SidecarError, FingerprintError and SteeringError.
    """
    from edgesteer.runtime.request import Steering

    controllers: list[Controller] = []
    steering = []
    for value in values:
        controller = pick_controller(read_steering(value.file, loaded).controllers, value.name, value.file)
        controller = replace(controller, name=unused_name(controller.name, [each.name for each in controllers]))
        controllers.append(controller)
        strength = controller.default_strength if value.strength is None else value.strength
        steering.append(Steering(controller.name, strength, **request))
    return controllers, steering


def read_prompt(text: str | None, file: Path | None) -> str:
    """Return the prompt's text: the one given, or the file's, or standard input's, less one newline at the end.

    Raises EdgeSteerError when there is none, it is empty, cannot be read or is not UTF-8.
    """
    if text is not None:
        prompt, where = text, "--prompt"
    else:
        data, where = read_bytes(file)
        prompt = data.decode("utf-8-sig", "surrogateescape").removesuffix("\n")
    if not prompt.strip():
        raise EdgeSteerError("the prompt is empty", where=where, remedy="Give a text to answer or to continue.")
    return require_utf8(prompt, where)


def read_bytes(file: Path | None) -> tuple[bytes, str]:
    """Return the bytes of a file, or of standard input, and what to call it."""
    if file is not None:
        try:
            return file.read_bytes(), str(file)
        except OSError as error:
            raise EdgeSteerError("the prompt cannot be read", where=file, found=error.strerror) from error
    if sys.stdin.isatty():
        raise EdgeSteerError("there is no prompt", remedy="Give one with --prompt or --file, or pipe it in.")
    return sys.stdin.buffer.read(), STANDARD_INPUT


def require_utf8(text: str, where: str) -> str:
    """Return the text; raise EdgeSteerError when it stands for bytes that are not UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EdgeSteerError(
            "the text is not UTF-8", where=where, found=f"a broken character at {error.start}"
        ) from error
    return text


def make_prompt(model: LlamaModel, text: str, system: str, raw: bool) -> Prompt:
    """Return the prompt in the model's chat template, or plain when that is asked or the model has no template."""
    from edgesteer.runtime.request import chat_prompt, plain_prompt

    if not raw and model.chat.source is not None:
        return chat_prompt(model, conversation(text, require_utf8(system, "--system")))
    if system:
        raise EdgeSteerError(
            "a system message needs a chat template", where=model.path, remedy="Leave out --system, or --raw."
        )
    return plain_prompt(model, text)
