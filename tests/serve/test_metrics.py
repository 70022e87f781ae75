"""Meter and Metrics: what a text's pieces add to the counters, by hand-made pieces."""

from __future__ import annotations

import math
from typing import Any

import pytest

from edgesteer.errors import BusyError
from edgesteer.runtime.batch import BatchStatus
from edgesteer.runtime.sequence import Generation, Piece, Timings
from edgesteer.runtime.telemetry import Reading
from edgesteer.serve.metrics import Meter, Metrics


class WorkerStatus:
    """What metrics ask of a worker; closed without a status."""

    def __init__(self, status: BatchStatus | None) -> None:
        self._status = status

    def status(self) -> BatchStatus:
        if self._status is None:
            raise BusyError("the engine has been shut down")
        return self._status


def make_metrics(status: BatchStatus | None = None) -> Metrics:
    worker: Any = WorkerStatus(status)
    return Metrics(worker)


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def reading(alpha: float, setpoint: float) -> dict[str, Reading]:
    return {"warm": Reading(alpha, setpoint, math.nan, 1.0, [])}


def last_piece(prompt: int, cached: int) -> Piece:
    return Piece("", None, {}, None, Generation("", [], "end", Timings(prompt, 0, 0, 0, cached), []))


def test_tokens_are_counted_and_timed_from_the_second_on() -> None:
    metrics = make_metrics()
    meter = Meter(metrics)
    for _ in range(3):
        meter.take(Piece("a", 5, {}, None, None))
    meter.take(last_piece(7, 4))
    assert value(metrics, "edgesteer_generated_tokens_total") == 3
    assert value(metrics, "edgesteer_time_to_first_token_seconds_count") == 1
    assert value(metrics, "edgesteer_time_per_token_seconds_count") == 2
    assert value(metrics, "edgesteer_prompt_tokens_total") == 7
    assert value(metrics, "edgesteer_cached_tokens_total") == 4


def test_a_text_that_never_began_counts_no_prompt() -> None:
    metrics = make_metrics()
    Meter(metrics).take(last_piece(7, 0))
    assert value(metrics, "edgesteer_prompt_tokens_total") == 0


def test_alpha_error_is_the_distance_from_the_setpoint_where_there_is_one() -> None:
    metrics = make_metrics()
    meter = Meter(metrics)
    for alpha, setpoint in ((0.5, 0.75), (2.0, 1.0), (math.nan, 1.0)):
        meter.take(Piece("a", 5, reading(alpha, setpoint), None, None))
    assert value(metrics, "edgesteer_alpha_error_sum", controller="warm") == pytest.approx(1.25)
    assert value(metrics, "edgesteer_alpha_error_count", controller="warm") == 2


def test_the_workers_state_is_that_of_the_moment() -> None:
    metrics = make_metrics(BatchStatus(3, 1, 2, 50, 20, 512))
    assert value(metrics, "edgesteer_texts", stage="waiting") == 3
    assert value(metrics, "edgesteer_texts", stage="prefilling") == 1
    assert value(metrics, "edgesteer_texts", stage="generating") == 2
    assert value(metrics, "edgesteer_kv_cells", use="running") == 50
    assert value(metrics, "edgesteer_kv_cells", use="reusable") == 20
    assert value(metrics, "edgesteer_kv_cells", use="total") == 512


def test_a_closed_worker_has_no_state_and_the_counters_stay() -> None:
    text = make_metrics().text().decode()
    assert "edgesteer_kv_cells" not in text
    assert "edgesteer_generated_tokens_total 0.0" in text
