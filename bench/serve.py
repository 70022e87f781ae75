"""Serving over HTTP: throughput at several numbers of clients, and what each client waits, all with steering.

Claims: at least 0.97 of llama.cpp's own batched decode of the same shape (bench/batch.py has it without HTTP), and at
least twice llama-cpp-python's server at 8 clients, which serves one at a time. Every client asks for another steering.
Needs the extra `bench`.
"""

from __future__ import annotations

import asyncio
import functools
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from batch import NEW_TOKENS, PROMPT_TOKENS, BareLlama
from common import (
    MODELS,
    UNSTEERED,
    arguments,
    english_tokens,
    in_alternation,
    print_table,
    random_controller,
    spread,
)
from soak import free_port, wait_for

from edgesteer.registry import resolve_model
from edgesteer.runtime.engine import default_threads
from edgesteer.runtime.model import LlamaModel
from edgesteer.sidecar import Sidecar, write_sidecar

CLIENTS = (1, 4, 8, 16)
LATENCY_CLIENTS = 8
LATENCY_REQUESTS = 6
STEERED, PLAIN, THEIRS = "edgesteer serve, steered", "edgesteer serve, unsteered", "llama-cpp-python's server"
WORDS = "the boats lie in a harbour behind hills where people from many small towns come to sell fish bread".split()


@contextmanager
def running(command: list[str], path: str, port: int) -> Iterator[str]:
    """Run a server for the time of the body; yield its address."""
    url = f"http://127.0.0.1:{port}"
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for(url + path, server)
            yield url
        finally:
            server.terminate()


def edgesteer_server(name: str, sidecar: Path, threads: int) -> Any:
    port = free_port()
    command = [sys.executable, "-m", "edgesteer", "serve", name, "--load", str(sidecar), "--port", str(port),
               "--parallel", str(max(CLIENTS)), "--ctx-size", "4096", "--threads", str(threads)]  # fmt: skip
    return running(command, "/health", port)


def llama_cpp_python_server(name: str, threads: int) -> Any:
    port = free_port()
    command = [sys.executable, "-m", "llama_cpp.server", "--model", str(resolve_model(name)), "--n_ctx", "2048",
               "--n_threads", str(threads), "--n_threads_batch", str(threads), "--port", str(port),
               "--verbose", "False"]  # fmt: skip
    return running(command, "/v1/models", port)


def body(model: str, strength: float | None, **fields: Any) -> dict[str, Any]:
    """A request whose prompt nobody has seen; strength None: for servers that know no steering."""
    steering = {} if strength is None else {"steering": {"random": strength} if strength else {}}
    prompt = " ".join(random.choices(WORDS, k=PROMPT_TOKENS))
    return {"model": model, "prompt": prompt, "temperature": 0, "max_tokens": NEW_TOKENS, **steering, **fields}


async def ask_all(url: str, model: str, strengths: list[float | None]) -> float:
    """Let that many clients ask at once; return the seconds a token, over all of them."""
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        started = time.perf_counter()
        answers = await asyncio.gather(*(http.post("/v1/completions", json=body(model, each)) for each in strengths))
        seconds = time.perf_counter() - started
    tokens: int = sum(answer.raise_for_status().json()["usage"]["completion_tokens"] for answer in answers)
    return seconds / tokens


def dials(clients: int) -> list[float | None]:
    return [(number + 1) / clients for number in range(clients)]


def bench_throughput(
    name: str, model: LlamaModel, ours: str, theirs: str, clients: int, rounds: int, threads: int
) -> dict[str, list[float]]:
    """Return seconds a token, by server."""
    text = english_tokens(model, PROMPT_TOKENS * clients)
    prompts = [text[s * PROMPT_TOKENS : (s + 1) * PROMPT_TOKENS] for s in range(clients)]
    bare = BareLlama(model, clients, threads)

    def ask(url: str, strengths: list[float | None]) -> float:
        return asyncio.run(ask_all(url, name, strengths))

    taken = in_alternation({
        UNSTEERED: lambda: bare.run(prompts) / (clients * NEW_TOKENS),
        STEERED: functools.partial(ask, ours, dials(clients)),
        PLAIN: functools.partial(ask, ours, [0.0] * clients),
        THEIRS: functools.partial(ask, theirs, [None] * clients),
    }, rounds)  # fmt: skip
    bare.close()
    return taken


