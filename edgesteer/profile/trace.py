"""record_trace: where the time of a run goes, as spans that nest; written in the Trace Event Format.

Times inside llama.cpp come from the hook's trace, all others from methods that are wrapped for as long as a trace is
recorded: without one, nothing is slower. Knows one thread, the one that steps the batch.
"""

from __future__ import annotations

import functools
import json
import os
import statistics
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.errors import EngineError
from edgesteer.files import atomic_write
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.graph import ATTENTION_OUTPUTS, BLOCK_OUTPUT, EMBEDDING_NAMES, LOGITS, label_and_block
from edgesteer.runtime.hook import EventRing, Hook
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.sampling import Sampler
from edgesteer.runtime.text import TextBuffer

LABELS = (*EMBEDDING_NAMES, *ATTENTION_OUTPUTS, BLOCK_OUTPUT, LOGITS)
"""The nodes that a trace asks for: the ends of what it tells apart."""

WHOLE_BLOCK = "attention and feed-forward"
"""Of models whose graph does not show where attention ends."""

KINDS = (
    "embedding", "attention", "feed-forward", WHOLE_BLOCK, "output", "hook", "sampling", "detokenization",
)  # fmt: skip
"""What time is told apart by; spans of these kinds do not overlap."""

WRAPPED: tuple[tuple[type, str, str], ...] = (
    (Batch, "step", "step"),
    (Sampler, "sample", "sampling"),
    (LlamaModel, "piece", "detokenization"),
    (TextBuffer, "add", "detokenization"),
)
"""Class, method, and the kind of span that a call of it is."""


@dataclass(frozen=True)
class Span:
    """Something that took time. start, stop: nanoseconds of one clock. details: numbers for a person to read.

    kind: one of KINDS, or what other spans are inside: `run`, `step`, `prefill` or `decode` (a llama_decode with and
    without tokens of a prompt), `part` (the embedding, a block with the hook's work at its end, or the output). In a
    trace of every node, `node`s are inside those of KINDS.
    """

    name: str
    kind: str
    start: int
    stop: int
    details: dict[str, int] = field(default_factory=dict)

    @property
    def ns(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Row:
    """Of a table: how often, how long together, and its share of the run."""

    name: str
    calls: int
    ms: float
    share: float


@dataclass(frozen=True)
class Trace:
    """Spans by start, each before those inside it; the first is the whole run.

    plain_step_ms: the median step of the same run without a trace; None where that was not measured. lost: nodes that
    the trace had no room for.
    """

    spans: list[Span]
    plain_step_ms: float | None = None
    every_node: bool = False
    lost: int = 0

    @property
    def overhead_note(self) -> str:
        """What tracing cost, in a sentence."""
        traced = median_step_ms(self.spans)
        if not self.plain_step_ms or traced is None:
            return "What tracing cost was not measured."
        asked = "every node" if self.every_node else "the ends of attention and blocks"
        change = 100 * (traced / self.plain_step_ms - 1)
        return (
            f"Tracing {asked} changed the median step by {change:+.1f} %: "
            f"{traced:.3g} ms instead of {self.plain_step_ms:.3g} ms."
        )

    def by_kind(self) -> list[Row]:
        """Return rows that add up to the run: those of KINDS that occur, and `other`, the rest."""
        sums = _sums(span for span in self.spans if span.kind in KINDS)
        known = {kind: sums[kind] for kind in KINDS if kind in sums}
        rest = self.spans[0].ns - sum(ns for _, ns in known.values())
        return self._rows({**known, "other": (1, rest)})

    def by_block(self) -> list[Row]:
        """Return rows for the embedding, each block with the hook's work at its end, and the output."""
        return self._rows(_sums((span for span in self.spans if span.kind == "part"), by_name=True))

    def _rows(self, sums: dict[str, tuple[int, int]]) -> list[Row]:
        whole = max(1, self.spans[0].ns)
        return [Row(name, calls, ns / 1e6, ns / whole) for name, (calls, ns) in sums.items()]

    def as_json(self) -> dict[str, Any]:
        """Return the trace in the Trace Event Format, as its JSON object; times in microseconds from the start."""
        start = self.spans[0].start
        return {
            "traceEvents": [*NAMES, *(_complete_event(span, start) for span in self.spans)],
            "displayTimeUnit": "ms",
            "otherData": {"overhead": self.overhead_note, "lost nodes": self.lost},
        }

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the trace for Perfetto or chrome://tracing. Raises EdgeSteerError when it cannot be written."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.as_json()), "utf-8")


def median_step_ms(spans: Iterable[Span]) -> float | None:
    """Return how long the median step took, None if there was none; a few that were disturbed do not count."""
    steps = [span.ns for span in spans if span.kind == "step"]
    return statistics.median(steps) / 1e6 if steps else None


def _sums(spans: Iterable[Span], *, by_name: bool = False) -> dict[str, tuple[int, int]]:
    """Return the number of spans and their nanoseconds, by kind or name, in the order of first appearance."""
    sums: dict[str, tuple[int, int]] = {}
    for span in spans:
        key = span.name if by_name else span.kind
        calls, ns = sums.get(key, (0, 0))
        sums[key] = calls + 1, ns + span.ns
    return sums


# ---- the file ----

PROCESS, THREAD = 1, 1
NAMES = [
    {"ph": "M", "name": name, "pid": PROCESS, "tid": THREAD, "args": {"name": value}}
    for name, value in (("process_name", "edgesteer"), ("thread_name", "steps of the batch"))
]


def _complete_event(span: Span, origin: int) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": span.name,
        "cat": span.kind,
        "ts": (span.start - origin) / 1000,
        "dur": span.ns / 1000,
        "pid": PROCESS,
        "tid": THREAD,
        "args": span.details,
    }


