"""Soak: a server under mixed load with cancels, disconnects and bad requests, for as long as you like.

Claims: resident memory stays flat, no token is lost or doubled, and all KV cells come back. A text that a grammar fixes
shows a lost or doubled token; steering, sampling and neighbours differ from request to request.

    python bench/soak.py MODEL --minutes 30
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil  # type: ignore[import-untyped]

CLIENTS = 8
KINDS = ("whole", "stream", "fixed", "leave", "abandon", "bad")
WORDS = "the boats are on a hill and nobody knows how they came to be there in the end".split()
NUMBERS = " ".join(str(number) for number in range(1, 13))


@dataclass
class Record:
    """What happened. defects: answers that were wrong. memory: (seconds, resident bytes)."""

    requests: Counter[str] = field(default_factory=Counter)
    refused: int = 0
    tokens: int = 0
    defects: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)

    def rise(self) -> tuple[float, float]:
        """Return how much the median memory rose from the middle third to the last one, and its spread, in MB."""
        third = len(self.memory) // 3
        middle, last = ([size / 1e6 for _, size in part] for part in (self.memory[third:-third], self.memory[-third:]))
        return statistics.median(last) - statistics.median(middle), max(statistics.stdev(middle), 0.01)


class Client:
    """One client that asks one thing after the other."""

    def __init__(self, http: httpx.AsyncClient, model: str, controllers: list[str], record: Record, seed: int) -> None:
        self._http, self._model, self._controllers, self._record = http, model, controllers, record
        self._random = random.Random(seed)

    async def run(self, until: float) -> None:
        while time.monotonic() < until:
            kind = self._random.choice(KINDS)
            try:
                await getattr(self, f"_{kind}")()
            except httpx.HTTPStatusError as error:
                await self._refused(kind, error.response)
            else:
                self._record.requests[kind] += 1

    async def _refused(self, kind: str, response: httpx.Response) -> None:
        if response.status_code != 429:
            self._record.defects.append(f"{kind}: status {response.status_code}: {response.text[:200]}")
            return
        self._record.refused += 1
        await asyncio.sleep(0.2)

    def _body(self, **fields: Any) -> dict[str, Any]:
        prompt = " ".join(self._random.choices(WORDS, k=self._random.choice((3, 10, 60))))
        dials = {name: round(self._random.uniform(-1, 1), 2) for name in self._controllers}
        seed = self._random.randrange(1000)
        return {"model": self._model, "prompt": prompt, "steering": dials, "seed": seed, "max_tokens": 24, **fields}

    async def _post(self, body: dict[str, Any], **options: Any) -> dict[str, Any]:
        response = await self._http.post("/v1/completions", json=body, **options)
        response.raise_for_status()
        answer: dict[str, Any] = response.json()
        self._record.tokens += answer["usage"]["completion_tokens"]
        return answer

    async def _whole(self) -> None:
        answer = await self._post(self._body(telemetry=True))
        if answer["usage"]["completion_tokens"] > 24:
            self._record.defects.append("whole: more tokens than asked for")

    async def _fixed(self) -> None:
        grammar = f'root ::= "{NUMBERS}"'
        text = (await self._post(self._body(grammar=grammar, max_tokens=100)))["choices"][0]["text"]
        self._expect("fixed", text)

    async def _stream(self) -> None:
        text = await self._read(self._body(grammar=f'root ::= "{NUMBERS}"', max_tokens=100), most=1000)
        self._expect("stream", text)

    async def _leave(self) -> None:
        await self._read(self._body(max_tokens=100), most=self._random.randrange(1, 12))

    async def _abandon(self) -> None:
        try:
            await self._post(self._body(max_tokens=100), timeout=self._random.uniform(0.01, 0.3))
        except httpx.TimeoutException:
            return

    async def _bad(self) -> None:
        wrong: dict[str, Any] = self._random.choice(
            [{"steering": {"nobody": 1}}, {"max_tokens": -1}, {"temperature": "warm"}, {"prompt": "a " * 100_000}]
        )
        response = await self._http.post("/v1/completions", json=self._body(**wrong))
        if not 400 <= response.status_code < 500:
            self._record.defects.append(f"bad: status {response.status_code} for {str(wrong)[:40]}")

    async def _read(self, body: dict[str, Any], most: int) -> str:
        """Read a stream, up to so many pieces; then leave."""
        text, count = "", 0
        async with self._http.stream("POST", "/v1/completions", json={**body, "stream": True}) as response:
            if response.status_code != 200:
                await response.aread()
                response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    chunk = json.loads(line.removeprefix("data: "))
                    text += chunk["choices"][0]["text"] if chunk.get("choices") else ""
                    count += 1
                if count >= most:
                    break
        self._record.tokens += count
        return text

    def _expect(self, kind: str, text: str) -> None:
        if text != NUMBERS:
            self._record.defects.append(f"{kind}: tokens lost or doubled: {text!r}")


async def load(url: str, pid: int, seconds: float, key: str | None = None) -> Record:
    """Put a server under load; return what happened."""
    record = Record()
    headers = {"authorization": f"Bearer {key}"} if key else {}
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, headers=headers) as http:
        model = (await http.get("/v1/models")).json()["data"][0]["id"]
        controllers = [each["name"] for each in (await http.get("/v1/steering")).json()["data"]]
        until = time.monotonic() + seconds
        clients = [Client(http, model, controllers, record, seed).run(until) for seed in range(CLIENTS)]
        watching = asyncio.create_task(watch(pid, record))
        await asyncio.gather(*clients)
        watching.cancel()
        await settle(http, record)
    return record


async def watch(pid: int, record: Record) -> None:
    process = psutil.Process(pid)
    started = time.monotonic()
    while True:
        record.memory.append((time.monotonic() - started, process.memory_info().rss))
        await asyncio.sleep(1)


async def settle(http: httpx.AsyncClient, record: Record) -> None:
    """Wait until nothing runs any more; every cell must be free then."""
    for _ in range(600):
        health = (await http.get("/health")).json()
        if not health["running"] + health["waiting"]:
            break
        await asyncio.sleep(0.1)
    if health["running"] or health["waiting"] or health["cells_used"]:
        record.defects.append(f"not everything came back: {health}")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def soak(model: str, steering: list[Path], seconds: float, threads: int) -> Record:
    """Start a server of a model with some sidecars, and put it under load."""
    port = free_port()
    loads = [word for file in steering for word in ("--load", str(file))]
    command = [sys.executable, "-m", "edgesteer", "serve", model, *loads, "--port", str(port), "--parallel", "4",
               "--queue", "2", "--ctx-size", "2048", "--threads", str(threads)]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "dumb"}) as server:
        try:
            wait_for(f"http://127.0.0.1:{port}/health", server)
            return asyncio.run(load(f"http://127.0.0.1:{port}", server.pid, seconds))
        finally:
            server.terminate()


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    """Return when a server answers. Raises RuntimeError when it ends instead."""
    for _ in range(600):
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}")
        try:
            httpx.get(url, trust_env=False)
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("the server does not answer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--steer", type=Path, action="append", default=[], help="a sidecar; may be given several times")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    record = soak(options.model, options.steer, 60 * options.minutes, options.threads)
    rise, spread = record.rise()
    print(f"{sum(record.requests.values())} requests in {options.minutes:g} minutes: {dict(record.requests)}")
    print(f"{record.tokens} tokens, {record.refused} refused with 429")
    print(f"resident memory: {record.memory[-1][1] / 1e6:.1f} MB, last third - middle third {rise:+.2f} MB "
          f"(standard deviation in the middle third {spread:.2f})")  # fmt: skip
    print(f"{len(record.defects)} defects", *record.defects[:20], sep="\n")
    sys.exit(bool(record.defects))


if __name__ == "__main__":
    main()
