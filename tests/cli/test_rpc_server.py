"""edgesteer rpc-server."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from edgesteer.errors import EngineError
from edgesteer.runtime import rpc
from edgesteer.runtime.engine import default_threads


@pytest.fixture
def lent(monkeypatch: pytest.MonkeyPatch) -> Any:
    """What is lent, by a server that ends at once."""
    calls: list[Any] = []

    def lend(*arguments: Any) -> None:
        calls.append((*arguments, signal.getsignal(signal.SIGINT)))
        raise EngineError("has ended")

    monkeypatch.setattr(rpc, "lend_devices", lend)
    handler = signal.getsignal(signal.SIGINT)
    yield calls
    signal.signal(signal.SIGINT, handler)


def test_only_this_machine_is_served_by_default(edgesteer: Any, lent: list[Any]) -> None:
    assert edgesteer("rpc-server") == (1, "", "Error: has ended\n")
    assert lent == [("127.0.0.1", 50052, default_threads(), signal.SIG_DFL)]


def test_whoever_listens_elsewhere_is_warned(edgesteer: Any, lent: list[Any]) -> None:
    result = edgesteer("rpc-server", "--host", "0.0.0.0", "--port", "7", "--threads", "3")
    assert result.err.splitlines()[0] == "Warning: whoever reaches this address may use and crash this server"
    assert lent[0][:3] == ("0.0.0.0", 7, 3)