# ---- recording ----


def record_trace(
    batch: Batch, run: Callable[[], object], *, every_node: bool = False, measure_overhead: bool = True
) -> Trace:
    """Record what happens in a batch while a function runs that submits requests to it and steps it.

    every_node: tell all nodes of llama.cpp's graph apart; slow. measure_overhead: run the function without a trace
    first; it must do the same each time. What the batch keeps of earlier prompts is forgotten before each run.
    Raises EngineError when the engine has no hook, and what the function raises.
    """
    hook = batch.engine.hook
    if hook is None:
        raise EngineError("this engine has no hook to trace with", remedy="Make it with reloadable=True.")
    plain = _Recorder(batch.engine, hook)
    if measure_overhead:
        plain.record(batch, run, WRAPPED[:1])
    with hook.trace(None if every_node else LABELS) as ring:
        recorder = _Recorder(batch.engine, hook, ring, every_node=every_node)
        recorder.record(batch, run, WRAPPED)
    spans = sorted(recorder.spans, key=lambda span: (span.start, -span.stop))
    return Trace(spans, median_step_ms(plain.spans), every_node, ring.lost)


class _Recorder:
    """Collects spans of one engine in one thread. ring: None: it sees nothing inside llama.cpp."""

    def __init__(self, engine: Engine, hook: Hook, ring: EventRing | None = None, *, every_node: bool = False) -> None:
        self._engine = engine
        self._now_ns = hook.now_ns
        self._ring = ring
        self._every_node = every_node
        self._thread = threading.get_ident()
        self.spans: list[Span] = []

    def record(self, batch: Batch, run: Callable[[], object], wrapped: Iterable[tuple[type, str, str]]) -> None:
        """Run a function while these methods are wrapped, from a batch that knows no prompt."""
        batch.clear()
        with ExitStack() as stack:
            if self._ring is not None:
                stack.enter_context(_replaced(Engine, "decode", self._decode))
            for owner, name, kind in wrapped:
                stack.enter_context(_replaced(owner, name, functools.partial(self._call, kind)))
            with self.span("run", "run"):
                run()

    @contextmanager
    def span(self, name: str, kind: str, **details: int) -> Iterator[None]:
        start = self._now_ns()
        try:
            yield
        finally:
            self.spans.append(Span(name, kind, start, self._now_ns(), details))

    def _call(self, kind: str, method: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        if threading.get_ident() != self._thread:
            return method(*arguments, **options)
        with self.span(kind, kind):
            return method(*arguments, **options)

    def _decode(
        self, method: Callable[..., Any], engine: Engine, tokens: Any, positions: Any, outputs: Any, *more: Any
    ) -> Any:
        if engine is not self._engine:
            return method(engine, tokens, positions, outputs, *more)
        kind = "decode" if all(outputs) else "prefill"
        try:
            with self.span(kind, kind, tokens=len(tokens)):
                return method(engine, tokens, positions, outputs, *more)
        finally:
            hook = engine.hook
            assert hook is not None
            assert self._ring is not None
            worked = [boundary for boundary in range(hook.n_blocks + 1) if hook.visited(boundary)]
            self.spans += graph_spans(nodes_of(self._ring.take()), worked, every_node=self._every_node)


@contextmanager
def _replaced(owner: type, name: str, wrapper: Callable[..., Any]) -> Iterator[None]:
    """Let calls of a class's method be calls wrapper(method, self, ...) for the time of the body."""
    method = getattr(owner, name)

    @functools.wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        return wrapper(method, *arguments, **options)

    setattr(owner, name, call)
    try:
        yield
    finally:
        setattr(owner, name, method)


# ---- from nodes to spans ----


class Node(NamedTuple):
    """The last node of a stretch; see hook.EVENT."""

    name: str
    asked: int
    computed: int
    done: int


def nodes_of(events: NDArray[np.void]) -> list[Node]:
    """Return the nodes of an array of hook.EVENT."""
    return [Node(e["node"].decode(), int(e["asked"]), int(e["computed"]), int(e["done"])) for e in events]


def graph_spans(nodes: Sequence[Node], worked: Iterable[int] = (), *, every_node: bool = False) -> list[Span]:
    """Return the spans of one graph's nodes, which must be in order. worked: boundaries at which the hook worked."""
    ends = [index for index, node in enumerate(nodes) if _block_ended(node) is not None]
    before_blocks = nodes[: ends[0]] if ends else ()
    start = max((i + 1 for i, node in enumerate(before_blocks) if node.name in EMBEDDING_NAMES), default=0)
    boundaries = set(worked)
    spans = _part("embedding", [("embedding", nodes[:start])], 0 in boundaries, every_node)
    for end in ends:
        block = _block_ended(nodes[end])
        assert block is not None
        stages = _block_stages(nodes[start : end + 1])
        spans += _part(f"block {block}", stages, block + 1 in boundaries, every_node)
        start = end + 1
    return spans + _part("output", [("output", nodes[start:])], False, every_node)


def _block_ended(node: Node) -> int | None:
    """The block whose output a node is, if any."""
    label, block = label_and_block(node.name)
    return block if label == BLOCK_OUTPUT else None


Stage = tuple[str, Sequence[Node]]


def _block_stages(nodes: Sequence[Node]) -> list[Stage]:
    ends = [index for index, node in enumerate(nodes) if label_and_block(node.name)[0] in ATTENTION_OUTPUTS]
    if not ends:
        return [(WHOLE_BLOCK, nodes)]
    return [("attention", nodes[: ends[-1] + 1]), ("feed-forward", nodes[ends[-1] + 1 :])]


def _part(name: str, stages: Sequence[Stage], hook_worked: bool, every_node: bool) -> list[Span]:
    nodes = [node for _, stage in stages for node in stage]
    if not nodes:
        return []
    last = nodes[-1]
    spans = [Span(name, "part", nodes[0].asked, last.done)]
    spans += [Span(kind, kind, stage[0].asked, stage[-1].computed) for kind, stage in stages if stage]
    if hook_worked:
        spans.append(Span("hook", "hook", last.computed, last.done))
    if every_node:
        spans += [Span(node.name, "node", node.asked, node.computed) for node in nodes]
    return spans
