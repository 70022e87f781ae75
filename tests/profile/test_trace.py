"""Traces: spans of hand-made nodes, tables by hand, and real runs of the tiny model."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from edgesteer.errors import EdgeSteerError, EngineError
from edgesteer.profile.trace import KINDS, Node, Row, Span, Trace, graph_spans, median_step_ms, record_trace
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Request, Steering, plain_prompt
from edgesteer.runtime.sampling import Sampler, Sampling


def nodes(*names: str) -> list[Node]:
    """Node i is asked for at 10 i, computed at 10 i + 7, and the hook is done at 10 i + 9."""
    return [Node(name, 10 * i, 10 * i + 7, 10 * i + 9) for i, name in enumerate(names)]


def short(spans: list[Span]) -> list[tuple[str, str, int, int]]:
    return [(span.name, span.kind, span.start, span.stop) for span in spans]


# ---- from nodes to spans ----


def test_a_graph_is_embedding_blocks_and_output() -> None:
    spans = graph_spans(nodes("inp_embd", "ffn_inp-0", "l_out-0", "ffn_inp-1", "l_out-1", "result_output"))
    assert short(spans) == [
        ("embedding", "part", 0, 9),
        ("embedding", "embedding", 0, 7),
        ("block 0", "part", 10, 29),
        ("attention", "attention", 10, 17),
        ("feed-forward", "feed-forward", 20, 27),
        ("block 1", "part", 30, 49),
        ("attention", "attention", 30, 37),
        ("feed-forward", "feed-forward", 40, 47),
        ("output", "part", 50, 59),
        ("output", "output", 50, 57),
    ]


def test_the_hook_s_work_follows_the_block_that_it_steers() -> None:
    spans = graph_spans(nodes("l_out-0", "l_out-1"), worked=[2])
    assert [(s.start, s.stop) for s in spans if s.kind == "hook"] == [(17, 19)]


def test_the_hook_s_work_at_boundary_0_belongs_to_the_embedding() -> None:
    spans = graph_spans(nodes("embd", "inp_scaled", "l_out-0"), worked=[0])
    assert short(spans)[:3] == [
        ("embedding", "part", 0, 19),
        ("embedding", "embedding", 0, 17),
        ("hook", "hook", 17, 19),
    ]


def test_a_block_whose_attention_has_no_end_is_not_divided() -> None:
    spans = graph_spans(nodes("inp_embd", "l_out-0"))
    assert short(spans)[2:] == [("block 0", "part", 10, 19), ("attention and feed-forward",) * 2 + (10, 17)]


def test_attention_ends_at_the_last_node_that_says_so() -> None:
    spans = graph_spans(nodes("sa_out-0", "ffn_inp-0", "l_out-0"))
    assert ("attention", "attention", 0, 17) in short(spans)


def test_every_node_has_a_span_inside_its_stage() -> None:
    spans = graph_spans(nodes("inp_embd", "Qcur-0", "ffn_inp-0", "ffn_out-0", "l_out-0"), every_node=True)
    assert [s.name for s in spans if s.kind == "node"] == ["inp_embd", "Qcur-0", "ffn_inp-0", "ffn_out-0", "l_out-0"]
    assert ("attention", "attention", 10, 27) in short(spans)
    assert ("feed-forward", "feed-forward", 30, 47) in short(spans)
    assert_nested(spans)


def test_an_embedding_s_name_after_the_blocks_began_counts_for_nothing() -> None:
    spans = graph_spans(nodes("inp_embd", "l_out-0", "inpL", "l_out-1"))
    assert [s.name for s in spans if s.kind == "part"] == ["embedding", "block 0", "block 1"]


def test_no_nodes_give_no_spans() -> None:
    assert graph_spans([]) == []


# ---- tables ----


@pytest.fixture
def by_hand() -> Trace:
    """A run of 1 ms: two decodes of two parts, the hook in one of them, a token sampled."""
    us = 1000
    return Trace(
        [
            Span("run", "run", 500, 500 + 1000 * us),
            Span("step", "step", 100 * us, 900 * us),
            Span("decode", "decode", 100 * us, 400 * us, {"tokens": 1}),
            Span("block 0", "part", 110 * us, 260 * us),
            Span("attention", "attention", 110 * us, 210 * us),
            Span("feed-forward", "feed-forward", 210 * us, 250 * us),
            Span("hook", "hook", 250 * us, 260 * us),
            Span("decode", "decode", 400 * us, 700 * us, {"tokens": 1}),
            Span("block 0", "part", 410 * us, 510 * us),
            Span("attention", "attention", 410 * us, 500 * us),
            Span("sampling", "sampling", 750 * us, 800 * us),
        ],
        plain_step_ms=0.64,
    )


def assert_rows(ours: list[Row], *expected: tuple[str, int, float, float]) -> None:
    assert [(row.name, row.calls) for row in ours] == [each[:2] for each in expected]
    for row, (_, _, ms, share) in zip(ours, expected, strict=True):
        assert (row.ms, row.share) == pytest.approx((ms, share))


def test_kinds_by_hand(by_hand: Trace) -> None:
    assert_rows(
        by_hand.by_kind(),
        ("attention", 2, 0.19, 0.19),
        ("feed-forward", 1, 0.04, 0.04),
        ("hook", 1, 0.01, 0.01),
        ("sampling", 1, 0.05, 0.05),
        ("other", 1, 0.71, 0.71),
    )


def test_blocks_by_hand(by_hand: Trace) -> None:
    assert_rows(by_hand.by_block(), ("block 0", 2, 0.25, 0.25))


def test_the_overhead_is_told_by_the_steps_of_two_runs(by_hand: Trace) -> None:
    assert by_hand.overhead_note == (
        "Tracing the ends of attention and blocks changed the median step by +25.0 %: 0.8 ms instead of 0.64 ms."
    )


def test_an_overhead_that_was_not_measured_is_not_told() -> None:
    trace = Trace([Span("run", "run", 0, 5), Span("step", "step", 1, 3)])
    assert trace.overhead_note == "What tracing cost was not measured."


def test_a_few_disturbed_steps_do_not_count() -> None:
    steps = [Span("step", "step", 0, ns) for ns in (3_000_000, 2_000_000, 90_000_000)]
    assert median_step_ms(steps) == 3.0
    assert median_step_ms([Span("run", "run", 0, 9)]) is None


# ---- the file ----


def assert_trace_event_format(file: Any) -> None:
    """What the Trace Event Format asks of a JSON object with complete events and metadata."""
    assert isinstance(file["traceEvents"], list)
    assert file["displayTimeUnit"] in ("ms", "ns")
    for event in file["traceEvents"]:
        assert isinstance(event["name"], str)
        assert all(isinstance(event[key], int) for key in ("pid", "tid"))
        assert isinstance(event["args"], dict)
        assert event["ph"] in ("X", "M")
        if event["ph"] == "M":
            assert event["name"] in ("process_name", "thread_name")
            assert isinstance(event["args"]["name"], str)
        else:
            assert isinstance(event["cat"], str)
            assert all(isinstance(event[key], float) and event[key] >= 0 for key in ("ts", "dur"))


def assert_nested(spans: list[Span]) -> None:
    """Of any two spans, one is inside the other or they do not overlap."""
    open_spans: list[Span] = []
    for span in sorted(spans, key=lambda each: (each.start, -each.stop)):
        assert span.start <= span.stop
        while open_spans and open_spans[-1].stop <= span.start:
            open_spans.pop()
        assert not open_spans or span.stop <= open_spans[-1].stop, (span, open_spans[-1])
        open_spans.append(span)


def test_overlapping_spans_are_not_nested() -> None:
    with pytest.raises(AssertionError):
        assert_nested([Span("a", "", 0, 5), Span("b", "", 3, 8)])


def test_the_file_is_in_the_trace_event_format(by_hand: Trace, tmp_path: Path) -> None:
    by_hand.write(tmp_path / "trace.json")
    file = json.loads((tmp_path / "trace.json").read_text())
    assert_trace_event_format(file)
    assert file["otherData"]["overhead"] == by_hand.overhead_note
    assert [event["args"]["name"] for event in file["traceEvents"] if event["ph"] == "M"] == [
        "edgesteer",
        "steps of the batch",
    ]


def test_times_in_the_file_are_microseconds_from_the_start() -> None:
    trace = Trace([Span("run", "run", 5000, 9000), Span("decode", "decode", 6500, 8000, {"tokens": 3})])
    events = [event for event in trace.as_json()["traceEvents"] if event["ph"] == "X"]
    assert [(event["ts"], event["dur"]) for event in events] == [(0.0, 4.0), (1.5, 1.5)]
    assert events[1]["args"] == {"tokens": 3}


def test_a_file_that_cannot_be_written_is_reported(by_hand: Trace, tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="folder does not exist"):
        by_hand.write(tmp_path / "nowhere" / "trace.json")


# ---- runs of the tiny model ----

N_TOKENS = 6


@pytest.fixture
def batch(tiny_llama: LlamaModel, make_controller: Any) -> Iterator[Batch]:
    controller = make_controller(tiny_llama.n_blocks, tiny_llama.width, blocks=(1, 2))
    with Engine(tiny_llama, [controller], context_tokens=256, threads=1) as engine:
        yield Batch(engine)


def request_for(model: LlamaModel, *steering: Steering) -> Request:
    bias = {token: -1000.0 for token in range(model.n_tokens) if model.ends_generation(token)}
    sampling = Sampling(temp=0, logit_bias=bias)
    return Request(plain_prompt(model, "on the sea"), steering, sampling, max_tokens=N_TOKENS)


def generate(batch: Batch, *steering: Steering) -> list[int | None]:
    return [piece.token for piece in batch.stream(request_for(batch.engine.model, *steering))]


STEER = Steering("concept", 1.0)


@pytest.fixture
def recorded(batch: Batch) -> Trace:
    return record_trace(batch, lambda: generate(batch, STEER))


def count(trace: Trace, kind: str) -> int:
    return sum(span.kind == kind for span in trace.spans)


@pytest.mark.torch
def test_a_run_is_told_in_prefill_decodes_and_samples(recorded: Trace) -> None:
    assert recorded.spans[0].kind == "run"
    counts = [count(recorded, kind) for kind in ("prefill", "decode", "step", "sampling")]
    assert counts == [1, N_TOKENS - 1, N_TOKENS, N_TOKENS]
    assert count(recorded, "detokenization") >= N_TOKENS


@pytest.mark.torch
def test_every_decode_is_told_by_embedding_blocks_and_output(recorded: Trace) -> None:
    rows = {row.name: row.calls for row in recorded.by_block()}
    assert rows == dict.fromkeys(["embedding", "block 0", "block 1", "block 2", "block 3", "output"], N_TOKENS)


@pytest.mark.torch
def test_blocks_are_told_by_attention_and_feed_forward(recorded: Trace) -> None:
    assert [count(recorded, kind) for kind in ("attention", "feed-forward")] == [4 * N_TOKENS] * 2


@pytest.mark.torch
def test_the_hook_is_seen_where_it_worked(recorded: Trace) -> None:
    # blocks 1 and 2 are steered, and the sensor reads block 2; in the prompt, too, where the last token is steered
    assert count(recorded, "hook") == 2 * N_TOKENS


@pytest.mark.torch
def test_an_unsteered_run_has_no_hook_in_it(batch: Batch) -> None:
    assert count(record_trace(batch, lambda: generate(batch)), "hook") == 0


@pytest.mark.torch
@pytest.mark.parametrize("every_node", [False, True], ids=["ends", "every node"])
def test_recorded_spans_nest_and_kinds_do_not_overlap(batch: Batch, every_node: bool) -> None:
    trace = record_trace(batch, lambda: generate(batch, STEER), every_node=every_node)
    assert trace.lost == 0
    assert_nested(trace.spans)
    assert_trace_event_format(json.loads(json.dumps(trace.as_json())))
    leaves = sorted((span.start, span.stop) for span in trace.spans if span.kind in KINDS)
    assert all(this[1] <= following[0] for this, following in pairwise(leaves))


@pytest.mark.torch
def test_the_rows_of_kinds_add_up_to_the_run(recorded: Trace) -> None:
    rows = recorded.by_kind()
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert sum(row.ms for row in rows) == pytest.approx(recorded.spans[0].ns / 1e6)
    assert all(row.ms >= 0 for row in rows)


@pytest.mark.torch
def test_every_node_is_told_on_request(batch: Batch) -> None:
    trace = record_trace(batch, lambda: generate(batch), every_node=True)
    assert count(trace, "node") > 20 * 4 * N_TOKENS
    assert "every node" in trace.overhead_note


@pytest.mark.torch
def test_a_trace_changes_no_token(batch: Batch) -> None:
    tokens: list[list[int | None]] = []
    record_trace(batch, lambda: tokens.append(generate(batch, STEER)), every_node=True)
    plain, traced = tokens
    assert len(plain) == N_TOKENS
    assert traced == plain


@pytest.mark.torch
def test_the_overhead_is_measured_on_request_only(batch: Batch) -> None:
    runs = 0

    def run() -> None:
        nonlocal runs
        runs += 1
        generate(batch)

    assert record_trace(batch, run, measure_overhead=False).plain_step_ms is None
    assert runs == 1
    assert record_trace(batch, run).plain_step_ms is not None
    assert runs == 3


@pytest.mark.torch
def test_a_second_run_computes_the_prompt_again(batch: Batch) -> None:
    generate(batch)
    trace = record_trace(batch, lambda: generate(batch))
    prefill = next(span for span in trace.spans if span.kind == "prefill")
    assert prefill.details["tokens"] == len(request_for(batch.engine.model).prompt.tokens)


@pytest.mark.torch
def test_after_a_trace_no_method_is_wrapped(batch: Batch) -> None:
    before = [Batch.step, Engine.decode, Sampler.sample]
    record_trace(batch, lambda: generate(batch))
    assert [Batch.step, Engine.decode, Sampler.sample] == before


@pytest.mark.torch
def test_a_run_that_fails_leaves_no_method_wrapped(batch: Batch) -> None:
    before = [Batch.step, Engine.decode]

    def fail() -> None:
        raise EngineError("planted")

    with pytest.raises(EngineError, match="planted"):
        record_trace(batch, fail)
    assert [Batch.step, Engine.decode] == before


@pytest.mark.torch
def test_other_engines_and_threads_are_not_in_the_trace(batch: Batch, tiny_llama: LlamaModel) -> None:
    with Engine(tiny_llama, context_tokens=256, threads=1) as engine:
        other = Batch(engine)

        def run() -> None:
            thread = threading.Thread(target=generate, args=[other])
            thread.start()
            thread.join()

        trace = record_trace(batch, run)
    assert [span.kind for span in trace.spans] == ["run"]


@pytest.mark.torch
def test_an_engine_without_a_hook_is_refused(tiny_llama: LlamaModel) -> None:
    with closing(Engine(tiny_llama, threads=1)) as engine, pytest.raises(EngineError, match="no hook to trace with"):
        record_trace(Batch(engine), lambda: None)
