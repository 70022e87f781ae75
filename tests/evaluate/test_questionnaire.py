from __future__ import annotations

import math

import numpy as np
import pytest

from edgesteer.errors import SuiteError
from edgesteer.evaluate.questionnaire import (
    OPTIONS,
    Item,
    as_choices,
    balance,
    compare,
    points,
    question,
    read_items,
    scores_table,
)

AGREE = Item("Make friends easily", "extraversion", 1)
DISAGREE = Item("Keep in the background", "extraversion", -1)
WORRY = Item("Worry about things", "neuroticism", 1)
SURE_YES = [0.0, -50, -50, -50, -50]
EVEN = [-1.0] * 5


def test_an_item_counts_against_its_trait_when_its_key_is_negative():
    np.testing.assert_allclose(points([AGREE, DISAGREE], [SURE_YES, SURE_YES]), [5, 1], atol=1e-9)


def test_a_model_without_a_preference_answers_in_the_middle():
    np.testing.assert_allclose(points([AGREE, DISAGREE], [EVEN, EVEN]), [3, 3])


def test_the_expected_answer_weighs_the_options():
    two_to_one = [math.log(2), 0.0, -np.inf, -np.inf, -np.inf]
    np.testing.assert_allclose(points([AGREE], [two_to_one]), [(2 * 5 + 4) / 3])


def test_a_model_that_agrees_with_everything_moves_no_trait():
    (found,) = compare([AGREE, AGREE, DISAGREE], [EVEN] * 3, [SURE_YES] * 3)
    assert (found.before, found.after, found.change.value) == pytest.approx((3, 3, 0))


def test_items_of_either_key_weigh_the_same_together():
    np.testing.assert_allclose(balance(np.array([1, 1, -1])), [0.75, 0.75, 1.5])
    np.testing.assert_allclose(balance(np.array([1, 1])), [1, 1])


def test_a_trait_moves_by_points_paired_over_its_items():
    extraversion, neuroticism = compare([AGREE, WORRY], [EVEN, EVEN], [SURE_YES, EVEN])
    assert (extraversion.trait, extraversion.n) == ("extraversion", 1)
    assert (extraversion.before, extraversion.after) == pytest.approx((3, 5))
    assert extraversion.change.value == pytest.approx(2.0)
    assert neuroticism.change.value == 0.0


def test_an_item_has_a_choice_for_every_option_after_the_same_question():
    (found,) = as_choices([AGREE])
    assert {choice.context for choice in found.choices} == {question(AGREE)}
    assert tuple(choice.continuation for choice in found.choices) == tuple(f" {option}" for option in OPTIONS)
    assert '"You make friends easily."' in question(AGREE)


def test_a_row_of_the_table_reads_before_after_and_change():
    table = scores_table(compare([AGREE, DISAGREE], [EVEN] * 2, [SURE_YES, EVEN]))
    assert table.rows[0][:5] == ["extraversion", "2", "3.00", "4.00", "+1.000"]


ITEMS = """\
label_raw,text,label_ocean,key
Trust,"Love children, and dogs",A,1
Anxiety,Worry about things,N,1
Anxiety,Fear the worst,N,-1
"""


def test_items_are_read_in_the_order_of_the_traits(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(ITEMS)
    assert read_items(path) == [
        Item("Love children, and dogs", "agreeableness", 1),
        WORRY,
        Item("Fear the worst", "neuroticism", -1),
    ]


def test_a_limit_is_for_each_trait_and_key(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text(ITEMS + "Anxiety,Get stressed out easily,N,1\n")
    found = [(item.trait, item.key) for item in read_items(path, limit=1)]
    assert found == [("agreeableness", 1), ("neuroticism", 1), ("neuroticism", -1)]


@pytest.mark.parametrize("row", ["Worry,X,1", "Worry,N,2", " ,N,1", "Worry,N"])
def test_a_row_that_is_no_item_is_named(tmp_path, row):
    path = tmp_path / "items.csv"
    path.write_text(f"text,label_ocean,key\nWorry,N,1\n{row}\n")
    with pytest.raises(SuiteError, match="row 2: not an item"):
        read_items(path)


@pytest.mark.parametrize("content", [b"text,label_ocean,key\n", b"", b"\xff\xfe\x00"])
def test_a_file_without_items_is_refused(tmp_path, content):
    path = tmp_path / "items.csv"
    path.write_bytes(content)
    with pytest.raises(SuiteError, match=r"items\.csv"):
        read_items(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(SuiteError, match=r"none\.csv"):
        read_items(tmp_path / "none.csv")
