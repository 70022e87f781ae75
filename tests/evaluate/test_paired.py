from __future__ import annotations

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.paired import by_strength, changes, matched, outcome, unsteered


def test_samples_of_one_prompt_are_averaged_before_prompts_are_compared(make_record):
    base = [make_record(prompt="a", sample=0, sea=0.0), make_record(prompt="a", sample=1, sea=0.2)]
    steered = [
        make_record("lqr", 1.0, "a", sample=0, sea=0.5),
        make_record("lqr", 1.0, "a", sample=1, sea=0.9),
    ]
    np.testing.assert_allclose(changes(steered, base, outcome("sea")), [0.6])


def test_only_samples_that_both_arms_have_count(make_record):
    base = [make_record(prompt="a", sea=0.1), make_record(prompt="b", sea=0.0)]
    steered = [make_record("lqr", 1.0, "a", sea=0.4), make_record("lqr", 1.0, "a", sample=1, sea=1.0)]
    np.testing.assert_allclose(matched((base, steered), outcome("sea")), [[0.1, 0.4]])


def test_prompts_are_paired_by_name_and_not_by_place(make_record):
    base = [make_record(prompt="a", sea=0.0), make_record(prompt="b", sea=0.5)]
    steered = [make_record("lqr", 1.0, "b", sea=0.6), make_record("lqr", 1.0, "a", sea=0.2)]
    np.testing.assert_allclose(changes(steered, base, outcome("sea")), [0.2, 0.1])


def test_strengths_of_an_arm_ascend_and_the_unsteered_arm_is_left_out(make_record):
    records = [make_record("lqr", 1.0), make_record(), make_record("lqr", -0.5)]
    assert {arm: list(strengths) for arm, strengths in by_strength(records).items()} == {"lqr": [-0.5, 1.0]}


def test_a_run_without_unsteered_texts_is_refused(make_record):
    with pytest.raises(EdgeSteerError, match="no unsteered texts"):
        unsteered([make_record("lqr", 1.0)])


def test_a_judge_that_has_not_seen_a_text_is_named(make_record):
    with pytest.raises(EdgeSteerError, match=r"river: .*expected sea"):
        outcome("river")(make_record(sea=0.1))


def test_arms_without_a_common_prompt_are_refused(make_record):
    with pytest.raises(EdgeSteerError, match="share no prompt"):
        changes([make_record("lqr", 1.0, "a", sea=1.0)], [make_record(prompt="b", sea=0.0)], outcome("sea"))
