"""The contrast sets: every form of the file, every way in which a file can be wrong, the built-in data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgesteer.concept import Example, builtin_concepts, load_concept, load_neutral, resolve_concept
from edgesteer.errors import ConceptError

HEADER = 'name = "warmth"\npositive = "warm"\nnegative = "cold"\n'
PAIRS = """
[[pairs]]
prompt = "How are you?"
positive = "Lovely, my friend!"
negative = "Adequate."

[[pairs]]
prompt = "Where is the station?"
positive = "Happy to help: just round the corner!"
negative = "Round the corner."
"""
LISTS = """
[lists]
positive = ["What a joy.", "Dear all!"]
negative = ["Noted.", "To whom it may concern."]
"""
JSONL_HEADER = {"name": "warmth", "positive": "warm", "negative": "cold"}
JSONL_ROWS = [
    {"pole": "warm", "prompt": "How are you?", "completion": "Lovely!"},
    {"pole": "warm", "completion": "Dear all!"},
    {"pole": "cold", "prompt": "How are you?", "completion": "Adequate."},
    {"pole": "cold", "system": "You are a clerk.", "prompt": "Hello", "completion": "Noted."},
]
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_file(text: str, name: str = "concept.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def jsonl(*rows: object) -> str:
    return "\n".join(json.dumps(row) for row in rows)


# --- the forms of the file


@pytest.mark.parametrize("one_way", [True, False])
def test_a_concept_may_be_steered_one_way_only(write: Write, one_way: bool) -> None:
    text = f"{HEADER}one_way = {str(one_way).lower()}\n{PAIRS}"
    assert load_concept(write(text)).one_way is one_way
    rows = jsonl({**JSONL_HEADER, "one_way": one_way}, *JSONL_ROWS)
    assert load_concept(write(rows, "concept.jsonl")).one_way is one_way


def test_one_way_is_yes_or_no(write: Write) -> None:
    with pytest.raises(ConceptError, match="one_way is not true or false"):
        load_concept(write(f"{HEADER}one_way = 1\n{PAIRS}"))


def test_whoever_steers_away_from_a_safe_pole_needs_a_concept_of_his_own() -> None:
    one_way = {name for name, path in builtin_concepts().items() if load_concept(path).one_way}
    assert one_way == {"refusal", "civility"}


def test_pairs_give_one_example_to_each_pole(write: Write) -> None:
    concept = load_concept(write(HEADER + PAIRS))
    assert (concept.name, concept.positive, concept.negative) == ("warmth", "warm", "cold")
    assert concept.positive_examples[0] == Example("How are you?", "Lovely, my friend!")
    assert concept.negative_examples[0] == Example("How are you?", "Adequate.")


def test_lists_are_plain_texts_without_a_prompt(write: Write) -> None:
    concept = load_concept(write(HEADER + LISTS))
    assert concept.positive_examples == (Example("", "What a joy."), Example("", "Dear all!"))
    assert concept.negative_examples == (Example("", "Noted."), Example("", "To whom it may concern."))


def test_template_fills_the_product_of_shared_and_own_slots(write: Write) -> None:
    concept = load_concept(write(HEADER + """
[template]
system = "You are {persona}."
prompt = "Talk about {topic}."
completion = "{opening} {topic}"

[template.slots]
topic = ["tea", "rain"]
opening = ["I think that"]

[template.positive]
persona = ["a kind host", "an old friend"]

[template.negative]
persona = ["a clerk"]
"""))
    assert concept.positive_examples == (
        Example("Talk about tea.", "I think that tea", "You are a kind host."),
        Example("Talk about tea.", "I think that tea", "You are an old friend."),
        Example("Talk about rain.", "I think that rain", "You are a kind host."),
        Example("Talk about rain.", "I think that rain", "You are an old friend."),
    )
    assert concept.negative_examples == (
        Example("Talk about tea.", "I think that tea", "You are a clerk."),
        Example("Talk about rain.", "I think that rain", "You are a clerk."),
    )


def test_slot_values_are_not_expanded_again(write: Write) -> None:
    concept = load_concept(write(HEADER + """
[template]
completion = "{text}"
[template.positive]
text = ["{text} stays", "b"]
[template.negative]
text = ["c", "d"]
"""))
    assert concept.positive_examples[0].completion == "{text} stays"


def test_forms_add_up_in_one_file(write: Write) -> None:
    concept = load_concept(write(HEADER + PAIRS + LISTS))
    assert [example.prompt for example in concept.negative_examples] == [
        "How are you?", "Where is the station?", "", "",
    ]


def test_jsonl_reads_one_text_a_line(write: Write) -> None:
    concept = load_concept(write(jsonl(JSONL_HEADER, *JSONL_ROWS), "concept.jsonl"))
    assert concept.positive_examples == (Example("How are you?", "Lovely!"), Example("", "Dear all!"))
    assert concept.negative_examples[1] == Example("Hello", "Noted.", "You are a clerk.")


def test_system_turn_of_a_pair_belongs_to_both_poles(write: Write) -> None:
    concept = load_concept(write(HEADER + PAIRS.replace("[[pairs]]", '[[pairs]]\nsystem = "Be brief."')))
    assert {e.system for e in concept.positive_examples + concept.negative_examples} == {"Be brief."}


def test_same_completion_in_both_poles_is_allowed_under_different_personas(write: Write) -> None:
    concept = load_concept(write(HEADER + """
