"""Where sentences end."""

from __future__ import annotations

import pytest

from edgesteer.evaluate.judges.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("Hi! How are you?", ["Hi!", "How are you?"]),
        ("It rained. Then the sun", ["It rained.", "Then the sun"]),
        ("Wait... what?! Yes", ["Wait...", "what?!", "Yes"]),
        ('He said "no." She left.', ['He said "no."', "She left."]),
        ("It costs 3.50 at a.com now", ["It costs 3.50 at a.com now"]),
        ("Mr. Smith met J. Doe, i.e. me. Good.", ["Mr. Smith met J. Doe, i.e. me.", "Good."]),
        ("So do I. And you?", ["So do I.", "And you?"]),
        ("今日は海へ行く。楽しい？はい", ["今日は海へ行く。", "楽しい？", "はい"]),
        ("他说：“好。”我走了", ["他说：“好。”", "我走了"]),
        ("नमस्ते। आप", ["नमस्ते।", "आप"]),
    ],
)
def test_a_sentence_ends_at_its_punctuation_or_with_the_text(text: str, sentences: list[str]) -> None:
    assert split_sentences(text) == sentences


def test_a_line_is_a_sentence_and_what_holds_no_letter_is_none() -> None:
    assert split_sentences("# Plans\n\n1. Walk\n2. **Swim!**\n---\n12 %") == ["# Plans", "Walk", "**Swim!**"]


@pytest.mark.parametrize("text", ["", " \n", "...", "1. 2. 3.", "🙂"])
def test_a_text_without_letters_has_no_sentences(text: str) -> None:
    assert split_sentences(text) == []


def test_no_letter_is_lost() -> None:
    text = "One. Two! 三。 Four\nfive (six.) Seven?"
    assert "".join(split_sentences(text)).replace(" ", "") == text.replace(" ", "").replace("\n", "")
