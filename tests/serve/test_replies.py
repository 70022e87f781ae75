"""The shapes of answers, by hand."""

from __future__ import annotations

import math

import pytest

from edgesteer.runtime.sampling import TokenLogprob
from edgesteer.runtime.sequence import Generation, Piece, Timings
from edgesteer.runtime.telemetry import Reading
from edgesteer.serve.replies import ChatReply, TextLogprobs, TextReply, chat_logprobs, spell, usage_of


def generation(text: str = "hi", reason: str = "end", tokens: int = 2, prompt: int = 5, cached: int = 3) -> Generation:
    return Generation(text, [1] * tokens, reason, Timings(prompt, 10.0, tokens, 20.0, cached), [])


@pytest.mark.parametrize(
    ("reason", "finish"),
    [("end", "stop"), ("stop", "stop"), ("length", "length"), ("context", "length"), ("cancelled", "length")],
)
def test_every_end_of_a_text_has_openais_word(reason: str, finish: str) -> None:
    body = ChatReply("m").body([generation(reason=reason)], {})
    assert body["choices"][0]["finish_reason"] == finish


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"the", "the"), ("é".encode(), "é"), (b"", ""), (b"\xe2\x82", r"bytes:\xe2\x82"), (b"a\xff", r"bytes:\x61\xff")],
)
def test_bytes_that_are_no_characters_are_spelt(data: bytes, text: str) -> None:
    assert spell(data) == text


def test_offsets_count_characters_also_when_they_are_split_over_tokens() -> None:
    pieces = [b"a", b"\xe2\x82", b"\xac", b"b"]  # a, the euro sign in two tokens, b
    shape = TextLogprobs().take([TokenLogprob(0, piece, -1.0) for piece in pieces])
    assert shape["text_offset"] == [0, 1, 1, 2]


def test_a_token_that_cannot_come_has_openais_least_log_probability() -> None:
    top = [TokenLogprob(1, b"a", -0.5), TokenLogprob(2, b"b", -math.inf)]
    shape = chat_logprobs([TokenLogprob(1, b"a", -0.5, top)])
    assert shape["content"][0]["bytes"] == [97]
    assert [each["logprob"] for each in shape["content"][0]["top_logprobs"]] == [-0.5, -9999.0]


def test_text_that_is_held_back_is_no_chunk_unless_more_was_asked_for() -> None:
    held = Piece("", 5, {}, None, None)
    assert list(TextReply("m").chunks(0, held)) == []
    assert len(list(TextReply("m", telemetry=True).chunks(0, held))) == 1
    assert len(list(TextReply("m").chunks(0, Piece("", 5, {}, TokenLogprob(5, b"a", -1.0), None)))) == 1


def test_each_choice_of_a_chat_opens_with_its_role_once() -> None:
    reply = ChatReply("m")
    piece = Piece("a", 5, {}, None, None)
    deltas = [chunk["choices"][0] for index in (0, 1, 0) for chunk in reply.chunks(index, piece)]
    assert [(each["index"], each["delta"].get("role")) for each in deltas] == [
        (0, "assistant"), (0, None), (1, "assistant"), (1, None), (0, None),
    ]  # fmt: skip


def test_what_was_not_measured_is_null() -> None:
    piece = Piece("a", 5, {"warm": Reading(0.5, math.nan, math.nan, 1.0, [0.25])}, None, None)
    (chunk,) = TextReply("m", telemetry=True).chunks(0, piece)
    assert chunk["edgesteer"] == {
        "text": "a",
        "token": 5,
        "readings": {"warm": {"alpha": 0.5, "setpoint": None, "running_mean": None, "effort": 1.0, "push": [0.25]}},
    }


def test_last_chunk_has_report_timings_and_warnings() -> None:
    reply = TextReply("m", telemetry=True, warnings=["too strong"])
    *_, last = reply.chunks(0, Piece("", None, {}, None, generation()))
    assert last["choices"][0]["finish_reason"] == "stop"
    assert (last["edgesteer"]["steering"], last["edgesteer"]["warnings"]) == ([], ["too strong"])
    assert last["edgesteer"]["timings"] == {
        "prompt_n": 5, "prompt_ms": 10.0, "predicted_n": 2, "predicted_ms": 20.0, "cache_n": 3,
        "prompt_per_second": 200.0, "predicted_per_second": 100.0,
    }  # fmt: skip


def test_usage_counts_each_prompt_once_and_each_text() -> None:
    texts = [generation(prompt=5, cached=3), generation(prompt=5, cached=5), generation(prompt=7, cached=0)]
    texts.append(generation(prompt=7, cached=7))
    assert usage_of(texts, per_prompt=2) == {
        "prompt_tokens": 12, "completion_tokens": 8, "total_tokens": 20, "prompt_tokens_details": {"cached_tokens": 3},
    }  # fmt: skip
