"""Sweeps: what is measured in which order on a fake engine, and that a real one comes out whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgesteer.errors import EdgeSteerError, EngineError, FingerprintError, ModelError
from edgesteer.profile.document import STEERED, UNSTEERED
from edgesteer.profile.latency import Budget
from edgesteer.profile.sweep import Cell, Instruments, Series, Settings, SteerWith, Sweep, Sweeper
from edgesteer.runtime.request import Steering

Make = Callable[..., Any]
QUICK = {"prompt_len": (8,), "gen_len": (4,), "repeats": 2}


def settings_of(**options: Any) -> Settings:
    return Settings(**{**QUICK, **options})


def test_cells_are_all_combinations() -> None:
    settings = Settings(prompt_len=(1, 2), gen_len=(3,), batch=(4, 5))
    assert settings.cells(7, 6) == [
        Cell(1, 3, 4, 6, 7), Cell(2, 3, 4, 6, 7), Cell(1, 3, 5, 6, 7), Cell(2, 3, 5, 6, 7),
    ]  # fmt: skip


def test_one_engine_holds_every_cell() -> None:
    settings = Settings(prompt_len=(10, 100), gen_len=(20,), batch=(1, 600), cache_type_k="q8_0")
    options = settings.engine_options(settings.cells(0, 3))
    assert options["context_tokens"] == 600 * 120
    assert (options["n_sequences"], options["batch_tokens"], options["threads"]) == (600, 600, 3)
    assert (options["cache_type_k"], options["cache_type_v"]) == ("q8_0", "f16")


# ---- rounds, on a fake engine ----


@pytest.fixture
def rounds(clock: Any, make_batch: Make, requests_of: Make, stages: Any) -> Make:
    """Return a function that runs rounds over prompt lengths; it returns what it measured, in order, and the series."""

    def run(lengths: list[int], variants: list[str], **options: Any) -> tuple[list[str], list[Series]]:
        sweeper = Sweeper(settings_of(**options), stages, instruments=Instruments(clock, frequencies=lambda: [1, 3]))
        grouped = [[Series(Cell(length, 4, 2, 1, 0), variant) for variant in variants] for length in lengths]
        batches = {UNSTEERED: make_batch(), STEERED: make_batch(step_s=0.02)}
        order: list[str] = []

        def make(prompt_len: int, gen_len: int, batch: int, *, steered: bool) -> Any:
            order.append(f"{prompt_len} {'steered' if steered else 'plain'}")
            return requests_of(prompt_len, gen_len, batch)

        sweeper.run_rounds(grouped, {variant: batches[variant] for variant in variants}, make)
        return order, [series for group in grouped for series in group]

    return run


def test_rounds_measure_every_cell_and_alternate_which_variant_comes_first(rounds: Make) -> None:
    order, _ = rounds([8, 9], [UNSTEERED, STEERED], repeats=2, warmup=1)
    assert order == [
        "8 plain", "8 steered", "9 plain", "9 steered",
        "8 steered", "8 plain", "9 steered", "9 plain",
        "8 plain", "8 steered", "9 plain", "9 steered",
    ]  # fmt: skip


def test_warm_up_does_not_count(rounds: Make, stages: Any) -> None:
    order, series = rounds([8], [UNSTEERED], repeats=3, warmup=2)
    assert len(order) == 5
    assert [len(each.samples) for each in series] == [3]
    assert stages.totals == stages.steps == {"1 threads": 5}


def test_each_variant_is_measured_on_its_own_engine(rounds: Make) -> None:
    _, (plain, steered) = rounds([8], [UNSTEERED, STEERED])
    assert [sample.times.tpot_ms[1] for sample in plain.samples] == pytest.approx([10, 10])
    assert [sample.times.tpot_ms[1] for sample in steered.samples] == pytest.approx([20, 20])


def test_samples_tell_when_they_were_taken_and_how_fast_the_cores_ran(rounds: Make) -> None:
    """A measurement takes 200 ms for two prompts and three steps of 10 ms; the first one does not count."""
    _, (plain,) = rounds([8], [UNSTEERED], repeats=2, warmup=1)
    assert [sample.started_s for sample in plain.samples] == pytest.approx([0.23, 0.46])
    assert [sample.megahertz for sample in plain.samples] == [2, 2]


def test_no_repeats_measure_nothing(rounds: Make) -> None:
    order, _ = rounds([8], [UNSTEERED], repeats=0, warmup=3)
    assert order == []


def test_unknown_frequencies_are_none() -> None:
    assert Instruments().megahertz() is None


# ---- whole models ----


@pytest.fixture
def steer_with(make_controller: Make) -> SteerWith:
    controller = make_controller(4, 32, name="warm")
    return SteerWith(lambda fingerprint: ([controller], [Steering("warm", 1.0)]))


@pytest.mark.torch
def test_a_model_is_measured_steered_and_not(tiny_model: Any, stages: Any, steer_with: SteerWith) -> None:
    settings = settings_of(batch=(1, 2), threads=(1,))
    sweep = Sweeper(settings, stages, steer=steer_with).run(tiny_model.gguf)
    assert (sweep.stopped, sweep.error) == (None, None)
    assert [(each.cell.batch, each.variant, len(each.samples)) for each in sweep.series] == [
        (1, UNSTEERED, 2), (1, STEERED, 2), (2, UNSTEERED, 2), (2, STEERED, 2),
    ]  # fmt: skip
    assert [(each.hook is None) for each in sweep.series] == [True, False, True, False]
    assert all(0 < each.hook.share < 1 for each in sweep.series if each.hook is not None)
    assert sweep.fingerprint is not None
    assert len(sweep.fingerprint.model_sha256) == 64
    assert sweep.sizes[0].context_tokens == 256
    assert sweep.steering == [Steering("warm", 1.0)]
    assert sweep.n_samples == 8
    assert all(step == stages.totals[name] for name, step in stages.steps.items())


@pytest.mark.torch
def test_a_step_reads_the_weights_once_and_the_cache_of_each_request(tiny_model: Any, stages: Any) -> None:
    settings = settings_of(prompt_len=(8,), gen_len=(4,), batch=(1, 3), repeats=1, warmup=0)
    one, three = Sweeper(settings, stages).run(tiny_model.gguf).series
    assert one.step_bytes is not None
    assert three.step_bytes is not None
    cache = (8 + 2) * 4 * 32 * 2  # tokens of context, blocks, keys and values, bytes
    assert three.step_bytes - one.step_bytes == 2 * cache


@pytest.mark.torch
def test_sizes_alone_need_no_text(tiny_model: Any, stages: Any) -> None:
    sweep = Sweeper(settings_of(repeats=0), stages).run(tiny_model.gguf)
    assert sweep.sizes[0].parameters > 0
    assert sweep.n_samples == 0


@pytest.mark.torch
def test_the_budget_ends_a_sweep_with_what_there_is(tiny_model: Any, stages: Any) -> None:
    budget = Budget()
    taken = iter([[], [], [], [1.0]])

    def frequencies() -> list[float]:
        if next(taken):
            budget.stop("interrupted")
        return []

    settings = settings_of(repeats=100, warmup=0)
    sweep = Sweeper(settings, stages, budget=budget, instruments=Instruments(frequencies=frequencies)).run(
        tiny_model.gguf
    )
    assert sweep.stopped == "interrupted"
    assert sweep.n_samples == 4
    assert sweep.seconds > 0
    assert sweep.error is None


@pytest.mark.torch
def test_a_budget_that_is_up_at_once_measures_nothing(tiny_model: Any, stages: Any) -> None:
    sweep = Sweeper(settings_of(), stages, budget=Budget(0)).run(tiny_model.gguf)
    assert (sweep.stopped, sweep.n_samples, sweep.fingerprint) == ("the time is up", 0, None)


@pytest.mark.torch
def test_a_failure_after_samples_keeps_them(tiny_model: Any, stages: Any) -> None:
    """With its second number of threads the engine cannot be made."""
    settings = settings_of(threads=(1, 2), repeats=1, warmup=0)
    sweeper = Sweeper(settings, stages)

    def fail_later(name: str, total: int) -> Callable[[], None]:
        if name.startswith("2"):
            raise EngineError("no memory")
        return lambda: None

    stages.stage = fail_later
    sweep: Sweep = sweeper.run(tiny_model.gguf)
    assert sweep.n_samples == 1
    assert isinstance(sweep.error, EngineError)
    assert sweep.stopped == "no memory"


@pytest.mark.torch
def test_a_failure_before_any_sample_is_raised(tiny_model: Any, stages: Any, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such model"):
        Sweeper(settings_of(), stages).run(tmp_path / "none.gguf")
    with pytest.raises(EngineError, match="unknown cache type"):
        Sweeper(settings_of(cache_type_k="q3"), stages).run(tiny_model.gguf)

    def refuse(fingerprint: Any) -> Any:
        raise FingerprintError("another model")

    with pytest.raises(EdgeSteerError, match="another model"):
        Sweeper(settings_of(), stages, steer=SteerWith(refuse)).run(tiny_model.gguf)
