"""Comparisons of two profiles: what they find, how often they cry wolf, and what they refuse."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.profile.compare import FASTER, LESS, MORE, SAME, SLOWER, UNKNOWN, compare_profiles

Document = dict[str, Any]


def profile_of(seed: int, *, n: int = 30, slower: float = 1.0, watts: float = 10.0, **cell: Any) -> Document:
    """A document as a run of n repeats would give it: 2 % noise, and now and then something else at work."""
    random = np.random.default_rng(seed)
    noise = np.exp(random.normal(0, 0.02, (2, n)))
    noise[random.random((2, n)) < 0.1] *= 1.5
    prefill, token = 400 * noise[0], 10 * slower * noise[1]
    samples = [
        {
            "ttft_ms": [a],
            "tpot_ms": [b],
            "ttlt_ms": [a + 63 * b],
            "decode_tokens": 63,
            "prefill_energy": reading(watts * a / 1000, a / 1000),
            "decode_energy": reading(watts * 63 * b / 1000, 63 * b / 1000),
        }
        for a, b in zip(prefill.tolist(), token.tolist(), strict=True)
    ]
    place = {"prompt_len": 256, "gen_len": 64, "batch": 1, "threads": 2, "n_gpu_layers": 0, **cell}
    return {
        "model": {"path": "a.gguf", "model_sha256": "a"},
        "machine": {"cpu": "one"},
        "settings": {"cache_type_k": "f16"},
        "steering": [],
        "series": [{**place, "variant": "unsteered", "samples": samples}],
    }


def reading(joules: float, seconds: float) -> dict[str, Any]:
    return {"joules": {"package": joules}, "seconds": seconds, "peak_watts": {"package": 1.0}}


def verdicts(before: Document, after: Document) -> dict[str, str]:
    return {row.metric: row.verdict for row in compare_profiles(before, after).rows}


def test_a_5_percent_slowdown_is_found_at_30_repeats() -> None:
    found = [verdicts(profile_of(2 * seed), profile_of(2 * seed + 1, slower=1.05))["tpot_ms"] for seed in range(20)]
    assert found.count(SLOWER) >= 19
    assert FASTER not in found


def test_a_speedup_is_faster_and_needs_less_energy() -> None:
    found = verdicts(profile_of(0), profile_of(1, slower=0.8))
    assert (found["tpot_ms"], found["ttlt_ms"], found["joules[package]"]) == (FASTER, FASTER, LESS)
    assert found["ttft_ms"] == SAME


def test_more_watts_are_more_energy_at_the_same_speed() -> None:
    found = verdicts(profile_of(0), profile_of(1, watts=13))
    assert found == {"ttft_ms": SAME, "tpot_ms": SAME, "ttlt_ms": SAME, "joules[package]": MORE}


@pytest.mark.slow
@pytest.mark.parametrize("n", [5, 30])
def test_equal_runs_differ_no_more_often_than_stated(n: int) -> None:
    """5 % of comparisons, whatever the number of their rows; 200 pairs show up to 9.0 % in 99.5 % of all cases."""
    alarms = sum(
        bool(compare_profiles(profile_of(2 * seed, n=n), profile_of(2 * seed + 1, n=n)).differing)
        for seed in range(1000, 1200)
    )
    assert alarms / 200 <= 0.09


def test_a_run_does_not_differ_from_itself() -> None:
    run = profile_of(0)
    comparison = compare_profiles(run, run)
    assert comparison.differing == []
    assert comparison.differences == []
    assert {row.ratio.value for row in comparison.rows} == {1.0}


def test_rows_by_hand() -> None:
    before, after = profile_of(0, n=5), profile_of(0, n=7)
    for document, times in ((before, [1, 2, 3, 4, 5]), (after, [4, 4, 4, 6, 6, 6, 6])):
        for sample, time in zip(document["series"][0]["samples"], times, strict=True):
            sample["ttft_ms"] = [float(time)]
    row = compare_profiles(before, after).rows[0]
    assert (row.metric, row.variant, row.before, row.after, row.ratio.value) == ("ttft_ms", "unsteered", 3, 6, 2)
    assert (row.n_before, row.n_after) == (5, 7)
    assert row.cell == {"prompt_len": 256, "gen_len": 64, "batch": 1, "threads": 2, "n_gpu_layers": 0}
    assert row.ratio.low < 2 < row.ratio.high


def test_requests_of_a_batch_count_as_one_sample() -> None:
    documents = profile_of(0), profile_of(1)
    for document in documents:
        for sample in document["series"][0]["samples"]:
            sample["ttft_ms"] = [sample["ttft_ms"][0] + 10 * request for request in range(8)]
    row = compare_profiles(*documents).rows[0]
    assert (row.n_before, row.n_after) == (30, 30)


def test_too_few_repeats_say_nothing() -> None:
    """3 + 3 repeats come in 20 orders: even one above the other they are equal in one case of ten."""
    found = verdicts(profile_of(0, n=3), profile_of(1, n=3, slower=10.0))
    assert set(found.values()) == {UNKNOWN}


def test_more_rows_make_wider_intervals() -> None:
    def width(n_series: int) -> float:
        documents = profile_of(0), profile_of(1)
        for document in documents:
            (series,) = document["series"]
            document["series"] = [{**series, "prompt_len": 2**number} for number in range(n_series)]
        ratio = compare_profiles(*documents).rows[0].ratio
        return math.log(ratio.high / ratio.low)

    assert width(1) < width(20)


def test_series_are_matched_by_their_cell() -> None:
    before, after = profile_of(0, prompt_len=128), profile_of(1, prompt_len=512)
    before["series"] += profile_of(2, prompt_len=512, n=10)["series"]
    after["series"] += profile_of(3, prompt_len=1024)["series"]
    comparison = compare_profiles(before, after)
    assert {(row.cell["prompt_len"], row.n_before) for row in comparison.rows} == {(512, 10)}
    assert comparison.unmatched == 2


def test_what_each_run_has_one_value_of_may_differ() -> None:
    comparison = compare_profiles(profile_of(0, threads=1), profile_of(1, threads=4, slower=0.5))
    assert [row.verdict for row in comparison.rows if row.metric == "tpot_ms"] == [FASTER]


def test_steered_and_unsteered_are_not_compared_with_each_other() -> None:
    before, after = profile_of(0), profile_of(1)
    after["series"][0]["variant"] = "steered"
    with pytest.raises(EdgeSteerError, match="share no measurement"):
        compare_profiles(before, after)


def test_other_differences_are_told() -> None:
    before, after = profile_of(0), profile_of(1)
    after["model"] = {"path": "b.gguf", "model_sha256": "b"}
    after["machine"]["cpu"] = "x" * 100
    after["settings"]["cache_type_k"] = "q8_0"
    after["steering"] = [{"controller": "warm", "strength": 0.5}]
    assert compare_profiles(before, after).differences == [
        "model model_sha256: a -> b",
        f"machine cpu: one -> {'x' * 57}...",
        "settings cache_type_k: f16 -> q8_0",
        "steering: none -> warm=0.5",
    ]


def test_a_meter_that_read_nothing_is_not_compared() -> None:
    before, after = profile_of(0), profile_of(1, watts=0)
    assert "joules[package]" not in verdicts(before, after)


def test_a_meter_of_one_run_only_is_not_compared() -> None:
    before, after = profile_of(0), profile_of(1)
    for sample in after["series"][0]["samples"]:
        sample["prefill_energy"] = sample["decode_energy"] = None
    assert set(verdicts(before, after)) == {"ttft_ms", "tpot_ms", "ttlt_ms"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda document: document.pop("series"),
        lambda document: document.update(series=[1]),
        lambda document: document["series"][0].pop("variant"),
        lambda document: document["series"][0]["samples"][0].pop("ttft_ms"),
        lambda document: document["series"][0]["samples"][0].update(ttft_ms="fast"),
        lambda document: document["series"][0].update(samples=None),
        lambda document: document.update(steering=[{}]),
        lambda document: document.update(model=["a.gguf"]),
    ],
)
def test_damaged_profile_is_refused(damage: Callable[[Document], Any]) -> None:
    whole = profile_of(0)
    damaged = copy.deepcopy(whole)
    damage(damaged)
    for pair in ((whole, damaged), (damaged, whole)):
        with pytest.raises(EdgeSteerError, match=r"damaged|share no measurement"):
            compare_profiles(*pair)
