"""Capability: the formats of items, choices by hand, and scores against likelihoods that were computed elsewhere."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgesteer.errors import SuiteError
from edgesteer.evaluate.capability import START, Answer, Choice, Item, answer_items, read_items, tokenize
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.likelihood import log_likelihoods
from edgesteer.runtime.request import Request, Steering

if TYPE_CHECKING:
    from edgesteer.controller import Controller
    from edgesteer.runtime.model import LlamaModel

F16 = 5e-3
"""What the 16-bit KV cache makes of another order of summation, in nats over a few tokens."""
ITEMS = [
    Item("a", (Choice("The cat", " sat on the mat."), Choice("The cat", " is."), Choice("The cat", " the the")), 0),
    Item("b", (Choice(START, "The boats are in."), Choice(START, "The boats is in.")), 1, normalised=False),
]


@pytest.fixture
def tone(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32, name="tone")


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes rows as JSONL."""

    def write(*rows: Mapping[str, Any]) -> Path:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
        return path

    return write


# ---- our own items ----


def test_ours_are_eighty_odd_items_of_three_benchmarks() -> None:
    counts = Counter(item.benchmark for item in read_items())
    assert set(counts) == {"common-sense", "facts", "grammar"}
    assert 80 <= counts.total() <= 100


def test_ours_do_not_repeat_themselves() -> None:
    choices = [choice for item in read_items() for choice in item.choices]
    assert len(set(choices)) == len(choices)


def test_ours_have_four_choices_or_are_pairs() -> None:
    for item in read_items():
        assert len(item.choices) == (2 if item.benchmark == "grammar" else 4), item


# ---- formats ----


def test_query_and_choices_are_a_question_with_answers(written: Callable[..., Path]) -> None:
    (item,) = read_items(written({"query": "Question: Who?", "choices": ["me", "you"], "gold": 1}))
    context = "Question: Who?\nAnswer:"
    assert item == Item("rows", (Choice(context, " me"), Choice(context, " you")), 1)


def test_endings_continue_their_context(written: Callable[..., Path]) -> None:
    (item,) = read_items(written({"context": "A dog", "endings": ["barks.", "sings."], "gold": 0, "id": 3}))
    assert item == Item("rows", (Choice("A dog", " barks."), Choice("A dog", " sings.")), 0)


def test_options_share_their_continuation(written: Callable[..., Path]) -> None:
    (item,) = read_items(written({"context_options": ["The A", "The B"], "continuation": "was big.", "gold": 0}))
    assert item == Item("rows", (Choice("The A", " was big."), Choice("The B", " was big.")), 0, normalised=False)


def test_good_and_bad_are_whole_sentences(written: Callable[..., Path]) -> None:
    (item,) = read_items(written({"uid": "x", "good": "He is.", "bad": "He are."}))
    assert item == Item("rows", (Choice(START, "He is."), Choice(START, "He are.")), 0, normalised=False)


def test_truthfulqa_has_one_best_answer_among_false_ones(tmp_path: Path) -> None:
    path = tmp_path / "TruthfulQA.csv"
    path.write_text('Question,Best Answer,Incorrect Answers\nWhy?,"Nobody, ever",Because; It is so ;\n', "utf-8")
    (item,) = read_items(path)
    endings = [each.continuation for each in item.choices]
    assert (item.benchmark, item.gold, endings) == ("TruthfulQA", 0, [" Nobody, ever", " Because", " It is so"])
    assert item.choices[0].context == "Question: Why?\nAnswer:"


def test_a_toml_file_has_a_benchmark_for_each_array(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[[one]]\nquery = "A"\nanswer = "b"\nwrong = ["c"]\n[[two]]\ngood = "D"\nbad = "E"\n'
        '[[one]]\nquery = "F"\nanswer = "g"\nwrong = ["h", "i"]\n',
        "utf-8",
    )
    assert [(item.benchmark, len(item.choices), item.gold) for item in read_items(path)] == [
        ("one", 2, 0), ("one", 3, 0), ("two", 2, 0),
    ]  # fmt: skip


