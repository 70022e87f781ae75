"""Answer: the bridge from the worker's thread into an event loop, without HTTP."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from edgesteer.errors import BusyError, EngineError
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.request import Request, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.worker import Worker
from edgesteer.serve.answer import Answer
from edgesteer.serve.metrics import Metrics

pytestmark = pytest.mark.torch


@pytest.fixture
def worker(tiny_llama: Any) -> Iterator[Worker]:
    with Worker(Engine(tiny_llama, context_tokens=4096, n_sequences=2, threads=1), max_waiting=0) as worker:
        yield worker


@pytest.fixture
def request_for(tiny_llama: Any) -> Any:
    def make(text: str = "the", tokens: int = 4) -> Request:
        sampling = Sampling(temp=0, logit_bias={0: -100.0, 2: -100.0})
        return Request(plain_prompt(tiny_llama, text), sampling=sampling, max_tokens=tokens)

    return make


def answer_to(worker: Worker, *requests: Request) -> Answer:
    return Answer(worker, Metrics(worker), requests)


def idle(worker: Worker) -> bool:
    status = worker.status()
    return not status.waiting + status.prefilling + status.generating


def test_pieces_come_under_the_numbers_of_their_requests(worker: Worker, request_for: Any) -> None:
    async def texts() -> dict[int, str]:
        answer = answer_to(worker, request_for("the end"), request_for("on"))
        await answer.start()
        found = {0: "", 1: ""}
        async for index, piece in answer:
            found[index] += piece.text
        return found

    async def alone(text: str) -> str:
        answer = answer_to(worker, request_for(text))
        await answer.start()
        return "".join([piece.text async for _, piece in answer])

    together = asyncio.run(texts())
    assert together == {0: asyncio.run(alone("the end")), 1: asyncio.run(alone("on"))}
    assert together[0] != together[1]


def test_when_one_request_is_refused_none_runs(worker: Worker, request_for: Any) -> None:
    async def start() -> None:
        await answer_to(worker, *[request_for(tokens=3000)] * 3).start()

    with pytest.raises(BusyError):
        asyncio.run(start())
    assert idle(worker)


def test_a_request_that_cannot_be_carried_out_is_refused_at_the_start(worker: Worker, request_for: Any) -> None:
    async def start() -> None:
        await answer_to(worker, request_for("x" * 5000)).start()

    with pytest.raises(EngineError, match="longer than the context"):
        asyncio.run(start())


def test_cancelling_while_requests_are_submitted_leaves_none_behind(
    worker: Worker, request_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, go_on = threading.Event(), threading.Event()
    submit, submitted = worker.submit, []

    def slow(*arguments: Any) -> Any:
        entered.set()
        go_on.wait(60)
        submitted.append(submit(*arguments))
        return submitted[-1]

    async def start_and_cancel() -> None:
        task = asyncio.ensure_future(answer_to(worker, request_for(tokens=3000), request_for(tokens=3000)).start())
        while not entered.is_set():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.01)
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task

    monkeypatch.setattr(worker, "submit", slow)
    asyncio.run(start_and_cancel())
    for _ in range(1000):  # the thread that submits them notices last
        if submitted and idle(worker):
            break
        time.sleep(0.01)
    assert len(submitted) == 1
    assert idle(worker)
    assert submitted[0].sequence.result.stop_reason == "cancelled"


def test_a_loop_that_has_been_closed_does_not_disturb_the_worker(worker: Worker, request_for: Any) -> None:
    async def start_only() -> None:
        await answer_to(worker, request_for(tokens=500)).start()

    async def another() -> str:
        answer = answer_to(worker, request_for())
        await answer.start()
        return "".join([piece.text async for _, piece in answer])

    asyncio.run(start_only())
    assert len(asyncio.run(another())) > 0
