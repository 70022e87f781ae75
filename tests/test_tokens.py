"""Which tokens a text becomes, with a tokenizer that makes a token of each character."""

from __future__ import annotations

import numpy as np
import pytest

from edgesteer.chat import ChatTemplate
from edgesteer.concept import Example
from edgesteer.control.activations import Activations
from edgesteer.errors import ConceptError
from edgesteer.tokens import (
    ExampleTokens,
    check_completions,
    completion_rows,
    neutral_parts,
    neutral_rows,
    tokenize_example,
)

CHAT = ChatTemplate(
    "{% for m in messages %}[{{ m['role'][0] }}:{{ m['content'] }}]{% endfor %}>", bos="^", eos="$", adds_bos=False
)
NO_CHAT = ChatTemplate(None, bos="^", eos="$", adds_bos=False)


def characters(text: str) -> list[int]:
    return [ord(each) for each in text]


def tokenized(example: Example, chat: ChatTemplate = CHAT, bos: int | None = None) -> tuple[str, str, str]:
    """Return the whole text, its completion and the user's words, spelled."""
    found = tokenize_example(example, chat, bos, characters)
    text = "".join(map(chr, found.tokens))
    return text, text[found.completion_start :], text[found.words]


def test_a_turn_and_its_answer_stand_in_the_chat_template() -> None:
    assert tokenized(Example("hi", "yo")) == ("[u:hi]>yo", "yo", "hi")


def test_a_system_turn_comes_before() -> None:
    assert tokenized(Example("hi", "yo", system="be")) == ("[s:be][u:hi]>yo", "yo", "hi")


def test_bos_is_counted_where_there_is_one() -> None:
    assert tokenized(Example("hi", "yo"), bos=ord("^")) == ("^[u:hi]>yo", "yo", "hi")


def test_without_a_template_the_completion_goes_on_after_a_space() -> None:
    assert tokenized(Example("hi", "yo"), NO_CHAT) == ("hi yo", " yo", "hi")


def test_the_first_token_of_a_plain_text_is_no_completion() -> None:
    assert tokenized(Example("", "yo")) == ("yo", "o", "")
    assert tokenized(Example("", "yo"), bos=ord("^")) == ("^yo", "yo", "")


def test_completion_without_tokens_is_refused() -> None:
    examples = [Example("hi", "yo"), Example("hi", "")]
    texts = [tokenize_example(each, CHAT, None, characters) for each in examples]
    check_completions(examples[:1], texts[:1])
    with pytest.raises(ConceptError, match="a completion has no tokens; found ''"):
        check_completions(examples, texts)


def test_neutral_text_is_taken_apart_into_completions_and_words() -> None:
    """Of two texts of 8 and 6 tokens: words at 2, 3 and at 1, completions from 5 and from 4 on."""
    texts = [ExampleTokens(list(range(8)), 5, slice(2, 4)), ExampleTokens(list(range(6)), 4, slice(1, 2))]
    rows = [range(len(each.tokens))[neutral_rows(each)] for each in texts]
    position = np.concatenate([np.array(each) for each in rows])
    text = np.repeat([0, 1], [len(each) for each in rows])
    completions, words = neutral_parts(Activations.of(np.zeros((len(text), 1, 1), "f4"), text, position), texts)
    assert completions.position.tolist() == [5, 6, 7, 4, 5]
    assert words.position.tolist() == [2, 3, 1]
    assert [len(range(8)[completion_rows(texts[0])]), len(range(6)[completion_rows(texts[1])])] == [3, 2]