def test_a_limit_keeps_the_first_items_of_each_benchmark() -> None:
    everything, few = read_items(), read_items(limit=2)
    assert [item.benchmark for item in few] == ["common-sense"] * 2 + ["facts"] * 2 + ["grammar"] * 2
    assert few[:2] == everything[:2]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "a"}, "not an item.*ARC, PIQA.*found text"),
        ({"query": "a", "choices": ["b", "c"], "gold": 2}, "row 1: no right one.*found 2 of 2"),
        ({"query": "a", "choices": ["b"], "gold": 0}, "no right one"),
        ({"query": "a", "choices": ["b", "c"], "gold": "0"}, "gold is not the number of a choice"),
        ({"query": "a", "choices": "bc", "gold": 0}, "not a list"),
        ({"query": "a", "choices": ["b", ""], "gold": 0}, "a choice is empty"),
        ({"query": 3, "choices": ["b", "c"], "gold": 0}, "query is not a text"),
        ({"query": "a", "answer": 3, "wrong": ["c"]}, "a choice is not a text"),
    ],
)
def test_a_row_that_is_no_item_is_refused(written: Callable[..., Path], row: dict[str, Any], message: str) -> None:
    with pytest.raises(SuiteError, match=message):
        read_items(written(row))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SuiteError, match="cannot be read"):
        read_items(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", ["empty.jsonl", "empty.toml"])
def test_a_file_without_items_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SuiteError, match="there are no items"):
        read_items(tmp_path / name)


# ---- answers ----


def test_the_likeliest_choice_for_its_length_by_hand() -> None:
    choices = (Choice("", " abc"), Choice("", " abcdefg"))  # 4 and 8 bytes: -1 against -0.75 a byte
    assert Answer(Item("x", choices, 1), (-4.0, -6.0)).right
    assert not Answer(Item("x", choices, 1, normalised=False), (-4.0, -6.0)).right


def test_length_is_in_bytes() -> None:
    choices = (Choice("", "éé"), Choice("", "ee"))
    assert Answer(Item("x", choices, 0), (-3.9, -2.0)).right


def test_confidence_is_the_softmax_over_the_choices() -> None:
    item = Item("x", (Choice("", "a"), Choice("", "b"), Choice("", "c")), 2)
    answer = Answer(item, (math.log(0.1), math.log(0.3), math.log(0.4)))
    assert answer.confidence == pytest.approx(0.5)
    assert answer.confidently_right


def test_confidence_of_very_unlikely_choices_is_finite() -> None:
    item = Item("x", (Choice("", "a"), Choice("", "b")), 0)
    assert Answer(item, (-5000.0, -5000.0)).confidence == pytest.approx(0.5)


# ---- scores ----


@pytest.mark.torch  # makes the tiny model
def test_unsteered_scores_are_sums_of_log_likelihoods(tiny_llama: LlamaModel) -> None:
    answers = answer_items(tiny_llama, ITEMS, threads=1, parallel=3)
    with Engine(tiny_llama, context_tokens=64, threads=1) as engine:
        for answer in answers:
            for choice, score in zip(answer.item.choices, answer.scores, strict=True):
                before, whole = (tiny_llama.tokenize(text) for text in (choice.context, "".join(choice)))
                (expected,) = log_likelihoods(engine, [whole])
                assert score == pytest.approx(expected[len(before) - 1 :].sum(), abs=F16)


@pytest.mark.torch
def test_strength_zero_changes_no_bit_of_an_answer(tiny_llama: LlamaModel, tone: Controller) -> None:
    plain = answer_items(tiny_llama, ITEMS, threads=1)
    assert answer_items(tiny_llama, ITEMS, [tone], [Steering("tone", 0.0)], threads=1) == plain


@pytest.mark.torch
def test_steered_scores_are_those_of_the_choice_being_written(tiny_llama: LlamaModel, tone: Controller) -> None:
    steering = [Steering("tone", 1.0)]
    answers = answer_items(tiny_llama, ITEMS, [tone], steering, threads=1, parallel=4)
    prompt, forced = tokenize(tiny_llama, ITEMS[0].choices[0])
    with Engine(tiny_llama, [tone], context_tokens=64, threads=1) as engine:
        batch = Batch(engine)
        *_, last = batch.stream(Request(prompt, steering, forced=forced))
    assert last.result is not None
    assert answers[0].scores[0] == pytest.approx(sum(each.logprob for each in last.result.logprobs), abs=F16)
    assert abs(answers[0].scores[0] - answer_items(tiny_llama, ITEMS, threads=1)[0].scores[0]) > 0.1


@pytest.mark.torch
def test_every_choice_is_reported_once(tiny_llama: LlamaModel) -> None:
    done: list[None] = []
    answers = answer_items(tiny_llama, ITEMS, threads=1, on_choice=lambda: done.append(None))
    assert [answer.item for answer in answers] == ITEMS
    assert len(done) == sum(len(item.choices) for item in ITEMS)


@pytest.mark.torch
def test_no_items_are_no_answers(tiny_llama: LlamaModel) -> None:
    assert answer_items(tiny_llama, []) == []


@pytest.mark.torch
def test_a_continuation_of_nothing_is_refused(tiny_llama: LlamaModel) -> None:
    with pytest.raises(SuiteError, match="adds no token"):
        answer_items(tiny_llama, [Item("x", (Choice("a", ""), Choice("a", "b")), 0)])
