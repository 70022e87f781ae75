"""The guards as plain ASGI, message by message."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from edgesteer.serve.errors import ApiError
from edgesteer.serve.guards import BodyLimit


def send_body(*parts: bytes, limit: int, headers: Any = ()) -> tuple[list[bytes], list[Any]]:
    """Send a body in parts through a BodyLimit; return what the app has read and what was answered before it."""
    read: list[bytes] = []
    sent: list[Any] = []
    messages = iter({"type": "http.request", "body": part, "more_body": True} for part in parts)

    async def receive() -> Any:
        return next(messages)

    async def send(message: Any) -> None:
        sent.append(message)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        for _ in parts:
            read.append((await receive())["body"])

    asyncio.run(BodyLimit(app, limit)({"type": "http", "headers": list(headers)}, receive, send))
    return read, sent


def test_a_body_up_to_the_limit_passes_in_any_number_of_parts() -> None:
    assert send_body(b"abc", b"de", limit=5) == ([b"abc", b"de"], [])


def test_a_body_is_cut_at_the_part_that_passes_the_limit() -> None:
    with pytest.raises(ApiError) as raised:
        send_body(b"abc", b"def", limit=5)
    assert raised.value.status_code == 413


def test_a_body_that_says_it_is_longer_is_not_read_at_all() -> None:
    read, sent = send_body(b"abc", limit=5, headers=[(b"content-length", b"6")])
    assert (read, sent[0]["status"]) == ([], 413)
