"""Which prompts and which judge a controller is tuned with."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesteer.concept import builtin_concepts, load_concept, load_neutral
from edgesteer.controller import Controller, Provenance
from edgesteer.errors import SuiteError
from edgesteer.evaluate.suite import builtin_suites, load_suite
from edgesteer.tune.subject import held_out, same_text, subject_of, tuning_suite


@pytest.fixture
def controller(make_controller: Any) -> Controller:
    return make_controller(4, 8, name="unheard-of")  # type: ignore[no-any-return]


def made_from(controller: Controller, concept: str) -> Controller:
    digest = load_concept(builtin_concepts()[concept]).sha256
    return replace(controller, provenance=Provenance(concept_sha256=digest))


def test_a_builtin_concept_has_the_suite_of_its_name_whatever_the_controller_is_called(controller: Controller) -> None:
    suite, judge = subject_of(made_from(controller, "ocean"), max_tokens=9)
    assert (suite.name, judge.name, suite.max_tokens) == ("ocean", "ocean", 9)


def test_a_suite_that_is_named_comes_first(controller: Controller) -> None:
    suite, judge = subject_of(made_from(controller, "ocean"), suite="dogs", max_tokens=99)
    assert (suite.name, judge.name, suite.max_tokens) == ("dogs", "dogs", 40)


def test_a_concept_without_a_suite_gets_a_judge_of_its_own_texts(controller: Controller) -> None:
    concept = load_concept(builtin_concepts()["calmness"])
    suite, judge = subject_of(controller, concept=concept, max_tokens=9)
    assert judge.name == suite.primary == "calmness"
    assert judge.accuracy is not None
    assert judge.accuracy.value > 0.7
    calm, anxious = judge.score(["I breathe slowly and feel at ease.", "I panic and worry, what if it all goes wrong?"])
    assert calm > anxious


def test_without_suite_and_concept_there_is_nothing_to_measure_with(controller: Controller) -> None:
    with pytest.raises(SuiteError, match="nothing to measure the effect with"):
        subject_of(controller, max_tokens=9)


def test_prompts_that_the_controller_was_made_from_are_left_out(tmp_path: Path) -> None:
    ocean = load_concept(builtin_concepts()["ocean"])
    suite = load_suite("ocean")
    stolen = replace(suite.prompts[0], text=f" {ocean.positive_examples[0].completion.upper()} ")
    mixed = replace(suite, prompts=(stolen, *suite.prompts[1:]))
    assert held_out(mixed, ocean).prompts == suite.prompts[1:]
    with pytest.raises(SuiteError, match="made from all of the prompts"):
        held_out(replace(suite, prompts=(stolen,)), ocean)


def test_our_own_prompts_stand_in_no_concept_in_no_suite_and_not_in_neutral_text() -> None:
    concepts = [load_concept(path) for path in builtin_concepts().values()]
    texts = [each for concept in concepts for each in (*concept.positive_examples, *concept.negative_examples)]
    taken = {same_text(text) for each in (*texts, *load_neutral()) for text in (each.prompt, each.completion)}
    taken |= {same_text(prompt.text) for name in builtin_suites() for prompt in load_suite(name).prompts}
    own = [same_text(prompt.text) for prompt in tuning_suite(concepts[0]).prompts]
    assert len(own) == len(set(own)) >= 30
    assert not taken & set(own)
