"""Guards: what a request must pass before any route sees it: the name it calls us by, its key, its size.

Plain ASGI, so that streams pass through them untouched.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edgesteer.serve.errors import ApiError
from edgesteer.serve.metrics import Metrics

OPEN_PATHS = re.compile(r"/|/health|/page/.*")
"""What needs no key: the page, which asks for one, and the state of health."""
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")


class HostGuard:
    """Lets only requests in that call the server by one of some names; none: by any.

    Without it, a web page elsewhere could have its own name resolve to this machine, and read the answers.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str]) -> None:
        self._app = app
        self._hosts = {host.lower() for host in hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and self._hosts:
            host = host_name(Headers(scope=scope).get("host", ""))
            if host not in self._hosts:
                error = ApiError(403, f"this server is not called {host!r}", code="host_not_allowed")
                return await error.response(scope, receive, send)
        await self._app(scope, receive, send)


class KeyGuard:
    """Lets only requests in that carry the key, but for the open paths."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not OPEN_PATHS.fullmatch(scope["path"]):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not secrets.compare_digest(given, self._expected):
                error = ApiError(
                    401,
                    "this server needs its API key, as `Authorization: Bearer KEY`",
                    code="invalid_api_key",
                    headers={"WWW-Authenticate": "Bearer"},
                )
                return await error.response(scope, receive, send)
        await self._app(scope, receive, send)


class BodyLimit:
    """Ends a request whose body is longer than so many bytes, whether or not it says so beforehand."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        message = f"the body is larger than {self._max_bytes} bytes"
        too_large = ApiError(413, message, code="body_too_large", headers={"Connection": "close"})
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced) > self._max_bytes:
            return await too_large.response(scope, receive, send)
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self._max_bytes:
                raise too_large
            return message

        await self._app(scope, counted, send)


class RequestCounter:
    """Counts requests by route and status."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 500

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noted)
        finally:
            if scope["type"] == "http":
                self._requests.labels(getattr(scope.get("route"), "path", "none"), status).inc()


def host_name(header: str) -> str:
    """Return the name in a Host header, without its port and the brackets of IPv6."""
    match = re.fullmatch(r"\[([^]]*)\](?::\d*)?|([^:]*)(?::\d*)?", header.strip())
    return (match[1] or match[2] or "").lower() if match else header


def is_loopback(host: str) -> bool:
    """Return whether a host that a server binds to is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
