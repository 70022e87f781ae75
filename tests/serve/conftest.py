"""A server of the tiny model in a thread of its own, on a free port, as clients see it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import openai
import pytest

from edgesteer.sidecar import Sidecar, write_sidecar

if TYPE_CHECKING:
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.serve.server import Server

MODEL = "tiny"
NO_END = {"0": -100, "2": -100}
"""A logit_bias under which the tiny model does not end its text."""


@dataclass(frozen=True)
class Running:
    """A server that runs."""

    url: str
    server: Server
    thread: threading.Thread

    @property
    def http(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    @property
    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="any", max_retries=0, timeout=60)

    def get(self, path: str, **options: Any) -> httpx.Response:
        with self.http as client:
            return client.get(path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        with self.http as client:
            return client.post(path, json=body, **options) if body is not None else client.post(path, **options)

    def chat(self, text: str = "the end", **fields: Any) -> httpx.Response:
        messages = [{"role": "user", "content": text}]
        return self.post("/v1/chat/completions", {"model": MODEL, "messages": messages, **fields})

    def text(self, prompt: Any = "the end", **fields: Any) -> str:
        """Return what a greedy completion of eight tokens says."""
        defaults = {"model": MODEL, "temperature": 0, "max_tokens": 8, "logit_bias": NO_END}
        response = self.post("/v1/completions", {**defaults, "prompt": prompt, **fields})
        assert response.status_code == 200, response.text
        return str(response.json()["choices"][0]["text"])

    def wait_until_idle(self) -> dict[str, Any]:
        """Return what /health says once nothing runs."""
        for _ in range(600):
            health: dict[str, Any] = self.get("/health").json()
            if not health["running"] + health["waiting"]:
                return health
            time.sleep(0.05)
        raise AssertionError("requests still run")


@contextmanager
def serving(
    model: LlamaModel,
    controllers: Any = (),
    *,
    context_tokens: int = 512,
    parallel: int = 4,
    queue: int = 8,
    drain_seconds: float = 0.0,
    send_buffer: int | None = None,
    **settings: Any,
) -> Iterator[Running]:
    """Serve for the time of the body. send_buffer: bytes that the system holds of an answer that nobody reads."""
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.worker import Worker
    from edgesteer.serve.app import create_app
    from edgesteer.serve.server import Server, open_socket
    from edgesteer.serve.service import Settings

    engine = Engine(model, controllers, context_tokens=context_tokens, n_sequences=parallel, threads=1, reloadable=True)
    with Worker(engine, max_waiting=queue) as worker, open_socket("127.0.0.1", 0) as listener:
        if send_buffer is not None:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
        app = create_app(worker, model, Settings(MODEL, **settings))
        server = Server(app, drain_seconds=drain_seconds)
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            yield Running(f"http://127.0.0.1:{listener.getsockname()[1]}", server, thread)
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(autouse=True)
def repeated_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random seeds (-1) are 0, 1, 2, ... in each test, so that the tiny model ends no text early on some runs only."""
    import llama_cpp

    seeds, draw = count(), llama_cpp.llama_sampler_init_dist
    monkeypatch.setattr(llama_cpp, "llama_sampler_init_dist", lambda seed: draw(next(seeds) if seed == -1 else seed))


StartServer = Callable[..., Running]


@pytest.fixture
def start_server(tiny_llama: LlamaModel) -> Iterator[StartServer]:
    """Return a function that starts a server with such settings; it ends with the test."""
    with ExitStack() as stack:
        yield lambda *arguments, **options: stack.enter_context(serving(tiny_llama, *arguments, **options))


@pytest.fixture(scope="module")
def server(tiny_llama: LlamaModel, make_controller: Any) -> Iterator[Running]:
    """A server with the controllers `warm` and `formal`, off by default; for tests that leave it as it is."""
    controllers = [
        make_controller(tiny_llama.n_blocks, tiny_llama.width, name=name, seed=seed, size=1.0)
        for seed, name in enumerate(("warm", "formal"))
    ]
    files = {"warm": "warm.gguf", "formal": "formal.gguf"}
    with serving(tiny_llama, controllers, files=files) as running:
        yield running


@pytest.fixture
def folder(tiny_llama: LlamaModel, make_controller: Any, tmp_path: Path) -> Path:
    """A folder of sidecars: warm.gguf with `warm`, pair.gguf with `one` and `two`."""
    for file, names in {"warm.gguf": ["warm"], "pair.gguf": ["one", "two"]}.items():
        controllers = {name: make_controller(tiny_llama.n_blocks, tiny_llama.width, name=name) for name in names}
        write_sidecar(tmp_path / file, Sidecar(tiny_llama.fingerprint, controllers))
    return tmp_path
