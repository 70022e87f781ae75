"""Tables and notes: what a reader sees of a document."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from edgesteer.profile.compare import SAME, SLOWER, UNKNOWN, Comparison, Row
from edgesteer.profile.report import (
    QUANTITIES,
    comparison_notes,
    comparison_table,
    heading,
    interval,
    notes,
    number,
    percent,
    tables,
)
from edgesteer.profile.statistics import Ratio
from edgesteer.profile.sweep import Cell, Settings, Sweep

Make = Callable[..., Any]
MEMORY = "Memory bound: 1.00 GB/s with 1 threads (triad)."
TRACE = {
    "by_kind": [{"name": "attention", "calls": 3, "ms": 1.5, "share": 0.5}],
    "by_block": [{"name": "block 0", "calls": 3, "ms": 1.5, "share": 0.5}],
    "overhead": "Tracing changed nothing.",
}


@pytest.fixture
def document(make_sweep: Make, document_of: Make) -> dict[str, Any]:
    made: dict[str, Any] = document_of(make_sweep())
    return made


def by_title(document: dict[str, Any], *quantities: str) -> dict[str, Any]:
    return {table.title: table for table in tables(document, quantities or QUANTITIES)}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123456, "0.01235"), (1.5, "1.500"), (20.0, "20.00"), (999.94, "999.9"), (12345.6, "12346"), (None, "-")],
)
def test_numbers_have_four_digits_and_no_exponent(value: float | None, text: str) -> None:
    assert number(value) == text


def test_shares_and_intervals() -> None:
    assert (percent(0.1234), percent(None)) == ("12.3 %", "-")
    assert (interval(0.99, 1.01), interval(None, None), interval(float("-inf"), float("inf"))) == (
        "0.990 to 1.010", "-", "-",
    )  # fmt: skip


def test_heading_says_what_all_rows_share(make_sweep: Make, document_of: Make) -> None:
    document = document_of(make_sweep(12, Cell(100, 11, 2, 1, 0), Cell(200, 11, 2, 1, 0)))
    assert heading(document) == (
        "Tiny: generated 11, batch 2, threads 1, GPU layers 0, 12 repeats after 1 that do not count"
    )


def test_every_table_has_cells_for_its_headers(make_sweep: Make, document_of: Make) -> None:
    document = document_of(make_sweep(12, Cell(100, 11, 2, 1, 0), Cell(200, 11, 2, 1, 0)), trace=TRACE)
    found = by_title(document)
    assert list(found) == [
        "Size", "Latency, ms", "Steered over unsteered", "Speed", "Energy, idle power included",
        "Where the time goes, by kind", "Where the time goes, by block",
    ]  # fmt: skip
    for table in found.values():
        assert {len(row) for row in table.rows} == {len(table.headers)}
        assert all(isinstance(cell, str) for row in table.rows for cell in row)


def test_what_was_swept_has_a_column(make_sweep: Make, document_of: Make) -> None:
    document = document_of(make_sweep(12, Cell(100, 11, 2, 1, 0), Cell(200, 11, 2, 1, 0)))
    latency = by_title(document)["Latency, ms"]
    assert latency.headers == ["prompt", "engine", "", "mean", "median", "p95", "p99", "std", "n"]
    assert [row[:3] for row in latency.rows][::3] == [
        ["100", "unsteered", "TTFT"], ["100", "steered", "TTFT"],
        ["200", "unsteered", "TTFT"], ["200", "steered", "TTFT"],
    ]  # fmt: skip
    assert latency.rows[2] == ["100", "unsteered", "TTLT", "1500", "1500", "1500", "1500", "0.000", "24"]


def test_sizes(document: dict[str, Any]) -> None:
    rows = dict(by_title(document)["Size"].rows)
    assert rows == {
        "parameters, millions": "1.000",
        "bits a weight": "7.20",
        "file, MB": "0.91",
        "weights in CPU, MB": "0.90",
        "KV cache (256 tokens, f16/f16) by the model's shape, MB": "2.00",
        "KV cache as allocated in CPU, MB": "2.00",
        "compute buffer in CPU, MB": "3.00",
        "logits in CPU, MB": "0.00",
        "sidecars, MB": "0.00",
        "process, at its peak, MB": "50.00",
    }


def test_sizes_of_several_offloads_stand_side_by_side(document: dict[str, Any]) -> None:
    size = copy.deepcopy(document["sizes"][0])
    size.update(n_gpu_layers=4, kv_bytes=None, sidecar_bytes=None)
    size["allocated"]["weights"] = {"CUDA0": 500_000}
    document["sizes"].append(size)
    table = by_title(document)["Size"]
    assert table.headers == ["", "0 GPU layers", "4 GPU layers"]
    rows = {label: cells for label, *cells in table.rows}
    assert rows["weights in CPU, MB"] == ["0.90", "-"]
    assert rows["weights in CUDA0, MB"] == ["-", "0.50"]
    assert rows["sidecars, MB"] == ["0.00", "-"]


def test_ratios_are_rows_of_their_own(document: dict[str, Any]) -> None:
    assert by_title(document)["Steered over unsteered"].rows == [
        ["TTFT", "1.000", "1.000 to 1.000"],
        ["TPOT", "1.833", "1.833 to 1.833"],
        ["TTLT", "1.333", "1.333 to 1.333"],
    ]


def test_speed_tells_the_share_of_the_bound_and_of_the_hook(document: dict[str, Any]) -> None:
    assert by_title(document)["Speed"].rows == [
        ["unsteered", "200.0", "40.00", "2000", "2.00 %", "-", "-"],
        ["steered", "200.0", "20.00", "2000", "1.00 %", "100", "1.00 %"],
    ]


def test_energy_has_a_row_for_every_meter(document: dict[str, Any]) -> None:
    rows = by_title(document)["Energy, idle power included"].rows
    assert [row[:2] for row in rows] == [
        ["unsteered", "package"], ["unsteered", "GPU 0"], ["steered", "package"], ["steered", "GPU 0"],
    ]  # fmt: skip
    assert rows[0][2:] == ["5.000", "0.2500", "7.500", "10.00", "12.00", "11.25"]


@pytest.mark.parametrize(
    ("quantities", "titles"),
    [
        (["size"], ["Size"]),
        (["ttft"], ["Latency, ms", "Steered over unsteered", "Speed"]),
        (["energy"], ["Energy, idle power included"]),
    ],
)
def test_only_what_was_asked_for_is_shown(quantities: list[str], titles: list[str], document: dict[str, Any]) -> None:
    found = by_title(document, *quantities)
    assert list(found) == titles
    if "ttft" in quantities:
        assert {row[1] for row in found["Latency, ms"].rows} == {"TTFT"}


def test_without_a_meter_there_is_no_figure_and_the_reason(make_sweep: Make, document_of: Make) -> None:
    document = document_of(make_sweep(energy=False), energy=False)
    assert "Energy, idle power included" not in by_title(document)
    assert notes(document) == [MEMORY, "No energy: no meter. Buy one."]
    assert notes(document, ["ttft"]) == [MEMORY]


def test_meters_are_described(document: dict[str, Any]) -> None:
    document["energy"]["missing"] = [{"reason": "no permission", "remedy": "Run: chmod."}]
    assert notes(document)[1:] == [
        "package measures package, 1000 times a second; idle it took 3.00 W.",
        "GPU 0 measures GPU 0, at its own rate; idle it took 5.00 W.",
        "Not measured: no permission. Run: chmod.",
    ]


def test_drift_is_told_in_words(document: dict[str, Any]) -> None:
    document["drift"] = {
        "time": {"value": 1.2, "low": 1.1, "high": 1.3, "flagged": True},
        "clock": {"value": 0.8, "low": 0.7, "high": 0.9, "flagged": True},
    }
    assert notes(document, ["ttft"])[1:] == [
        "The last third of the run took 1.20 (1.10 to 1.30) times the time of the first. The device throttles, or does "
        "something else too.",
        "In the last third of the run the cores ran at 0.80 (0.70 to 0.90) times the clock of the first.",
    ]


def test_traces_cost_is_told(make_sweep: Make, document_of: Make) -> None:
    assert notes(document_of(make_sweep(), trace=TRACE), ["ttft"])[1:] == ["Tracing changed nothing."]


def test_a_run_that_ended_early_says_so(make_sweep: Make, document_of: Make) -> None:
    sweep: Sweep = make_sweep(2)
    sweep.stopped = "the time is up"
    assert notes(document_of(sweep), ["ttft"])[1:] == ["Ended early, after 4 samples: the time is up."]


def test_a_run_that_never_began_has_a_heading_and_no_tables(document_of: Make, tmp_path: Any) -> None:
    document = document_of(Sweep(tmp_path / "tiny.gguf", Settings(), stopped="interrupted"))
    assert heading(document).startswith(str(tmp_path / "tiny.gguf"))
    assert tables(document) == []
    assert notes(document)[1:] == ["Ended early, after 0 samples: interrupted."]


# ---- comparisons ----


def row_of(verdict: str, metric: str = "ttft_ms", **cell: Any) -> Row:
    place = {"prompt_len": 1, "gen_len": 1, "batch": 1, "threads": 1, "n_gpu_layers": 0, **cell}
    return Row(place, "unsteered", metric, 10.0, 11.0, Ratio(1.1, 1.05, 1.15), 30, 30, verdict)


def test_comparison_has_a_row_for_each() -> None:
    comparison = Comparison(0.95, [row_of(SLOWER), row_of(SAME, "joules[package]", batch=2)], [], 0)
    table = comparison_table(comparison)
    assert table.headers == ["batch", "engine", "", "A", "B", "B / A", "interval", ""]
    assert table.rows == [
        ["1", "unsteered", "TTFT", "10.00", "11.00", "1.100", "1.050 to 1.150", SLOWER],
        ["2", "unsteered", "joules[package]", "10.00", "11.00", "1.100", "1.050 to 1.150", SAME],
    ]


@pytest.mark.parametrize(
    ("verdicts", "lines"),
    [
        ([SAME, SAME], ["Nothing differs beyond noise; all intervals hold together with 95.0 % confidence."]),
        ([SAME, SLOWER], ["1 of 2 rows differ beyond noise; all intervals hold together with 95.0 % confidence."]),
        ([UNKNOWN], ["1 of 1 rows have too few repeats to tell. Measure with more --repeats."]),
    ],
)
def test_comparisons_verdict_in_words(verdicts: list[str], lines: list[str]) -> None:
    assert comparison_notes(Comparison(0.95, [row_of(each) for each in verdicts], [], 0)) == lines


def test_what_else_differs_is_told() -> None:
    lines = comparison_notes(Comparison(0.95, [row_of(SAME)], ["machine cpu: a -> b"], 3))
    assert lines[1:] == ["3 series are in one of the profiles only.", "Also different: machine cpu: a -> b"]