def throughput_rows(model: str, taken: dict[str, list[float]], clients: int) -> list[list[str]]:
    """Ratios of tokens a second to llama.cpp's batched decode, and to the other server's."""
    rows = []
    for name in (STEERED, PLAIN, THEIRS):
        to_bare, to_theirs = (
            spread([base / own for base, own in zip(taken[other], taken[name], strict=True)], ".2f")
            for other in (UNSTEERED, THEIRS)
        )
        rows.append([model, str(clients), name, to_bare, to_theirs, f"{1 / min(taken[name]):.0f}"])
    return rows


async def stream_times(http: httpx.AsyncClient, model: str, strength: float) -> list[float]:
    """Return the seconds from the request to each piece of a streamed answer."""
    times = []
    started = time.perf_counter()
    async with http.stream("POST", "/v1/completions", json=body(model, strength, stream=True)) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter() - started)
    return times


async def one_client(http: httpx.AsyncClient, model: str, strength: float) -> list[list[float]]:
    return [await stream_times(http, model, strength) for _ in range(LATENCY_REQUESTS)]


async def bench_latency(url: str, model: str) -> list[list[list[float]]]:
    """Times of the pieces, by client and request."""
    async with httpx.AsyncClient(base_url=url, timeout=600, trust_env=False) as http:
        strengths = [each or 0.0 for each in dials(LATENCY_CLIENTS)]
        return await asyncio.gather(*(one_client(http, model, strength) for strength in strengths))


def latency_rows(times: list[list[list[float]]]) -> list[list[str]]:
    texts = [each for client in times for each in client]
    first = [1000 * each[0] for each in texts]
    between = [1000 * gap for each in texts for gap in np.diff(each)]
    speeds = [statistics.mean(len(each) / each[-1] for each in client) for client in times]
    return [
        ["time to first token, ms", *(f"{np.percentile(first, p):.0f}" for p in (50, 95, 99))],
        ["time between tokens, ms", *(f"{np.percentile(between, p):.1f}" for p in (50, 95, 99))],
        ["tokens a second of a client: slowest, median, fastest",
         *(f"{each:.1f}" for each in (min(speeds), statistics.median(speeds), max(speeds)))],
    ]  # fmt: skip


def bench_model(name: str, rounds: int, threads: int) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of both tables."""
    with ExitStack() as stack:
        model = stack.enter_context(LlamaModel(resolve_model(name)))
        sidecar = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "random.gguf"
        controller = random_controller(model.n_blocks, model.width)
        write_sidecar(sidecar, Sidecar(model.fingerprint, {"random": controller}))
        ours = stack.enter_context(edgesteer_server(name, sidecar, threads))
        theirs = stack.enter_context(llama_cpp_python_server(name, threads))
        rows = []
        for clients in CLIENTS:
            taken = bench_throughput(name, model, ours, theirs, clients, rounds, threads)
            rows += throughput_rows(name, taken, clients)
        return rows, [[name, *row] for row in latency_rows(asyncio.run(bench_latency(ours, name)))]


def main() -> None:
    options = arguments(__doc__, rounds=5)
    throughput, latency = [], []
    for name in MODELS:
        rows, waits = bench_model(name, options.rounds, options.threads or default_threads())
        throughput += rows
        latency += waits
    columns = ("model", "clients", "server", "tokens a second over llama.cpp's batched decode", f"over {THEIRS}",
               "tokens a second")  # fmt: skip
    print_table("Throughput over HTTP: median ratio (quartiles)", columns, throughput)
    print_table(f"{LATENCY_CLIENTS} clients, each steered otherwise", ("model", "", "p50", "p95", "p99"), latency)


if __name__ == "__main__":
    main()
