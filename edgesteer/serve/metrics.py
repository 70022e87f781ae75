"""Metrics: what Prometheus is told of one server. Fed by the pieces of every request; knows no route."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from edgesteer.errors import BusyError
from edgesteer.runtime.sequence import Piece
from edgesteer.runtime.worker import Worker

FIRST_TOKEN_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
ALPHA = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 4)


class Metrics:
    """The counters of one server, in a registry of their own."""

    def __init__(self, worker: Worker) -> None:
        self.registry = registry = CollectorRegistry()
        self.requests = Counter(
            "edgesteer_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.prompt_tokens = Counter("edgesteer_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.cached_tokens = Counter(
            "edgesteer_cached_tokens", "Tokens of prompts that were in the cache already.", registry=registry
        )
        self.generated_tokens = Counter("edgesteer_generated_tokens", "Tokens generated.", registry=registry)
        self.first_token = Histogram(
            "edgesteer_time_to_first_token_seconds",
            "From a request to its first token, waiting included.",
            buckets=FIRST_TOKEN_SECONDS,
            registry=registry,
        )
        self.next_token = Histogram(
            "edgesteer_time_per_token_seconds", "From a token to the next.", buckets=TOKEN_SECONDS, registry=registry
        )
        self.alpha_error = Histogram(
            "edgesteer_alpha_error",
            "Distance of the sensor's reading from its setpoint, by token.",
            ["controller"],
            buckets=ALPHA,
            registry=registry,
        )
        registry.register(StatusCollector(worker))

    def text(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class Meter:
    """Feeds the metrics from the pieces of one text, from the time it is made."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last = time.perf_counter()
        self._began = False

    def take(self, piece: Piece) -> None:
        metrics = self._metrics
        for name, reading in piece.readings.items():
            error = abs(reading.setpoint - reading.alpha)
            if math.isfinite(error):
                metrics.alpha_error.labels(name).observe(error)
        if piece.token is not None:
            now = time.perf_counter()
            (metrics.next_token if self._began else metrics.first_token).observe(now - self._last)
            self._last, self._began = now, True
            metrics.generated_tokens.inc()
        if piece.result is not None and self._began:
            metrics.prompt_tokens.inc(piece.result.timings.prompt_n)
            metrics.cached_tokens.inc(piece.result.timings.cache_n)


class StatusCollector(Collector):
    """The worker's state at the moment it is asked for; nothing of it once the worker is closed."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        try:
            status = self._worker.status()
        except BusyError:
            return
        cells = GaugeMetricFamily("edgesteer_kv_cells", "Cells of the KV cache.", labels=["use"])
        requests = GaugeMetricFamily("edgesteer_texts", "Texts that are waiting or worked on.", labels=["stage"])
        cells.add_metric(["running"], status.cells_used)
        cells.add_metric(["reusable"], status.cells_cached)
        cells.add_metric(["total"], status.cells_total)
        requests.add_metric(["waiting"], status.waiting)
        requests.add_metric(["prefilling"], status.prefilling)
        requests.add_metric(["generating"], status.generating)
        yield from (cells, requests)