[template]
prompt = "Speak as {persona}."
completion = "{opening}"
[template.slots]
opening = ["Well,", "So,"]
[template.positive]
persona = ["a kind host"]
[template.negative]
persona = ["a clerk"]
"""))
    for examples in (concept.positive_examples, concept.negative_examples):
        assert [example.completion for example in examples] == ["Well,", "So,"]


# --- the hash


def test_hash_ignores_comments_and_form(write: Write) -> None:
    rows = [
        {"pole": "warm", "completion": "What a joy."},
        {"pole": "warm", "completion": "Dear all!"},
        {"pole": "cold", "completion": "Noted."},
        {"pole": "cold", "completion": "To whom it may concern."},
    ]
    from_toml = load_concept(write("# a comment\n" + HEADER + LISTS))
    from_jsonl = load_concept(write(jsonl(JSONL_HEADER, *rows), "concept.jsonl"))
    assert from_toml == from_jsonl
    assert len(from_toml.sha256) == 64


@pytest.mark.parametrize(("old", "new"), [
    ("Noted.", "Noted!"), ('"warmth"', '"heat"'), ('"cold"', '"cool"'),
])
def test_hash_changes_with_every_name_and_text(write: Write, old: str, new: str) -> None:
    before = load_concept(write(HEADER + LISTS)).sha256
    after = load_concept(write((HEADER + LISTS).replace(old, new))).sha256
    assert before != after


# --- files that are wrong


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConceptError, match=r"absent\.toml: the file cannot be read"):
        load_concept(tmp_path / "absent.toml")


def test_file_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('name = "wärme"'.encode("latin-1"))
    with pytest.raises(ConceptError, match="not UTF-8"):
        load_concept(path)


def test_unknown_suffix_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match=r"expected \.toml or \.jsonl; found \.yaml"):
        load_concept(write("", "concept.yaml"))


def test_broken_toml_is_refused_with_its_line(write: Write) -> None:
    with pytest.raises(ConceptError, match=r"not valid TOML.*line 4"):
        load_concept(write(HEADER + "pairs = = 3\n"))


def test_broken_jsonl_is_refused_with_its_line(write: Write) -> None:
    with pytest.raises(ConceptError, match="line 3: not valid JSON"):
        load_concept(write(jsonl(JSONL_HEADER, JSONL_ROWS[0]) + '\n{"pole": ', "concept.jsonl"))


def test_jsonl_without_header_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match='line 1: unknown key "pole"; expected one of name, positive'):
        load_concept(write(jsonl(*JSONL_ROWS), "concept.jsonl"))


def test_empty_jsonl_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match="the file is empty"):
        load_concept(write("\n", "concept.jsonl"))


def test_jsonl_line_of_an_unknown_pole_is_refused(write: Write) -> None:
    row = {"pole": "hot", "completion": "Ouch."}
    with pytest.raises(ConceptError, match="line 2: unknown pole; expected warm or cold; found hot"):
        load_concept(write(jsonl(JSONL_HEADER, row), "concept.jsonl"))


def test_missing_pole_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match='pole "cold" has too few texts; expected at least 2; found 0'):
        load_concept(write(HEADER + '[lists]\npositive = ["a", "b"]'))


def test_single_text_in_a_pole_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match='pole "warm" has too few texts; expected at least 2; found 1'):
        load_concept(write(HEADER + '[lists]\npositive = ["a"]\nnegative = ["b", "c"]'))


def test_empty_completion_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match=r"lists\.negative 2: completion is empty"):
        load_concept(write(HEADER + '[lists]\npositive = ["a", "b"]\nnegative = ["c", " "]'))


def test_blank_prompt_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match=r"pairs 1: prompt is empty\. Leave the key out for plain text\."):
        load_concept(write(HEADER + PAIRS.replace("How are you?", " ")))


def test_repeated_text_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match=r"positive 2: the text is repeated; found first at .*positive 1"):
        load_concept(write(HEADER + '[lists]\npositive = ["a", "a"]\nnegative = ["c", "d"]'))


def test_text_in_both_poles_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match=r"negative 1: the same text is in both poles"):
        load_concept(write(HEADER + '[lists]\npositive = ["a", "b"]\nnegative = ["a", "d"]'))


@pytest.mark.parametrize(("text", "message"), [
    (HEADER + 'color = "red"' + LISTS,
     'unknown key "color"; expected one of name, positive, negative, one_way, pairs, lists, template'),
    (HEADER + PAIRS + 'answer = "x"',
     'pairs 2: unknown key "answer"; expected one of positive, negative, prompt, system'),
    (HEADER + LISTS + 'neutral = ["x"]', 'lists: unknown key "neutral"; expected one of positive, negative'),
    (HEADER + '[template]\ncompletion = "a"\nslot = "b"', 'template: unknown key "slot"'),
])
def test_unknown_key_is_refused_with_the_allowed_ones(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConceptError, match=message):
        load_concept(write(text))


def test_missing_key_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match='key "name" is missing'):
        load_concept(write(HEADER.replace('name = "warmth"\n', "") + LISTS))


def test_slot_that_is_not_defined_is_refused(write: Write) -> None:
    text = HEADER + '[template]\ncompletion = "{mood} {topic}"\n[template.slots]\ntopic = ["tea"]'
    with pytest.raises(ConceptError, match=r"slot \{mood\} is used but not defined; expected one of topic"):
        load_concept(write(text))


def test_slot_that_is_not_used_is_refused(write: Write) -> None:
    text = HEADER + '[template]\ncompletion = "{topic}"\n[template.slots]\ntopic = ["tea"]\nmood = ["calm"]'
    with pytest.raises(ConceptError, match=r"slot \{mood\} is defined but not used"):
        load_concept(write(text))


def test_equal_pole_names_are_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match="the two poles have the same name; found warm"):
        load_concept(write(HEADER.replace("cold", "warm") + LISTS))


@pytest.mark.parametrize(("text", "message"), [
    (HEADER + "pairs = 3", "pairs: not a list; found int"),
    (HEADER + 'pairs = ["a"]', "pairs 1: not a table of keys and values; found str"),
    (HEADER + "[lists]\npositive = [3]", r"lists\.positive 1: completion is not a text; found int"),
    (HEADER + '[template]\ncompletion = "{a}"\nslots = {a = "tea"}', r"slots\.a: not a list; found str"),
])
def test_value_of_the_wrong_type_is_refused(write: Write, text: str, message: str) -> None:
    with pytest.raises(ConceptError, match=message):
        load_concept(write(text))


# --- neutral texts


def test_neutral_texts_are_read_from_a_given_file(write: Write) -> None:
    path = write('[[texts]]\nprompt = "Why?"\ncompletion = "Because."\n[[texts]]\ncompletion = "Plain."')
    assert load_neutral(path) == (Example("Why?", "Because."), Example("", "Plain."))


def test_neutral_file_with_an_unknown_key_is_refused(write: Write) -> None:
    with pytest.raises(ConceptError, match='unknown key "pairs"; expected one of texts'):
        load_neutral(write("pairs = []"))


def test_builtin_neutral_texts_are_chats_and_in_no_concept() -> None:
    neutral = load_neutral()
    assert len(neutral) >= 48
    assert all(example.prompt for example in neutral)
    contrast = {
        example.completion
        for concept in map(load_concept, builtin_concepts().values())
        for example in concept.positive_examples + concept.negative_examples
    }
    assert contrast.isdisjoint(example.completion for example in neutral)


# --- the built-in concepts


def test_builtin_concepts_cover_the_promised_ones() -> None:
    topics, tone = {"ocean", "dogs"}, {"warmth", "optimism", "civility"}
    register = {"formality", "simplicity", "verbosity"}
    traits = {"openness", "conscientiousness", "extraversion", "agreeableness", "calmness"}
    assert {*topics, *tone, *register, *traits, "french", "refusal"} == builtin_concepts().keys()


@pytest.mark.parametrize("name", builtin_concepts())
def test_builtin_concept_is_named_like_its_file_and_large_enough(name: str) -> None:
    concept = load_concept(resolve_concept(name))
    assert concept.name == name
    assert min(len(concept.positive_examples), len(concept.negative_examples)) >= 40


@pytest.mark.parametrize("name", builtin_concepts())
def test_builtin_completions_are_all_different(name: str) -> None:
    concept = load_concept(resolve_concept(name))
    completions = [example.completion for example in concept.positive_examples + concept.negative_examples]
    assert len(set(completions)) == len(completions)


@pytest.mark.parametrize("name", sorted(builtin_concepts().keys() - {"verbosity"}))
def test_builtin_poles_do_not_differ_in_length(name: str) -> None:
    concept = load_concept(resolve_concept(name))
    positive, negative = (
        sum(len(example.completion.split()) for example in examples) / len(examples)
        for examples in (concept.positive_examples, concept.negative_examples)
    )
    assert positive == pytest.approx(negative, rel=0.1)


def test_path_resolves_to_itself(write: Write) -> None:
    path = write(HEADER + LISTS)
    assert resolve_concept(str(path)) == path


def test_unknown_name_is_refused_with_the_builtin_ones() -> None:
    with pytest.raises(ConceptError, match=r"warmht: no such concept.*a file or one of .*dogs,.*warmth"):
        resolve_concept("warmht")
