"""Documents of sweeps: what they say, by hand."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from edgesteer.profile.consumption import joules_per_token
from edgesteer.profile.sweep import Cell, Sample

Make = Callable[..., Any]


@pytest.fixture
def document(make_sweep: Make, document_of: Make) -> dict[str, Any]:
    made: dict[str, Any] = document_of(make_sweep())
    return made


def test_summaries_are_over_all_requests_of_all_repeats(document: dict[str, Any]) -> None:
    plain = document["series"][0]["summary"]
    assert plain["ttft_ms"]["n"] == 24
    assert plain["ttft_ms"]["mean"] == pytest.approx(900)
    assert plain["ttft_ms"]["std"] == pytest.approx(100 * math.sqrt(24 / 23))
    assert plain["tpot_ms"]["median"] == pytest.approx((70 + 50) / 2)
    assert plain["ttlt_ms"]["p99"] == pytest.approx(1500)


def test_rates_count_all_requests_together(document: dict[str, Any]) -> None:
    plain, steered = document["series"]
    assert plain["prefill_tokens_per_second"] == pytest.approx(2 * 100 / 1.0)
    assert plain["decode_tokens_per_second"] == pytest.approx(20 / 0.5)
    assert steered["decode_tokens_per_second"] == pytest.approx(20 / 1.0)


def test_bound_is_bandwidth_over_the_bytes_of_a_step_that_gives_a_token_to_each(document: dict[str, Any]) -> None:
    plain = document["series"][0]
    assert plain["bound_tokens_per_second"] == pytest.approx(2 * 1e9 / 1e6)
    assert plain["share_of_bound"] == pytest.approx(40 / 2000)


def test_offloaded_blocks_have_no_bound(make_sweep: Make, document_of: Make) -> None:
    series = document_of(make_sweep(3, Cell(100, 11, 2, 1, 4)))["series"][0]
    assert (series["bound_tokens_per_second"], series["share_of_bound"]) == (None, None)


def test_ratios_pair_the_rounds(document: dict[str, Any]) -> None:
    found = {each["metric"]: each for each in document["ratios"]}
    assert found["ttft_ms"]["value"] == 1
    assert found["ttlt_ms"]["value"] == pytest.approx(2000 / 1500)
    assert found["tpot_ms"]["value"] == pytest.approx((120 + 100) / (70 + 50))  # means over a repeat's requests
    assert found["tpot_ms"]["low"] == pytest.approx(found["tpot_ms"]["high"])  # every round alike
    assert found["tpot_ms"]["prompt_len"] == 100


def test_a_round_that_was_broken_off_has_no_pair(make_sweep: Make, document_of: Make) -> None:
    sweep = make_sweep(6)
    sweep.series[1].samples.pop()
    assert document_of(sweep)["ratios"][0]["low"] is None  # 5 pairs are too few
    sweep.series[1].samples.clear()
    assert document_of(sweep)["ratios"] == []


def test_unsteered_runs_have_no_ratios(make_sweep: Make, document_of: Make) -> None:
    assert document_of(make_sweep(steered=False))["ratios"] == []


def test_series_without_samples_are_left_out(make_sweep: Make, document_of: Make) -> None:
    sweep = make_sweep()
    sweep.series[1].samples.clear()
    assert [each["variant"] for each in document_of(sweep)["series"]] == ["unsteered"]


def test_energy_by_meter(document: dict[str, Any]) -> None:
    """Prefill takes 1 s, decode 0.5 s; 2 requests and 20 tokens."""
    plain = document["series"][0]["energy"]
    assert list(plain) == ["package", "GPU 0"]
    assert plain["package"] == pytest.approx(
        {
            "joules_per_prompt": 10 / 2,
            "joules_per_token": 5 / 20,
            "joules_per_request": 15 / 2,
            "average_watts": 10,
            "peak_watts": 12,
            "energy_delay": 7.5 * 1.5,
        }
    )
    assert plain["GPU 0"]["joules_per_token"] == pytest.approx(10 / 20)


def test_a_meter_that_failed_is_left_out(make_sweep: Make, document_of: Make) -> None:
    sweep = make_sweep()
    for series in sweep.series:
        for sample in series.samples:
            del sample.times.prefill_energy.joules["GPU 0"]
    assert list(document_of(sweep)["series"][0]["energy"]) == ["package"]


def test_joules_over_all_meters_count_each_once(document: dict[str, Any]) -> None:
    series = document["series"][0]
    apart = [{"name": name, "included_in": None} for name in ("package", "GPU 0")]
    inside = [{"name": "package", "included_in": "GPU 0"}, {"name": "GPU 0", "included_in": "board"}]
    assert joules_per_token(series, apart) == pytest.approx((5 + 10) / 20)
    assert joules_per_token(series, inside) == pytest.approx(10 / 20)  # the board's meter was not read
    assert joules_per_token({"energy": {}}, apart) is None
    assert joules_per_token({"energy": {"package": {"joules_per_token": None}}}, apart) is None


def test_without_a_meter_there_is_no_energy(make_sweep: Make, document_of: Make) -> None:
    series = document_of(make_sweep(energy=False), energy=False)["series"][0]
    assert series["energy"] == {}
    assert series["samples"][0]["prefill_energy"] is None


def test_a_device_that_slows_down_is_flagged(make_sweep: Make, document_of: Make) -> None:
    sweep = make_sweep()
    quiet = document_of(sweep)["drift"]
    assert (quiet["time"]["flagged"], quiet["clock"]["flagged"]) == (False, False)
    for series in sweep.series:
        series.samples[8:] = [slow_down(each) for each in series.samples[8:]]
    hot = document_of(sweep)["drift"]
    assert hot["time"]["flagged"]
    assert hot["time"]["value"] == pytest.approx(1.2)
    assert hot["clock"]["flagged"]
    assert hot["clock"]["value"] == pytest.approx(0.8)


def slow_down(sample: Sample) -> Sample:
    times = replace(sample.times, tpot_ms=[1.2 * each for each in sample.times.tpot_ms])
    return replace(sample, megahertz=2400.0, times=times)


def test_drift_is_that_of_the_run_and_not_of_its_cells(make_sweep: Make, document_of: Make) -> None:
    """The second cell is ten times slower, and its measurements end the run."""
    sweep = make_sweep(12, Cell(100, 11, 2, 1, 0), Cell(1000, 11, 2, 1, 0))
    for series in sweep.series[2:]:
        series.samples[:] = [
            replace(
                each,
                started_s=each.started_s + 1000,
                times=replace(each.times, tpot_ms=[10 * value for value in each.times.tpot_ms]),
            )
            for each in series.samples
        ]
    assert not document_of(sweep)["drift"]["time"]["flagged"]


def test_drift_of_prompts_alone_is_told_by_the_first_token(make_sweep: Make, document_of: Make) -> None:
    sweep = make_sweep()
    for series in sweep.series:
        series.samples[:] = [replace(each, times=replace(each.times, tpot_ms=[])) for each in series.samples]
        series.samples[8:] = [
            replace(each, times=replace(each.times, ttft_ms=[1600.0, 2000.0])) for each in series.samples[8:]
        ]
    document = document_of(sweep)
    assert document["drift"]["time"]["value"] == pytest.approx(2)
    assert document["series"][0]["summary"]["tpot_ms"] is None
    assert {each["metric"] for each in document["ratios"]} == {"ttft_ms", "ttlt_ms"}


def test_few_samples_and_unknown_clocks_have_no_drift(make_sweep: Make, document_of: Make) -> None:
    sweep = make_sweep(5)
    sweep.series[0].samples[:] = [replace(each, megahertz=None) for each in sweep.series[0].samples]
    assert document_of(sweep)["drift"] == {"time": None, "clock": None}
