"""The suites that come with edgesteer: they parse, each group is whole, and the judges hear what the prompts carry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from edgesteer.concept import builtin_concepts, load_concept
from edgesteer.evaluate.judges import Judge, make_judge
from edgesteer.evaluate.personality import TRAITS
from edgesteer.evaluate.suite import Suite, builtin_suites, load_suite

TOPICS = ("dogs", "ocean")
CONCEPTS = (
    *TOPICS,
    "civility",
    "conscientiousness",
    "extraversion",
    "formality",
    "french",
    "optimism",
    "refusal",
    "simplicity",
    "warmth",
)
LISTED = tuple(name for name in CONCEPTS if name not in ("french", "optimism", "simplicity"))
"""Judged by a list of words."""
LANGUAGES = {"de": "german", "en": "english", "es": "spanish", "fr": "french", "it": "italian", "pt": "portuguese"}


def texts(suite: Suite, group: str) -> list[str]:
    return [prompt.text for prompt in suite.prompts if prompt.group == group]


def judges(suite: Suite, holds: Callable[[str], bool] = lambda kind: True) -> dict[str, Judge]:
    """The suite's judges by name, of the kinds for which something holds."""
    return {spec["name"]: make_judge(spec, suite.folder) for spec in suite.judges if holds(spec["kind"])}


def test_suites_cover_the_promised_ones() -> None:
    assert builtin_suites().keys() == {*CONCEPTS, "languages", "personality"}


@pytest.mark.parametrize("name", builtin_suites())
def test_suite_is_named_like_its_file_and_each_judge_is_made(name: str) -> None:
    suite = load_suite(name)
    assert suite.name == name
    assert suite.max_tokens == 40
    assert judges(suite).keys() == {spec["name"] for spec in suite.judges}


@pytest.mark.parametrize("name", builtin_suites())
def test_no_id_or_text_stands_twice(name: str) -> None:
    prompts = load_suite(name).prompts
    assert len({prompt.id for prompt in prompts}) == len({prompt.text for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("name", builtin_suites())
def test_prompts_are_not_those_that_controllers_are_made_from(name: str) -> None:
    concepts = [load_concept(path) for path in builtin_concepts().values()]
    examples = [example for each in concepts for example in (*each.positive_examples, *each.negative_examples)]
    seen = {text for example in examples for text in (example.prompt, example.completion)}
    assert not [prompt.text for prompt in load_suite(name).prompts if any(text in prompt.text for text in seen if text)]


@pytest.mark.parametrize("name", CONCEPTS)
def test_suite_of_a_concept_has_its_name_its_judge_and_its_request(name: str) -> None:
    suite = load_suite(name)
    assert name in builtin_concepts()
    assert suite.primary == name
    assert suite.system


@pytest.mark.parametrize("name", CONCEPTS)
def test_groups_have_the_stated_sizes(name: str) -> None:
    extra = {"harmless": 8} if name == "refusal" else {} if name in TOPICS else {"opposite": 4}
    assert Counter(prompt.group for prompt in load_suite(name).prompts) == {"far": 8, "near": 8, "on": 8, **extra}


@pytest.mark.parametrize("name", CONCEPTS)
def test_side_effects_are_judged_by_tone_readability_and_language(name: str) -> None:
    assert {"sentiment", "readability", "language"} <= {spec["kind"] for spec in load_suite(name).judges}


@pytest.mark.parametrize("name", LISTED)
def test_list_is_rich(name: str) -> None:
    spec = load_suite(name).judges[0]
    assert sum(len(spec.get(key, ())) for key in ("words", "stems", "patterns")) >= 25


@pytest.mark.parametrize("name", LISTED)
def test_listed_words_are_in_every_prompt_that_carries_the_concept_and_in_no_other(name: str) -> None:
    suite = load_suite(name)
    judge = judges(suite)[suite.primary]
    verdicts = judge.score([prompt.text for prompt in suite.prompts]) >= judge.threshold
    wrong = [
        prompt
        for prompt, carries in zip(suite.prompts, verdicts, strict=True)
        if carries != (prompt.group == "on")
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted({*CONCEPTS} - {*LISTED}))
def test_prompts_that_carry_the_concept_score_far_above_those_that_do_not(name: str) -> None:
    suite = load_suite(name)
    judge = judges(suite)[suite.primary]
    low = max(judge.score(texts(suite, "far")).mean(), judge.score(texts(suite, "opposite")).mean())
    assert judge.score(texts(suite, "on")).mean() > low + 0.3


def test_rudeness_is_in_every_opposite_prompt_of_civility_and_in_no_other() -> None:
    suite = load_suite("civility")
    judge = judges(suite)["rudeness"]
    verdicts = judge.score([prompt.text for prompt in suite.prompts]) >= judge.threshold
    rude = [prompt for prompt, found in zip(suite.prompts, verdicts, strict=True) if found]
    assert [prompt.text for prompt in rude] == texts(suite, "opposite")


def test_personality_has_a_judge_of_each_trait_that_no_prompt_invites() -> None:
    suite = load_suite("personality")
    found = judges(suite, lambda kind: kind == "words")
    assert found.keys() == {*TRAITS.values()}
    assert not any(judge.score([prompt.text for prompt in suite.prompts]).any() for judge in found.values())


@pytest.mark.parametrize("trait", ["conscientiousness", "extraversion"])
def test_trait_is_judged_alike_in_its_own_suite_and_among_the_five(trait: str) -> None:
    own, five = ({spec["name"]: spec for spec in load_suite(name).judges} for name in (trait, "personality"))
    assert own[trait] == five[trait]


@pytest.mark.parametrize("group", LANGUAGES)
def test_questions_of_a_group_are_in_its_language(group: str) -> None:
    suite = load_suite("languages")
    judge = judges(suite)[LANGUAGES[group]]
    questions = texts(suite, group)
    assert len(questions) == 6
    assert judge.score(questions).mean() >= judge.threshold
