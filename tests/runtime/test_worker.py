"""The worker: a batch that other threads use. What is said is the batch's; here are order, refusal and ending."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator

import pytest

from edgesteer.chat import conversation
from edgesteer.controller import Controller
from edgesteer.errors import BusyError, EdgeSteerError, EngineError, SteeringError
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Request, Steering, chat_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.sequence import Generation, Piece
from edgesteer.runtime.worker import Worker

SECONDS = 60
"""A test that takes this long has failed."""


class Listener:
    """Collects what is delivered of one request."""

    def __init__(self) -> None:
        self._events: queue.SimpleQueue[Piece | EdgeSteerError] = queue.SimpleQueue()

    def __call__(self, event: Piece | EdgeSteerError) -> None:
        self._events.put(event)

    def __iter__(self) -> Iterator[Piece]:
        """The pieces, to the last one. Raises the error that was delivered instead."""
        while True:
            event = self._events.get(timeout=SECONDS)
            if isinstance(event, EdgeSteerError):
                raise event
            yield event
            if event.result:
                return

    def result(self) -> Generation:
        last = list(self)[-1].result
        assert last is not None
        assert self._events.empty()
        return last


@pytest.fixture
def tone(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32, name="tone")


@pytest.fixture
def make_worker(tiny_llama: LlamaModel, tone: Controller) -> Iterator[Callable[..., Worker]]:
    made: list[Worker] = []

    def make(n_sequences: int = 4, **options: int) -> Worker:
        engine = Engine(
            tiny_llama, [tone], context_tokens=2048, n_sequences=n_sequences, threads=1, reloadable=True
        )
        made.append(Worker(engine, **options))
        return made[-1]

    yield make
    for worker in made:
        worker.close()


@pytest.fixture
def worker(make_worker: Callable[..., Worker]) -> Worker:
    return make_worker()


Asking = Callable[..., Request]


@pytest.fixture
def ask(tiny_llama: LlamaModel) -> Asking:
    never_ends = {token: -1000.0 for token in range(tiny_llama.n_tokens) if tiny_llama.ends_generation(token)}

    def ask(text: str, *steering: Steering, length: int = 12) -> Request:
        sampling = Sampling(temp=0.0, logit_bias=never_ends)
        return Request(chat_prompt(tiny_llama, conversation(text)), steering, sampling, length)

    return ask


def test_requests_of_many_threads_get_their_own_texts(
    worker: Worker, ask: Asking, tiny_llama: LlamaModel, tone: Controller
) -> None:
    strengths = [0.0, 0.5, 1.0, -1.0, 2.0, -0.5, 1.5, 0.25]
    listeners = [Listener() for _ in strengths]

    def submit(strength: float, listener: Listener) -> None:
        worker.submit(ask("in", Steering("tone", strength)), listener)

    threads = [threading.Thread(target=submit, args=pair) for pair in zip(strengths, listeners, strict=True)]
    for thread in threads:
        thread.start()
    found = [listener.result().tokens for listener in listeners]
    with Engine(tiny_llama, [tone], threads=1) as engine:
        batch = Batch(engine)
        for strength, tokens in zip(strengths, found, strict=True):
            *_, last = batch.stream(ask("in", Steering("tone", strength)))
            assert last.result is not None
            assert tokens == last.result.tokens


def test_pieces_come_one_by_one(worker: Worker, ask: Asking) -> None:
    listener = Listener()
    worker.submit(ask("in"), listener)
    pieces = list(listener)
    assert len([piece for piece in pieces if piece.token is not None]) == 12


def test_cancelled_request_gets_its_last_piece(worker: Worker, ask: Asking) -> None:
    listener = Listener()
    ticket = worker.submit(ask("in", length=1500), listener)
    next(iter(listener))
    worker.cancel(ticket)
    assert listener.result().stop_reason == "cancelled"
    assert worker.status().cells_used == 0


def test_cancelling_what_has_ended_does_nothing(worker: Worker, ask: Asking) -> None:
    listener = Listener()
    ticket = worker.submit(ask("in"), listener)
    assert listener.result().stop_reason == "length"
    worker.cancel(ticket)
    assert worker.status().waiting == 0
    assert listener._events.empty()


def test_full_queue_is_refused(make_worker: Callable[..., Worker], ask: Asking) -> None:
    worker = make_worker(n_sequences=1, max_waiting=2)
    tickets = [worker.submit(ask("in", length=1500), Listener()) for _ in range(3)]
    with pytest.raises(BusyError, match="too many requests are waiting; expected at most 2"):
        worker.submit(ask("in"), Listener())
    for ticket in tickets:
        worker.cancel(ticket)
    listener = Listener()
    worker.submit(ask("in"), listener)
    assert listener.result().stop_reason == "length"


def test_wrong_request_is_refused_where_it_was_made(worker: Worker, ask: Asking) -> None:
    with pytest.raises(SteeringError, match="no such controller; expected tone; found volume"):
        worker.submit(ask("in", Steering("volume", 1.0)), Listener())


def test_controllers_come_and_go_while_texts_run(
    worker: Worker, ask: Asking, make_controller: Callable[..., Controller]
) -> None:
    running, other = Listener(), Listener()
    worker.submit(ask("in", Steering("tone", 1.0), length=200), running)
    worker.load(make_controller(4, 32, name="pace", seed=1))
    worker.unload("tone")
    assert [each.name for each in worker.controllers] == ["pace"]
    worker.submit(ask("in", Steering("pace", 1.0)), other)
    assert (len(running.result().tokens), len(other.result().tokens)) == (200, 12)
    with pytest.raises(SteeringError, match="a controller of this name"):
        worker.load(make_controller(4, 32, name="pace"))


def test_closing_lets_running_texts_end_in_the_time_given(worker: Worker, ask: Asking) -> None:
    listener = Listener()
    worker.submit(ask("in", length=50), listener)
    worker.close(drain_seconds=SECONDS)
    assert listener.result().stop_reason == "length"


def test_closing_ends_what_is_left(make_worker: Callable[..., Worker], ask: Asking) -> None:
    worker = make_worker(n_sequences=1)
    listeners = [Listener() for _ in range(3)]
    for listener in listeners:
        worker.submit(ask("in", length=1500), listener)
    worker.close()
    assert [listener.result().stop_reason for listener in listeners] == ["cancelled"] * 3


def test_closed_worker_takes_on_nothing(worker: Worker, ask: Asking) -> None:
    worker.close()
    with pytest.raises(BusyError, match="shut down"):
        worker.submit(ask("in"), Listener())
    worker.close()


def test_defect_ends_the_texts_and_not_the_worker(
    worker: Worker, ask: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    listener, later = Listener(), Listener()
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "decode", lambda *_: 1 / 0)
        worker.submit(ask("in"), listener)
        with pytest.raises(EngineError, match="the engine failed; found ZeroDivisionError"):
            listener.result()
    worker.submit(ask("in"), later)
    assert later.result().stop_reason == "length"
