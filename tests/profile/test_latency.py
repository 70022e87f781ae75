"""Times of requests, on a fake engine whose delays are known: 100 ms a prompt, 10 ms a step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from edgesteer.errors import EngineError
from edgesteer.profile.latency import Budget, HookTime, RequestMaker, Stopped, measure, measure_hook
from edgesteer.runtime.request import Steering

if TYPE_CHECKING:
    from edgesteer.runtime.model import LlamaModel

Make = Callable[..., Any]


def test_times_of_one_request(make_batch: Make, requests_of: Make, clock: Any) -> None:
    times = measure(make_batch(), requests_of(5, 4, 1), clock=clock)
    assert times.ttft_ms == pytest.approx([100])
    assert times.tpot_ms == pytest.approx([10])
    assert times.ttlt_ms == pytest.approx([130])
    assert (times.prefill_ms, times.decode_ms) == pytest.approx((100, 30))
    assert times.decode_tokens == 3


def test_times_of_a_batch_are_those_of_each_request(make_batch: Make, requests_of: Make, clock: Any) -> None:
    """Prompts end at 100 and 200 ms, when the first text gets its second token; then every 10 ms each gets one."""
    times = measure(make_batch(), requests_of(5, 3, 2), clock=clock)
    assert times.ttft_ms == pytest.approx([100, 200])
    assert times.ttlt_ms == pytest.approx([210, 220])
    assert times.tpot_ms == pytest.approx([55, 10])
    assert (times.prefill_ms, times.decode_ms) == pytest.approx((200, 20))
    assert times.decode_tokens == 3  # one of the first text, two of the second


def test_one_token_has_no_time_between_tokens(make_batch: Make, requests_of: Make, clock: Any) -> None:
    times = measure(make_batch(), requests_of(5, 1, 2), clock=clock)
    assert times.ttft_ms == times.ttlt_ms == pytest.approx([100, 200])
    assert times.tpot_ms == []
    assert (times.decode_ms, times.decode_tokens) == (0, 0)


def test_waiting_in_the_queue_counts(make_batch: Make, requests_of: Make, clock: Any) -> None:
    batch = make_batch()
    submit = batch.submit

    def slow_submit(request: Any) -> Any:
        clock.advance(1.0)
        return submit(request)

    batch.submit = slow_submit
    assert measure(batch, requests_of(5, 2, 1), clock=clock).ttft_ms == pytest.approx([1100])


def test_a_measurement_begins_with_an_empty_cache(make_batch: Make, requests_of: Make, clock: Any) -> None:
    batch = make_batch()
    for _ in range(3):
        measure(batch, requests_of(5, 2, 1), clock=clock)
    assert batch.cleared == 3


def test_energy_windows_take_no_time_and_cover_a_phase_each(make_batch: Make, requests_of: Make, clock: Any) -> None:
    covered: list[float] = []

    @contextmanager
    def window() -> Iterator[str]:
        clock.advance(0.5)
        start = clock()
        yield f"window {len(covered)}"
        covered.append(clock() - start)
        clock.advance(0.5)

    times = measure(make_batch(), requests_of(5, 4, 1), clock=clock, window=window)
    assert covered == pytest.approx([0.1, 0.03])
    assert (times.prefill_energy, times.decode_energy) == ("window 0", "window 1")
    assert times.ttlt_ms == pytest.approx([130])
    assert times.tpot_ms == pytest.approx([10])


def test_a_text_that_ends_early_is_an_error(make_batch: Make, requests_of: Make, clock: Any) -> None:
    with pytest.raises(EngineError, match="ended early; expected 4 tokens; found 2"):
        measure(make_batch(ends_after=2), requests_of(5, 4, 1), clock=clock)


def test_a_request_that_fails_ends_the_measurement(make_batch: Make, requests_of: Make, clock: Any) -> None:
    batch = make_batch()
    batch.fails = EngineError("the context is full")
    with pytest.raises(EngineError, match="the context is full"):
        measure(batch, requests_of(5, 4, 2), clock=clock)
    assert batch.running == []


def test_the_budget_is_asked_before_every_step(make_batch: Make, requests_of: Make, clock: Any) -> None:
    batch = make_batch()
    budget = Budget(0.115, clock)
    with pytest.raises(Stopped, match="the time is up"):
        measure(batch, requests_of(5, 9, 1), clock=clock, check=budget.check)
    assert batch.steps == 3  # at 0, 100 and 110 ms, but not at 120
    assert batch.running == []


def test_a_budget_without_a_limit_goes_on_until_it_is_stopped(clock: Any) -> None:
    budget = Budget(clock=clock)
    clock.advance(1e9)
    budget.check()
    budget.stop("interrupted")
    budget.stop("something else")
    with pytest.raises(Stopped, match="interrupted"):
        budget.check()


def test_hooks_time_is_that_of_the_decode_steps(make_batch: Make, requests_of: Make, clock: Any) -> None:
    """The prompts' steps are 1st and 2nd; the next two give three tokens in 20 ms, and the hook works 2 ms in each."""
    batch = make_batch()
    found = measure_hook(batch, lambda: 2_000_000 * (batch.steps > 2), requests_of(5, 3, 2), clock=clock)
    assert found == HookTime(pytest.approx(4000 / 3), pytest.approx(0.2))


def test_hook_has_no_time_where_nothing_is_decoded(make_batch: Make, requests_of: Make, clock: Any) -> None:
    assert measure_hook(make_batch(), lambda: 1, requests_of(5, 1, 1), clock=clock) is None


# ---- real requests ----


@pytest.mark.torch
def test_prompts_have_the_length_asked_for_and_differ(tiny_llama: LlamaModel) -> None:
    steering = [Steering("warm", 1.0)]
    maker = RequestMaker(tiny_llama, steering)
    for length in (1, 100, 20_000):  # more than the text has
        requests = maker(length, 3, 4, steered=True)
        assert [len(each.prompt.tokens) for each in requests] == [length] * 4
        assert all(each.max_tokens == 3 and each.steering is steering for each in requests)
        if length > 1:
            assert len({tuple(each.prompt.tokens) for each in requests}) == 4
    assert all(not each.steering for each in maker(10, 3, 2, steered=False))


@pytest.mark.torch
def test_requests_forbid_every_token_that_ends_a_text(tiny_llama: LlamaModel) -> None:
    ends = {token for token in range(tiny_llama.n_tokens) if tiny_llama.ends_generation(token)}
    sampling = RequestMaker(tiny_llama)(10, 30, 1, steered=False)[0].sampling
    assert ends
    assert sampling.logit_bias == dict.fromkeys(ends, -1000.0)
    assert sampling.temp == 0


@pytest.mark.torch
def test_a_real_batch_is_measured(tiny_llama: LlamaModel) -> None:
    from edgesteer.runtime.batch import Batch
    from edgesteer.runtime.engine import Engine

    with Engine(tiny_llama, context_tokens=256, n_sequences=2, threads=1) as engine:
        times = measure(Batch(engine), RequestMaker(tiny_llama)(10, 30, 2, steered=False))
    assert times.decode_tokens == 58
    for first, last, between in zip(times.ttft_ms, times.ttlt_ms, times.tpot_ms, strict=True):
        assert 0 < first < last
        assert between == pytest.approx((last - first) / 29)
