"""Runs as a whole: meters and bandwidth around a sweep, traces, and what is left out when it is not asked for."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesteer.profile import run
from edgesteer.profile.energy import EnergyMonitor
from edgesteer.profile.latency import Budget
from edgesteer.profile.meters import Unavailable
from edgesteer.profile.report import QUANTITIES
from edgesteer.profile.roofline import Bandwidth
from edgesteer.profile.sweep import Settings, SteerWith, Sweeper
from edgesteer.runtime.request import Steering

Make = Callable[..., Any]
SETTINGS = Settings(prompt_len=(8,), gen_len=(4,), repeats=2, warmup=0)
SLOW = Bandwidth(1e9, 1, "none", {}, 8, 1)


class SteadyMeter:
    """10 W, by the machine's clock."""

    name, domain, included_in = "package", "package", None

    def joules(self) -> float:
        import time

        return 10 * time.perf_counter()


@pytest.fixture
def metered(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [Unavailable("no permission", "Run: chmod")]
    monitor = EnergyMonitor([SteadyMeter()], rates={"package": 1000.0}, missing=missing, samples_per_second=0)
    monkeypatch.setattr(run, "open_monitor", lambda: monitor)
    monkeypatch.setattr(run, "IDLE_SECONDS", 0.01)


# ---- what is asked for ----


@pytest.mark.parametrize(
    ("quantities", "expected"),
    [
        (["size"], replace(SETTINGS, repeats=0)),
        (["ttft"], replace(SETTINGS, gen_len=(1,))),
        (["size", "ttft"], replace(SETTINGS, gen_len=(1,))),
        (["tpot"], SETTINGS),
        (["energy"], SETTINGS),
        (QUANTITIES, SETTINGS),
    ],
)
def test_nothing_is_measured_that_was_not_asked_for(quantities: list[str], expected: Settings) -> None:
    assert run.fewer(SETTINGS, quantities) == expected


def test_meters_are_opened_and_idle_power_is_measured_first(metered: None, stages: Any) -> None:
    surroundings = run.survey(["energy"], stages)
    assert surroundings.energy["meters"] == [
        {"name": "package", "domain": "package", "sampling_hz": 1000.0, "included_in": None}
    ]
    assert surroundings.energy["idle_watts"] == {"package": pytest.approx(10, rel=0.05)}
    assert surroundings.energy["missing"] == [{"reason": "no permission", "remedy": "Run: chmod"}]
    assert stages.steps == {"idle power, 0.01 s": 1}


def test_meters_are_left_alone_when_energy_is_not_asked_for(metered: None, stages: Any) -> None:
    surroundings = run.survey(["ttft"], stages)
    assert surroundings.monitor is None
    assert surroundings.energy["reason"] == "not asked for"
    assert stages.steps == {}


def test_without_a_meter_the_reason_is_kept(monkeypatch: pytest.MonkeyPatch, stages: Any) -> None:
    monkeypatch.setattr(run, "open_monitor", lambda: Unavailable("no meter", "Buy one."))
    assert run.survey(["energy"], stages).energy == {
        "meters": [], "idle_watts": {}, "missing": [], "reason": "no meter", "remedy": "Buy one.",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "quantities", "threads"),
    [
        (replace(SETTINGS, threads=(1, 2)), ["tpot"], [1, 2]),
        (SETTINGS, ["ttlt"], [1]),
        (SETTINGS, ["ttft", "size", "energy"], []),
        (replace(SETTINGS, n_gpu_layers=(4, -1)), ["tpot"], []),
        (replace(SETTINGS, n_gpu_layers=(4, 0)), ["tpot"], [1]),
        (replace(SETTINGS, repeats=0), ["tpot"], []),
    ],
)
def test_memory_is_measured_where_it_bounds_something(
    settings: Settings, quantities: list[str], threads: list[int], monkeypatch: pytest.MonkeyPatch, stages: Any
) -> None:
    monkeypatch.setattr(run, "memory_bandwidth", lambda threads: replace(SLOW, threads=threads))
    found = run.bandwidths_for(settings, quantities, Budget(), stages)
    assert [each.threads for each in found] == threads


def test_memory_is_not_measured_after_the_budget(monkeypatch: pytest.MonkeyPatch, stages: Any) -> None:
    monkeypatch.setattr(run, "memory_bandwidth", lambda threads: SLOW)
    assert run.bandwidths_for(SETTINGS, ["tpot"], Budget(0), stages) == []


# ---- the tiny model ----


@pytest.mark.torch
def test_energy_of_a_run_is_power_times_time(metered: None, tiny_model: Any, stages: Any) -> None:
    surroundings = run.survey(QUANTITIES, stages)
    sweep = Sweeper(SETTINGS, stages, instruments=surroundings.instruments).run(tiny_model.gguf)
    document = run.document_of(sweep, surroundings, bandwidths=[SLOW])
    (series,) = document["series"]
    assert series["energy"]["package"]["average_watts"] == pytest.approx(10, rel=0.05)
    assert series["energy"]["package"]["joules_per_request"] > 0
    assert series["bound_tokens_per_second"] == pytest.approx(1e9 / series["step_bytes"])
    json.dumps(document, allow_nan=False)


@pytest.mark.torch
def test_document_names_the_sidecars(tiny_model: Any, stages: Any, make_controller: Make, tmp_path: Path) -> None:
    (tmp_path / "warm.gguf").write_bytes(b"warm")
    controller = make_controller(4, 32, name="warm")
    steer = SteerWith(lambda _: ([controller], [Steering("warm", 0.5)]), (tmp_path / "warm.gguf",))
    sweep = Sweeper(SETTINGS, stages, steer=steer).run(tiny_model.gguf)
    (steering,) = run.document_of(sweep, run.survey([], stages), steering_files=steer.sidecars)["steering"]
    assert (steering["controller"], steering["strength"]) == ("warm", 0.5)
    assert steering["file"] == str(tmp_path / "warm.gguf")
    assert len(steering["sha256"]) == 64
    assert sweep.sizes[0].sidecar_bytes == 4


@pytest.mark.torch
@pytest.mark.parametrize("steered", [False, True])
def test_a_trace_is_of_the_first_combination(
    steered: bool, tiny_model: Any, make_controller: Make, tmp_path: Path
) -> None:
    controller = make_controller(4, 32, name="warm")
    steer = SteerWith(lambda _: ([controller], [Steering("warm", 0.5)])) if steered else None
    settings = replace(SETTINGS, prompt_len=(8, 64), batch=(2, 1))
    trace = run.trace_model(tiny_model.gguf, settings, steer, Budget())
    assert trace is not None
    kinds = {row.name: row.calls for row in trace.by_kind()}
    assert kinds["sampling"] == 2 * 4
    assert ("hook" in kinds) == steered
    summary = run.trace_summary(trace)
    assert [row["name"] for row in summary["by_block"][1:5]] == ["block 0", "block 1", "block 2", "block 3"]
    assert "Tracing" in summary["overhead"]


@pytest.mark.torch
def test_a_trace_needs_budget(tiny_model: Any) -> None:
    assert run.trace_model(tiny_model.gguf, SETTINGS, None, Budget(0)) is None
