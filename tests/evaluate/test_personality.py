from __future__ import annotations

import math

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.personality import (
    deltas,
    over_methods,
    over_prompts,
    over_traits,
    section,
    stability,
)
from edgesteer.evaluate.report import report
from edgesteer.evaluate.suite import Suite


@pytest.fixture
def run(make_record):
    """A run of two prompts that steers openness; by arm: the openness of both prompts, unsteered 0.4 and 0.6."""

    def make(trait="openness", strength=1.0, **arms):
        base = {"a": 0.4, "b": 0.6}
        records = [make_record(prompt=prompt, **{trait: value, "neuroticism": 0.5}) for prompt, value in base.items()]
        for arm, values in arms.items():
            records += [
                make_record(arm, strength, prompt, **{trait: value, "neuroticism": 0.3})
                for prompt, value in zip(base, values, strict=True)
            ]
        return records

    return make


def test_a_delta_is_against_the_unsteered_text_of_the_same_prompt(run):
    on_target, off_target = deltas({"openness": run(lqr=(0.5, 0.9))})
    assert (on_target.arm, on_target.steered, on_target.measured) == ("lqr", "openness", "openness")
    np.testing.assert_allclose(on_target.by_prompt, [0.1, 0.3])
    assert on_target.change.value == pytest.approx(0.2)
    assert (off_target.measured, off_target.on_target) == ("neuroticism", False)
    assert off_target.change.value == pytest.approx(-0.2)


def test_a_delta_is_taken_at_the_end_of_the_dial(run):
    records = run(strength=0.5, lqr=(0.4, 0.6)) + run(strength=1.0, lqr=(0.5, 0.7))[2:]
    assert deltas({"openness": records})[0].strength == 1.0


def test_a_run_without_a_judge_of_its_trait_is_refused(make_record):
    with pytest.raises(EdgeSteerError, match="openness: no judge"):
        deltas({"openness": [make_record(sea=0.1)]})


def test_stability_by_hand():
    # mean 0.2; standard deviation sqrt((0.01 + 0.01 + 0.04) / 2)
    found = stability([0.3, 0.3, 0.0])
    assert found.n == 3
    assert found.agreement == pytest.approx(2 / 3)
    assert found.variation == pytest.approx(math.sqrt(0.03) / 0.2)


def test_one_change_has_no_variation():
    assert math.isnan(stability([0.3]).variation)


def test_changes_without_a_mean_have_no_variation():
    assert math.isnan(stability([0.3, -0.3]).variation)


@pytest.fixture
def two_by_two(run):
    """Arms lqr and static on openness (+0.2, -0.1) and extraversion (+0.4, +0.1)."""
    return deltas(
        {
            "openness": run(lqr=(0.5, 0.9), static=(0.4, 0.4)),
            "extraversion": run("extraversion", lqr=(0.8, 1.0), static=(0.5, 0.7)),
        }
    )


def test_a_method_is_stable_over_traits(two_by_two):
    found = over_traits(two_by_two)
    assert found["lqr"].agreement == 1.0
    assert found["lqr"].variation == pytest.approx(np.std([0.2, 0.4], ddof=1) / 0.3)
    assert found["static"].agreement == 0.5


def test_a_trait_is_stable_over_methods(two_by_two):
    found = over_methods(two_by_two)
    assert found["openness"].agreement == 0.5
    assert found["extraversion"].variation == pytest.approx(np.std([0.4, 0.1], ddof=1) / 0.25)


def test_a_combination_is_stable_over_prompts(two_by_two):
    found = over_prompts(two_by_two)
    assert found["lqr", "openness"].variation == pytest.approx(np.std([0.1, 0.3], ddof=1) / 0.2)
    assert found["static", "openness"].agreement == 0.0  # one prompt stays, one falls


def test_a_fall_is_what_a_negative_strength_asks_for(run):
    found = deltas({"openness": run(strength=-1.0, lqr=(0.2, 0.3))})
    assert over_traits(found)["lqr"].agreement == 1.0
    assert over_prompts(found)["lqr", "openness"].agreement == 1.0


def test_the_section_has_all_deltas_and_the_three_levels(run):
    found = section({"openness": run(lqr=(0.5, 0.7))})
    assert "| openness | lqr | 1 | 0.10 (0.10 to 0.10) | -0.20 (-0.20 to -0.20) |" in found
    for level in ("method, over traits | lqr", "trait, over methods | openness", "over prompts | lqr, openness"):
        assert level in found


def test_the_report_has_the_part_when_the_concept_is_a_trait(run):
    suite = Suite("openness", (), (), "openness")
    assert "## Personality" in report(run(lqr=(0.5, 0.7)), suite, [], "Openness")
    assert "## Personality" not in report(run("sea", lqr=(0.5, 0.7)), Suite("sea", (), (), "sea"), [], "Sea")
