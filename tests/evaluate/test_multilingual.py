from __future__ import annotations

import math

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.judges.language import LanguageJudge
from edgesteer.evaluate.multilingual import (
    average,
    by_group,
    harmonic_mean,
    language_steering,
    relevances,
    section,
)
from edgesteer.evaluate.paired import outcome
from edgesteer.evaluate.report import report
from edgesteer.evaluate.suite import Suite, SuitePrompt

RELEVANCE = outcome("relevance")


def bag_of_letters(texts):
    return np.array([[text.count("a"), text.count("b")] for text in texts], dtype=np.float64)


def test_the_harmonic_mean_by_hand():
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)


def test_an_answer_in_no_wanted_language_or_about_nothing_is_worth_nothing():
    assert harmonic_mean(0.0, 1.0) == harmonic_mean(1.0, 0.0) == 0.0


def test_control_is_the_share_of_answers_in_the_language(make_record):
    scores = {"a": 1, "b": 0.9, "c": 0.6, "d": 0.4}
    records = [make_record(prompt=prompt, german=score, relevance=0.5) for prompt, score in scores.items()]
    found = language_steering(records, "german", RELEVANCE)
    assert found.n == 4
    assert found.control.value == 0.75
    assert found.relevance.value == 0.5
    assert found.score == pytest.approx(0.6)


def test_relevance_is_a_mean_over_prompts(make_record):
    records = [
        make_record(prompt="a", german=1, relevance=0.0),
        make_record(prompt="b", sample=0, german=1, relevance=0.6),
        make_record(prompt="b", sample=1, german=1, relevance=1.0),
    ]
    assert language_steering(records, "german", RELEVANCE).relevance.value == pytest.approx(0.4)


def test_relevance_is_the_cosine_of_answer_and_question(make_record):
    records = [make_record(prompt="q", sample=n, text=text) for n, text in enumerate(("aaaa", "ab", "bbb"))]
    value = relevances(records, {"q": "aa"}, bag_of_letters)
    assert [value(record) for record in records] == pytest.approx([1, math.sqrt(0.5), 0])


def test_an_opposite_or_empty_answer_has_no_relevance(make_record):
    records = [make_record(prompt="q", text="b"), make_record(prompt="q", sample=1, text=" ")]
    value = relevances(records, {"q": "a"}, lambda texts: np.array([[1.0 if text == "a" else -1.0] for text in texts]))
    assert [value(record) for record in records] == [0.0, 0.0]


def test_a_text_that_the_encoder_gives_no_length_has_no_relevance(make_record):
    record = make_record(prompt="q", text="xyz")
    assert relevances([record], {"q": "a"}, bag_of_letters)(record) == 0.0


def test_an_answer_to_an_unknown_question_is_refused(make_record):
    with pytest.raises(EdgeSteerError, match="q: no question"):
        relevances([make_record(prompt="q")], {}, bag_of_letters)


def test_every_language_has_the_same_weight_in_the_average(make_record):
    records = [make_record(prompt="a", group="fr", german=1, relevance=1.0)]
    records += [make_record(prompt=prompt, group="en", german=0, relevance=1.0) for prompt in "bcd"]
    groups = by_group(records, "german", RELEVANCE)
    assert list(groups) == ["en", "fr"]
    assert average(groups) == 0.5


def test_the_section_has_a_row_a_language_and_their_average(make_record):
    records = [
        make_record(arm, strength, group, group=group, german=german, relevance=0.5)
        for arm, strength, german in (("lqr", 1.0, 1), ("none", 0.0, 0))
        for group in ("en", "fr")
    ]
    lines = section(records, "german", RELEVANCE).splitlines()[-6:]
    assert [line.split(" | ")[:3] for line in lines] == [
        ["| none", "0", "en"],
        ["| none", "0", "fr"],
        ["| none", "0", "average"],
        ["| lqr", "1", "en"],
        ["| lqr", "1", "fr"],
        ["| lqr", "1", "average"],
    ]
    assert lines[2].endswith("| 0.00 |")
    assert lines[5].endswith("| 0.67 |")


SUITE = Suite("german", (SuitePrompt("q", "How do I bake bread?"),), (), "german")
ON_TOPIC = "Bread is baked in the oven."
OFF_TOPIC = "The committee met on Tuesday."


def test_the_report_of_a_language_has_relevance_by_the_encoder(make_record):
    texts = {"none": ON_TOPIC, "lqr": ON_TOPIC, "static": OFF_TOPIC}
    records = [make_record(arm, float(arm != "none"), "q", text=text, german=1) for arm, text in texts.items()]
    found = report(records, SUITE, [LanguageJudge("german", "de", 0.5)], "German")
    rows = [line.strip("| ").split(" | ") for line in found.split("## Language steering")[1].splitlines()]
    scores = {row[0]: float(row[-1]) for row in rows if row[0] in texts}
    assert scores["none"] == scores["lqr"] > scores["static"] + 0.3


def test_the_report_of_another_concept_has_no_part_on_languages(make_record):
    records = [make_record(arm, strength, "q", german=1) for arm, strength in (("none", 0.0), ("lqr", 1.0))]
    assert "Language steering" not in report(records, Suite("sea", (), (), "german"), [], "Sea")
