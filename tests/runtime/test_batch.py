"""Continuous batching: what a sequence says does not depend on its neighbours, and cells are reused and returned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgesteer.chat import conversation
from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError, EngineError, SteeringError
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Request, Steering, chat_prompt, plain_prompt
from edgesteer.runtime.sampling import Sampling
from edgesteer.runtime.sequence import Generation, Piece
from edgesteer.runtime.sequence import Sequence as Text
from edgesteer.sidecar import read_sidecar

GREEDY = Sampling(temp=0.0)
F16 = 0.02
"""What the 16-bit KV cache makes of another order of summation, in alpha; alphas differ by about 1."""
QUESTIONS = ("Where are the boats?", "in", "the the the", "Who is there? " * 3, "on a hill", "a", "no", "then what")


@pytest.fixture
def controllers(make_controller: Callable[..., Controller]) -> list[Controller]:
    return [make_controller(4, 32, name="tone"), make_controller(4, 32, name="pace", seed=1)]


@pytest.fixture
def make_engine(tiny_llama: LlamaModel, controllers: list[Controller]) -> Iterator[Callable[..., Engine]]:
    made: list[Engine] = []

    def make(steered: Sequence[Controller] = controllers, **options: int) -> Engine:
        made.append(Engine(tiny_llama, steered, **{"context_tokens": 1024, "threads": 1, **options}))
        return made[-1]

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def batch(make_engine: Callable[..., Engine]) -> Batch:
    return Batch(make_engine(n_sequences=8))


def ask(model: LlamaModel, text: str, *steering: Steering, length: int | None = 12, **options: object) -> Request:
    prompt = chat_prompt(model, conversation(text))
    return Request(prompt, steering, **{"sampling": GREEDY, "max_tokens": length, **options})  # type: ignore[arg-type]


def finish(batch: Batch) -> dict[Text, Piece | EdgeSteerError]:
    """Step until nothing is left to do; return the last event of each sequence."""
    last = {}
    while batch.busy:
        last.update(batch.step())
    return last


def texts(batch: Batch, requests: Sequence[Request]) -> list[list[int]]:
    """The tokens of some requests, run together."""
    sequences = [batch.submit(request) for request in requests]
    finish(batch)
    return [sequence.result.tokens for sequence in sequences]


def mixed_requests(model: LlamaModel) -> list[Request]:
    """Eight requests, each steered in another way."""
    ways: list[tuple[Steering, ...]] = [
        (), (Steering("tone", 1.0),), (Steering("tone", -0.7), Steering("pace", 0.4)), (Steering("pace", 2.0),),
        (Steering("tone", 0.5, loop="open"),), (Steering("pace", -1.0, rows="all"),), (Steering("tone", 0.0),),
        (Steering("tone", 1.0, loop="decay"), Steering("pace", 1.0, mode="floor")),
    ]  # fmt: skip
    return [ask(model, question, *way) for question, way in zip(QUESTIONS, ways, strict=True)]


# ---- neighbours ----


def test_each_request_of_a_batch_says_what_it_says_alone(
    tiny_llama: LlamaModel, batch: Batch, make_engine: Callable[..., Engine]
) -> None:
    requests = mixed_requests(tiny_llama)
    alone = [texts(Batch(make_engine()), [request])[0] for request in requests]
    assert texts(batch, requests) == alone
    assert len({tuple(tokens) for tokens in alone}) == len(alone)  # or steering and questions made no difference


def test_latecomers_do_not_change_what_others_say(tiny_llama: LlamaModel, batch: Batch) -> None:
    requests = mixed_requests(tiny_llama)
    expected = texts(batch, requests)
    batch.clear()
    sequences = []
    for request in requests:
        sequences.append(batch.submit(request))
        batch.step()
        batch.step()
    finish(batch)
    assert [sequence.result.tokens for sequence in sequences] == expected


def test_telemetry_is_of_the_own_row(
    tiny_llama: LlamaModel, batch: Batch, make_engine: Callable[..., Engine]
) -> None:
    requests = mixed_requests(tiny_llama)
    sequences = [batch.submit(request) for request in requests]
    finish(batch)
    for request, sequence in zip(requests, sequences, strict=True):
        single = Batch(make_engine())
        alone = single.submit(request)
        finish(single)
        for mine, expected in zip(sequence.result.steering, alone.result.steering, strict=True):
            assert mine.controller == expected.controller
            np.testing.assert_allclose(mine.alpha, expected.alpha, atol=F16)
            np.testing.assert_allclose(mine.effort, expected.effort, atol=F16)
            np.testing.assert_allclose(mine.push, expected.push, atol=F16)


def test_random_texts_depend_on_their_own_seed_only(tiny_llama: LlamaModel, batch: Batch) -> None:
    requests = [ask(tiny_llama, "in", sampling=Sampling(seed=seed)) for seed in (1, 2, 1)]
    first, other, again = texts(batch, requests)
    assert first == again != other


def test_a_row_that_fails_ends_only_its_own_text(
    tiny_llama: LlamaModel, controllers: list[Controller], make_engine: Callable[..., Engine]
) -> None:
    explosive = replace(controllers[0], name="explosive", gain=np.full((4, 32), 3e38, dtype=np.float32))
    batch = Batch(make_engine([*controllers, explosive], n_sequences=3))
    good = ask(tiny_llama, "in", Steering("tone", 1.0))
    expected = texts(batch, [good])[0]
    batch.clear()
    healthy, broken, other = (batch.submit(r) for r in (good, ask(tiny_llama, "a", Steering("explosive", 1.0)), good))
    last = finish(batch)
    assert isinstance(last[broken], EngineError)
    assert broken.done
    assert healthy.result.tokens == other.result.tokens == expected
    assert batch.status().cells_used == 0


OPEN_QUESTIONS = (
    "What should I do this weekend?", "Tell me a story.", "How do I make bread?", "Why is the sky blue?",
    "Write a short letter to a friend.", "What is a good hobby?", "Describe your day.", "Where should I travel?",
)  # fmt: skip
TIE = 0.4
"""Nats between two tokens of which a quantized model may choose either when its sums are in another order."""


@pytest.mark.llama
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("strength", [0.0, 1.0])
def test_a_real_model_differs_in_a_batch_only_where_two_tokens_are_as_good_as_tied(
    smollm2_llama: LlamaModel, smollm2_sidecar: Path, strength: float
) -> None:
    """llama.cpp sums in another order for 8 rows than for 1; steering (strength 1) adds nothing to that."""
    (controller,) = read_sidecar(smollm2_sidecar).controllers.values()
    requests = [
        ask(smollm2_llama, question, Steering(controller.name, strength), length=24, logprobs=2)
        for question in OPEN_QUESTIONS
    ]
    with Engine(smollm2_llama, [controller], context_tokens=2048, n_sequences=8) as engine:
        batch = Batch(engine)
        together = [batch.submit(request) for request in requests]
        finish(batch)
        alone = []
        for request in requests:
            batch.clear()
            alone.append(batch.submit(request))
            finish(batch)
    gaps = [gap_where_they_part(a.result, b.result) for a, b in zip(alone, together, strict=True)]
    assert max(gaps) < TIE
    assert gaps.count(0.0) >= 2  # some do not part at all


def gap_where_they_part(one: Generation, other: Generation) -> float:
    """Nats between the two likeliest tokens of one text where the other goes on differently; 0 if it does not."""
    parting = [at for at, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=False)) if a != b]
    if not parting:
        return 0.0
    first, second = one.logprobs[parting[0]].top
    return first.logprob - second.logprob


# ---- the queue and the cells ----


def test_more_requests_than_slots_wait_their_turn(tiny_llama: LlamaModel, make_engine: Callable[..., Engine]) -> None:
    batch = Batch(make_engine(n_sequences=2))
    sequences = [batch.submit(ask(tiny_llama, "in")) for _ in range(8)]
    batch.step()
    assert batch.status().waiting == 6
    ended = []
    while batch.busy:
        ended += [sequence for sequence, _ in batch.step() if sequence.done]
    assert [set(ended[at : at + 2]) for at in range(0, 8, 2)] == [set(sequences[at : at + 2]) for at in range(0, 8, 2)]


def test_requests_wait_for_free_cells(tiny_llama: LlamaModel, make_engine: Callable[..., Engine]) -> None:
    batch = Batch(make_engine(n_sequences=4, context_tokens=256))
    needs = len(ask(tiny_llama, "in").prompt.tokens)
    sequences = [batch.submit(ask(tiny_llama, "in", length=200 - needs)) for _ in range(2)]
    batch.step()
    assert (batch.status().waiting, batch.status().prefilling + batch.status().generating) == (1, 1)
    finish(batch)
    assert [len(sequence.result.tokens) for sequence in sequences] == [200 - needs] * 2


def test_a_full_cache_of_old_texts_makes_room(tiny_llama: LlamaModel, make_engine: Callable[..., Engine]) -> None:
    batch = Batch(make_engine(n_sequences=4, context_tokens=256))
    for question in QUESTIONS:
        texts(batch, [ask(tiny_llama, question, length=100)])
        status = batch.status()
        assert status.cells_used == 0
        assert 0 < status.cells_cached <= 256


def test_a_short_prompt_is_not_held_up_by_a_long_one(
    tiny_llama: LlamaModel, make_engine: Callable[..., Engine]
) -> None:
    batch = Batch(make_engine(n_sequences=2, context_tokens=1024, batch_tokens=32))
    long = batch.submit(ask(tiny_llama, "the boats " * 60, length=2))
    short = batch.submit(ask(tiny_llama, "in", length=2))
    ended = []
    while batch.busy:
        ended += [sequence for sequence, _ in batch.step() if sequence.done]
    assert ended == [short, long]


def test_texts_go_on_while_a_prompt_is_read(tiny_llama: LlamaModel, make_engine: Callable[..., Engine]) -> None:
    batch = Batch(make_engine(n_sequences=2, batch_tokens=64), prefill_tokens=16)
    talking = batch.submit(ask(tiny_llama, "in", length=30))
    batch.step()
    reading = batch.submit(ask(tiny_llama, "the boats " * 20, length=2))
    while reading.prefilling:
        before, known = talking.decoded, reading.decoded
        batch.step()
        assert talking.decoded == before + 1
        assert 0 < reading.decoded - max(known, reading.reused) <= 16


def test_a_text_without_a_limit_takes_its_share_of_the_context(
    tiny_llama: LlamaModel, make_engine: Callable[..., Engine]
) -> None:
    batch = Batch(make_engine(n_sequences=4, context_tokens=1024))
    never_ends = {token: -1000.0 for token in range(tiny_llama.n_tokens) if tiny_llama.ends_generation(token)}
    request = ask(tiny_llama, "in", length=None, sampling=Sampling(temp=0.0, logit_bias=never_ends))
    sequence = batch.submit(request)
    finish(batch)
    assert sequence.result.stop_reason == "context"
    assert len(request.prompt.tokens) + len(sequence.result.tokens) == 1024 // 4 + 1


# ---- ending early ----


@pytest.mark.parametrize("steps", [0, 1, 4])
def test_cancelling_frees_the_cells_at_any_token(tiny_llama: LlamaModel, batch: Batch, steps: int) -> None:
    sequence, other = (batch.submit(ask(tiny_llama, question)) for question in QUESTIONS[:2])
    for _ in range(steps):
        batch.step()
    piece = batch.cancel(sequence)
    assert piece is not None
    assert piece.result is not None
    assert (piece.result.stop_reason, len(piece.result.tokens)) == ("cancelled", steps)
    assert batch.status().cells_used == other.decoded
    assert batch.cancel(sequence) is None
    finish(batch)
    assert len(other.result.tokens) == 12


def test_closing_a_stream_cancels_it(tiny_llama: LlamaModel, batch: Batch) -> None:
    stream = batch.stream(ask(tiny_llama, "in"))
    next(stream)
    assert batch.busy
    stream.close()
    assert not batch.busy


def test_only_the_last_piece_has_the_result(tiny_llama: LlamaModel, batch: Batch) -> None:
    pieces = list(batch.stream(ask(tiny_llama, "in", Steering("tone", 1.0))))
    assert [piece.result is None for piece in pieces] == [True] * (len(pieces) - 1) + [False]
    assert isinstance(pieces[-1].result, Generation)
    assert "".join(piece.text for piece in pieces) == pieces[-1].result.text
    assert [piece.token for piece in pieces if piece.token is not None] == pieces[-1].result.tokens


def test_readings_are_of_the_token_before(tiny_llama: LlamaModel, batch: Batch) -> None:
    pieces = list(batch.stream(ask(tiny_llama, "in", Steering("tone", 1.0))))
    report = pieces[-1].result.steering[0] if pieces[-1].result else None
    assert report is not None
    assert pieces[0].readings == {}
    assert [piece.readings["tone"].alpha for piece in pieces[1:]] == report.alpha
    assert [piece.readings["tone"].effort for piece in pieces[1:]] == report.effort
    np.testing.assert_allclose(np.mean([p.readings["tone"].push for p in pieces[1:]], axis=0), report.push)


def test_reading_has_the_sensors_setpoint(
    tiny_llama: LlamaModel, controllers: list[Controller], make_engine: Callable[..., Engine]
) -> None:
    sensor = controllers[0].sensor
    assert sensor is not None
    ramp = replace(sensor, target=2.0, position_mean=np.array([3.0, 1.0], dtype=np.float32))
    batch = Batch(make_engine([replace(controllers[0], sensor=ramp)]))
    pieces = list(batch.stream(ask(tiny_llama, "in", Steering("tone", 0.5), length=4)))
    assert [piece.readings["tone"].setpoint for piece in pieces[1:]] == [4.0, 2.0, 2.0]


# ---- the cache of prefixes ----


def two_turns(model: LlamaModel, answer: str) -> Prompt:
    turns = [
        {"role": "user", "content": QUESTIONS[0]},
        {"role": "assistant", "content": answer},
        {"role": "user", "content": "And then?"},
    ]
    return chat_prompt(model, turns)


@pytest.mark.parametrize(
    "steering",
    [
        (),
        (Steering("tone", 1.0),),
        (Steering("tone", 1.0, loop="open"),),
        (Steering("tone", 1.0, rows="generated"),),
        (Steering("tone", 1.0, rows="generated", loop="open"),),
        (Steering("tone", 1.0, rows="all"), Steering("pace", -0.5)),
        (Steering("tone", 1.0, rows="none"),),
    ],
)
def test_a_cached_turn_and_a_recomputed_one_continue_alike(
    tiny_llama: LlamaModel, batch: Batch, make_engine: Callable[..., Engine], steering: tuple[Steering, ...]
) -> None:
    first = batch.submit(ask(tiny_llama, QUESTIONS[0], *steering))
    finish(batch)
    request = Request(two_turns(tiny_llama, first.result.text), steering, GREEDY, 12)
    cached, fresh = batch.submit(request), Batch(make_engine())
    recomputed = fresh.submit(request)
    finish(batch)
    finish(fresh)
    assert cached.result.timings.cache_n > 0
    assert recomputed.result.timings.cache_n == 0
    assert cached.result.tokens == recomputed.result.tokens
    for mine, expected in zip(cached.result.steering, recomputed.result.steering, strict=True):
        np.testing.assert_allclose(mine.alpha, expected.alpha, atol=F16)


def test_an_unsteered_conversation_is_not_read_again(tiny_llama: LlamaModel, batch: Batch) -> None:
    prompt = plain_prompt(tiny_llama, "the boats")
    first = batch.submit(Request(prompt, (), GREEDY, 8))
    finish(batch)
    longer = [*prompt.tokens, *first.result.tokens, 40]
    mask = np.ones(len(longer), dtype=bool)
    second = batch.submit(Request(Prompt(longer, mask, ~mask), (), GREEDY, 2))
    finish(batch)
    assert second.result.timings.cache_n == len(prompt.tokens) + 7  # the last token was never decoded


def test_steered_rows_are_not_taken_for_unsteered_ones(tiny_llama: LlamaModel, batch: Batch) -> None:
    request = ask(tiny_llama, "Where are the boats?", Steering("tone", 1.0, rows="all"))
    texts(batch, [request])
    plain = batch.submit(replace(request, steering=()))
    finish(batch)
    assert plain.result.timings.cache_n == 0


def test_a_strength_that_changes_reads_steered_rows_again(tiny_llama: LlamaModel, batch: Batch) -> None:
    request = ask(tiny_llama, "Where are the boats?", Steering("tone", 1.0, rows="all", loop="open"))
    texts(batch, [request])
    same, other = batch.submit(request), replace(request, steering=[Steering("tone", 0.5, rows="all", loop="open")])
    finish(batch)
    changed = batch.submit(other)
    finish(batch)
    assert same.result.timings.cache_n == len(request.prompt.tokens) - 1
    assert changed.result.timings.cache_n == 0


def test_a_loop_that_needs_the_prompts_reading_reads_it(tiny_llama: LlamaModel, batch: Batch) -> None:
    """Nobody measured the words while they were read unsteered; what comes before them is used again."""
    request = ask(tiny_llama, "Where are the boats?")
    texts(batch, [request])
    steered = batch.submit(replace(request, steering=[Steering("tone", 1.0)]))
    finish(batch)
    assert steered.result.timings.cache_n == int(np.flatnonzero(request.prompt.content)[0])


def test_a_common_beginning_is_shared_by_new_texts(tiny_llama: LlamaModel, batch: Batch) -> None:
    texts(batch, [ask(tiny_llama, "Where are the boats?")])
    sequences = [batch.submit(ask(tiny_llama, f"Where are the {what}?")) for what in ("hills", "cats", "seas")]
    finish(batch)
    assert all(sequence.result.timings.cache_n > 5 for sequence in sequences)
    batch.clear()
    again = [batch.submit(sequence.request) for sequence in sequences]
    finish(batch)
    assert [s.result.tokens for s in again] == [s.result.tokens for s in sequences]


# ---- controllers that come and go ----


@pytest.fixture
def reloadable(tiny_llama: LlamaModel, controllers: list[Controller]) -> Iterator[Batch]:
    with Engine(tiny_llama, controllers[:1], context_tokens=1024, n_sequences=4, threads=1, reloadable=True) as engine:
        yield Batch(engine)


def test_loading_a_controller_leaves_running_texts_alone(
    tiny_llama: LlamaModel, reloadable: Batch, controllers: list[Controller]
) -> None:
    request = ask(tiny_llama, "in", Steering("tone", 1.0))
    expected = texts(reloadable, [request])[0]
    reloadable.clear()
    running = reloadable.submit(request)
    for _ in range(3):
        reloadable.step()
    reloadable.load(controllers[1])
    new = reloadable.submit(ask(tiny_llama, "in", Steering("pace", 2.0)))
    finish(reloadable)
    assert running.result.tokens == expected != new.result.tokens


def test_unloading_a_controller_leaves_it_to_running_texts(tiny_llama: LlamaModel, reloadable: Batch) -> None:
    request = ask(tiny_llama, "in", Steering("tone", 1.0))
    expected = texts(reloadable, [request])[0]
    reloadable.clear()
    running = reloadable.submit(request)
    waiting = [reloadable.submit(request) for _ in range(4)]
    reloadable.step()
    reloadable.unload("tone")
    assert reloadable.controllers == ()
    with pytest.raises(SteeringError, match="no such controller"):
        reloadable.submit(request)
    finish(reloadable)
    assert [sequence.result.tokens for sequence in (running, *waiting)] == [expected] * 5
    assert reloadable.engine.controllers == ()


def test_a_name_is_free_again_after_unloading(
    tiny_llama: LlamaModel, reloadable: Batch, controllers: list[Controller]
) -> None:
    old = reloadable.submit(ask(tiny_llama, "in", Steering("tone", 1.0)))
    reloadable.step()
    reloadable.unload("tone")
    reloadable.load(replace(controllers[1], name="tone"))
    new = reloadable.submit(ask(tiny_llama, "in", Steering("tone", 1.0)))
    finish(reloadable)
    assert old.result.tokens != new.result.tokens


def test_two_controllers_of_one_name_are_refused(reloadable: Batch, controllers: list[Controller]) -> None:
    with pytest.raises(SteeringError, match="a controller of this name is loaded"):
        reloadable.load(replace(controllers[1], name="tone"))


def test_unknown_name_cannot_be_unloaded(reloadable: Batch) -> None:
    with pytest.raises(SteeringError, match="no such controller; expected tone; found pace"):
        reloadable.unload("pace")


def test_controllers_of_an_engine_without_a_hook_cannot_change(
    make_engine: Callable[..., Engine], controllers: list[Controller]
) -> None:
    with pytest.raises(EngineError, match="has no hook"):
        Batch(make_engine([])).load(controllers[0])


# ---- bad input ----


def test_a_request_that_is_refused_changes_nothing(tiny_llama: LlamaModel, batch: Batch) -> None:
    long = Prompt([40] * 1024, np.ones(1024, dtype=bool), np.zeros(1024, dtype=bool))
    for wrong in (Request(long), ask(tiny_llama, "in", Steering("volume", 1.0))):
        with pytest.raises(EdgeSteerError):
            batch.submit(wrong)
    with pytest.raises(SteeringError, match="asked for twice"):
        batch.submit(ask(tiny_llama, "in", Steering("tone", 1.0), Steering("tone", 0.5)))
    assert not batch.busy
