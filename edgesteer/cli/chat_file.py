"""A conversation as a file: JSON, to go on with later, or Markdown, to read. Knows no terminal and no engine."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from edgesteer.cli.bulk_task import as_messages
from edgesteer.cli.console import as_plain, summarize
from edgesteer.cli.conversation import Turn
from edgesteer.errors import EdgeSteerError
from edgesteer.files import atomic_write

SUFFIXES = (".json", ".md")


def save(path: Path, model: str, system: str, turns: Iterable[Turn]) -> None:
    """Write a conversation; the end of the name says how. Raises EdgeSteerError."""
    if path.suffix not in SUFFIXES:
        raise EdgeSteerError("unknown kind of file", where=path, expected=" or ".join(SUFFIXES))
    text = (as_markdown if path.suffix == ".md" else as_json)(model, system, turns)
    with atomic_write(path) as temporary:
        temporary.write_text(text, "utf-8")


def load(path: Path) -> tuple[str, list[Turn]]:
    """Return the system message and the turns of a saved conversation. Raises EdgeSteerError."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise EdgeSteerError("cannot be read", where=path, found=error.strerror) from error
    except (ValueError, RecursionError) as error:
        raise EdgeSteerError("not valid JSON", where=path, found=error) from error
    listed = content.get("messages") if isinstance(content, dict) else None
    messages = as_messages(f"{path}: messages", without_measurements(listed))
    system = messages.pop(0)["content"] if messages[0]["role"] == "system" else ""
    roles = [each["role"] for each in messages]
    if roles != ["user", "assistant"] * (len(roles) // 2):
        raise EdgeSteerError("not a conversation", where=path, expected="messages of user and assistant in turn")
    pairs = zip(messages[::2], messages[1::2], strict=True)
    return system, [Turn(user["content"], answer["content"]) for user, answer in pairs]


def without_measurements(messages: Any) -> Any:
    """Return the messages with role and content only; anything else as it is."""
    if not isinstance(messages, list) or not all(isinstance(each, dict) for each in messages):
        return messages
    return [{key: value for key, value in each.items() if key in ("role", "content")} for each in messages]


def as_json(model: str, system: str, turns: Iterable[Turn]) -> str:
    messages: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages += [{"role": "user", "content": turn.user}, {"role": "assistant", "content": turn.text, **facts(turn)}]
    return json.dumps(as_plain({"model": model, "messages": messages}), indent=2, allow_nan=False) + "\n"


def facts(turn: Turn) -> dict[str, Any]:
    """Return how an answer was steered and what was measured; nothing of one that came from a file."""
    if turn.answer is None or turn.answer.result is None:
        return {}
    result = turn.answer.result
    return {
        "stop_reason": result.stop_reason,
        "steering": turn.answer.request.steering,
        "telemetry": {report.controller: summarize(report)._asdict() for report in result.steering},
    }


def as_markdown(model: str, system: str, turns: Iterable[Turn]) -> str:
    parts = [f"# Conversation with {model}"]
    if system:
        parts.append(f"*System:* {system}")
    for turn in turns:
        name = f"{model} ({strengths(turn)})" if strengths(turn) else model
        parts += [f"**You:** {turn.user}", f"**{name}:** {turn.text}"]
    return "\n\n".join(parts) + "\n"


def strengths(turn: Turn) -> str:
    """Return how an answer was steered: `warm 0.5, formal -1`; "" if it was not."""
    asked = turn.answer.request.steering if turn.answer is not None else ()
    return ", ".join(f"{each.controller} {each.strength:g}" for each in asked if each.strength)
