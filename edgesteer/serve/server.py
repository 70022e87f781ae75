"""The socket and uvicorn: a port that is ours before the model is loaded, and an end that breaks no answer off."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI

from edgesteer.errors import EdgeSteerError
from edgesteer.serve.service import Service

DRAIN_SECONDS = 10.0
GRACE_SECONDS = 5.0
"""For clients to read the end of their answers."""


def open_socket(host: str, port: int) -> socket.socket:
    """Return a socket that listens; port 0 takes a free one. Raises EdgeSteerError, when the port is in use as well."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address[:2], family=family, backlog=128)
    except (OSError, UnicodeError) as error:
        number = getattr(error, "errno", None) or 0
        found = os.strerror(number) if number > 0 else getattr(error, "strerror", "an impossible name")
        raise EdgeSteerError(
            "cannot listen here", where=f"{host}:{port}", found=found, remedy="Give another --port or --host."
        ) from error


class Server(uvicorn.Server):
    """Serves one app until a signal, or until should_exit is set from any thread.

    Then it takes on nothing more, lets answers end for so many seconds, ends the rest where they are, and closes the
    worker. A second Ctrl-C does not wait; then `forced` is true.
    """

    def __init__(self, app: FastAPI, *, drain_seconds: float = DRAIN_SECONDS) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="h11",
                loop="asyncio",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
            )
        )
        self._service: Service = app.state.service
        self._drain_seconds = drain_seconds

    @property
    def forced(self) -> bool:
        return self.force_exit

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End as the class says."""
        self._service.closing = True
        draining = asyncio.create_task(self._drain())
        await super().shutdown(sockets)
        await draining

    async def _drain(self) -> None:
        """Let answers end, then end them, then hang up on those who do not read theirs."""
        await self._wait_for_requests(self._drain_seconds)
        await asyncio.to_thread(self._service.worker.close)
        await self._wait_for_requests(GRACE_SECONDS)
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        if self.server_state.tasks:  # they take note that their clients are gone
            await asyncio.wait(self.server_state.tasks, timeout=1)

    async def _wait_for_requests(self, seconds: float) -> None:
        """Wait until no request runs, the time is over or nobody wants to wait."""
        deadline = time.monotonic() + seconds
        while self.server_state.tasks and not self.force_exit and time.monotonic() < deadline:
            await asyncio.sleep(0.05)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving; unlike uvicorn, do not raise them again afterwards: they have been obeyed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
