"""Chat templates: what is rendered, whose BOS counts, and what a template that misbehaves may do."""

from __future__ import annotations

from typing import Any

import pytest

from edgesteer.chat import ChatTemplate, conversation, merge_system
from edgesteer.errors import ModelError

PLAIN = (
    "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}[me] {% endif %}"
)


def template(source: str | None, *, bos: str = "<s>", adds_bos: bool = False) -> ChatTemplate:
    return ChatTemplate(source, bos=bos, eos="</s>", adds_bos=adds_bos)


def test_user_turn_is_rendered() -> None:
    assert template(PLAIN).render(conversation("Hello")) == "[user] Hello\n[me] "


def test_system_turn_comes_first() -> None:
    assert template(PLAIN).render(conversation("Hello", "Be kind.")) == "[system] Be kind.\n[user] Hello\n[me] "


def test_generation_prompt_can_be_left_out() -> None:
    assert template(PLAIN).render(conversation("Hello"), add_generation_prompt=False) == "[user] Hello\n"


def test_special_tokens_are_available() -> None:
    assert template("{{ bos_token }}x{{ eos_token }}").render(conversation("")) == "<s>x</s>"


def test_bos_of_the_template_is_dropped_when_the_tokenizer_adds_one() -> None:
    both = "{{ bos_token }}{{ bos_token }}x"
    assert template(both, adds_bos=True).render(conversation("")) == "<s>x"
    assert template(both, adds_bos=False).render(conversation("")) == "<s><s>x"
    assert template(both, bos="", adds_bos=True).render(conversation("")) == "x"


def test_blocks_are_trimmed_as_templates_expect() -> None:
    source = "{% for m in messages %}\n    {% if true %}\n{{ m.content }}\n    {% endif %}\n{% endfor %}\n"
    assert template(source).render(conversation("Hello")) == "Hello\n"


def test_loops_can_be_left() -> None:
    assert template("{% for i in range(9) %}{{ i }}{% break %}{% endfor %}").render(conversation("")) == "0"


def test_date_is_available() -> None:
    year = template("{{ strftime_now('%Y') }}").render(conversation(""))
    assert year.isdigit()
    assert len(year) == 4


REFUSING = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + PLAIN


def test_system_turn_that_is_refused_is_merged_into_the_users() -> None:
    assert template(REFUSING).render(conversation("Hello", "Be kind.")) == "[user] Be kind.\n\nHello\n[me] "


def test_merging_keeps_later_turns() -> None:
    later = {"role": "assistant", "content": "Hi"}
    merged = merge_system([*conversation("Hello", "Be kind."), later])
    assert merged == [{"role": "user", "content": "Be kind.\n\nHello"}, later]


@pytest.mark.parametrize("words", ["Hello", "me", "user", "] ", "x\ny", ""])
@pytest.mark.parametrize("system", ["", "user me Hello"])
def test_users_words_are_found_even_when_the_template_has_them_too(words: str, system: str) -> None:
    before, found, after = template(PLAIN).render_turn(words, system)
    assert before == (f"[system] {system}\n[user] " if system else "[user] ")
    assert (found, after) == (words, "\n[me] ")


def test_words_that_the_template_trims_are_found_trimmed() -> None:
    source = "<{{ messages[0].content | trim }}>"
    assert template(source).render_turn("  a b ") == ("<", "a b", ">")


TURNS = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "me] x"},
    {"role": "assistant", "content": " [user] "},
    {"role": "user", "content": "海 é"},
]


def words_of(source: str, messages: list[dict[str, str]]) -> list[str]:
    text, spans = template(source).render_spans(messages)
    assert text == template(source).render(messages)
    return [text[start:end] for start, end in spans]


def test_the_words_of_every_turn_are_found() -> None:
    assert words_of(PLAIN, TURNS) == [turn["content"] for turn in TURNS]


def test_words_are_found_in_a_template_that_merges_the_system_turn() -> None:
    assert words_of(REFUSING, TURNS) == [turn["content"] for turn in TURNS]


def test_words_that_the_template_changes_are_found_changed() -> None:
    source = "{% for m in messages %}<{{ m.content.split('|')[-1] }}>{% endfor %}"
    thoughtful = {"role": "assistant", "content": "hidden|said"}
    assert words_of(source, [TURNS[1], thoughtful, TURNS[3]]) == ["me] x", "said", "海 é"]


def test_a_turn_that_the_template_leaves_out_has_no_words() -> None:
    source = "{% for m in messages if m.role == 'user' %}<{{ m.content }}>{% endfor %}"
    assert words_of(source, TURNS) == ["", "me] x", "", "海 é"]


def test_model_without_a_template_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"no chat template.*--raw"):
        template(None).render(conversation("Hello"))


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "Expected an expression"),
        ("{{ no_such_thing() }}", "'no_such_thing' is undefined"),
        ("{{ 1 // 0 }}", "division"),
        ("{{ messages + 1 }}", "can only concatenate"),
    ],
)
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_template_that_fails_is_an_error(source: str, reason: str, system: str) -> None:
    with pytest.raises(ModelError, match="chat template cannot render") as caught:
        template(source).render(conversation("Hello", system))
    assert reason in str(caught.value)


@pytest.mark.parametrize("source", ["{{ messages.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_template_cannot_leave_its_sandbox(source: str) -> None:
    with pytest.raises(ModelError, match="chat template cannot render"):
        template(source).render(conversation("Hello"))


@pytest.mark.torch
@pytest.mark.parametrize("system", ["", "Be kind."])
def test_rendering_agrees_with_transformers(tiny_torch: Any, system: str) -> None:
    theirs = tiny_torch.tokenizer.apply_chat_template(
        conversation("Hello", system), tokenize=False, add_generation_prompt=True
    )
    assert tiny_torch.chat.render(conversation("Hello", system)) == theirs
