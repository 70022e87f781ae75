"""Capability: items with several choices, scored by the log likelihood of each, while the model is steered or not.

The choices are run token after token as if the model were writing them, so that the outer loop acts on them as on its
own text. Items are ours by default, or come from TOML, JSONL and CSV files in the formats of public data sets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from edgesteer.concept import as_table, as_text, decode_toml, numbered, read_text
from edgesteer.controller import Controller
from edgesteer.errors import SuiteError
from edgesteer.evaluate.suite import as_suite_error, read_rows
from edgesteer.runtime.batch import generate_all
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Prompt, Request, Steering, plain_prompt

PARALLEL = 8
START = "\n"
"""What stands before a sentence that is scored as a whole: the text before it has ended."""

Row = Mapping[str, Any]


class Choice(NamedTuple):
    """A continuation, to be scored, of a context."""

    context: str
    continuation: str


@dataclass(frozen=True)
class Item:
    """Choices, of which number `gold` should be the likeliest. normalised: for its length, that is by byte."""

    benchmark: str
    choices: tuple[Choice, ...]
    gold: int
    normalised: bool = True


@dataclass(frozen=True)
class Answer:
    """What a model made of an item. scores: the log likelihood of each choice, in nats."""

    item: Item
    scores: tuple[float, ...]

    @property
    def chosen(self) -> int:
        """The likeliest choice, for its length where the item says so."""
        lengths = [len(each.continuation.encode()) if self.item.normalised else 1 for each in self.item.choices]
        return int(np.argmax(np.divide(self.scores, lengths)))

    @property
    def right(self) -> bool:
        return self.chosen == self.item.gold

    @property
    def confidence(self) -> float:
        """Probability of the likeliest choice, whatever its length, given that it is one of them."""
        scores = np.asarray(self.scores)
        return float(1 / np.exp(scores - scores.max()).sum())

    @property
    def confidently_right(self) -> bool:
        """Whether the choice that `confidence` is about is the right one."""
        return int(np.argmax(self.scores)) == self.item.gold


# ---- scoring ----


def answer_items(
    model: LlamaModel,
    items: Sequence[Item],
    controllers: Sequence[Controller] = (),
    steering: Sequence[Steering] = (),
    *,
    parallel: int = PARALLEL,
    threads: int | None = None,
    on_choice: Callable[[], None] = lambda: None,
) -> list[Answer]:
    """Score every choice of every item, and return the answers in the order of the items.

    steering: of each choice alike, by controllers among those given. parallel: choices that run at once. on_choice:
    called after each. What llama.cpp computes depends in its last digits on `parallel`, on nothing else.
    Raises SuiteError for a continuation that adds no token to its context, and what Engine and Batch raise.
    """
    texts = [tokenize(model, choice) for item in items for choice in item.choices]
    if not texts:
        return []
    longest = max(len(prompt.tokens) + len(forced) for prompt, forced in texts)
    with Engine(model, controllers, context_tokens=parallel * longest, n_sequences=parallel, threads=threads) as engine:
        requests = [Request(prompt, steering, forced=forced) for prompt, forced in texts]
        scores = iter(_scores(engine, requests, on_choice))
    return [Answer(item, tuple(islice(scores, len(item.choices)))) for item in items]


def tokenize(model: LlamaModel, choice: Choice) -> tuple[Prompt, list[int]]:
    """Return the prompt of a choice, and the tokens to score: those that the continuation adds to the context's."""
    prompt = plain_prompt(model, choice.context)
    forced = model.tokenize(choice.context + choice.continuation)[len(prompt.tokens) :]
    if not forced:
        raise SuiteError("the continuation adds no token", where=repr(choice.context), found=choice.continuation)
    return prompt, forced


def _scores(engine: Engine, requests: Sequence[Request], on_choice: Callable[[], None]) -> list[float]:
    texts = generate_all(engine, requests, on_choice)
    return [math.fsum(each.logprob for each in text.logprobs) for text in texts]


# ---- items ----


class Format(NamedTuple):
    """How a row holds an item: its fields, and what they come to. normalised: see Item."""

    fields: tuple[str, ...]
    read: Callable[[Row, str], tuple[list[Choice], int]]
    normalised: bool = True


def read_items(path: Path | None = None, *, limit: int | None = None) -> list[Item]:
    """Read items, ours by default; of each benchmark the first `limit`.

    A TOML file has one table array a benchmark, a JSONL or CSV file is one benchmark by the name of the file. Each
    row's format is told by its fields: see FORMATS.
    Raises SuiteError when the file is missing, or a row is of no format or lacks its right choice.
    """
    source = path or Path(str(files("edgesteer.models").joinpath("capability.toml")))
    with as_suite_error():
        items = [as_item(name, row, where) for name, rows in benchmarks(source) for where, row in islice(rows, limit)]
    if not items:
        raise SuiteError("there are no items", where=source)
    return items


def benchmarks(source: Path) -> Iterator[tuple[str, Iterator[tuple[str, Row]]]]:
    """Yield each benchmark of a file with its rows, and each row with its place."""
    if source.suffix.lower() == ".toml":
        document = decode_toml(read_text(source), str(source))
        for name, rows in document.items():
            places = numbered(rows, f"{source}: {name}")
            yield name, ((where, as_table(row, where, optional=None)) for where, row in places)
    else:
        rows = read_rows(source, "", str(source))
        yield source.stem, ((f"{source}: row {number}", row) for number, row in enumerate(rows, start=1))


def as_item(benchmark: str, row: Row, where: str) -> Item:
    """Return the item of a row. Raises SuiteError."""
    known = next((each for each in FORMATS.values() if set(each.fields) <= row.keys()), None)
    if known is None:
        expected = "; or ".join(f"{', '.join(each.fields)} ({name})" for name, each in FORMATS.items())
        raise SuiteError("not an item", where=where, expected=expected, found=", ".join(row))
    choices, gold = known.read(row, where)
    if len(choices) < 2 or not 0 <= gold < len(choices):
        raise SuiteError("no right one among several choices", where=where, found=f"{gold} of {len(choices)}")
    return Item(benchmark, tuple(choices), gold, known.normalised)


def read_answer(row: Row, where: str) -> tuple[list[Choice], int]:
    context = as_text(row["query"], "query", where)
    return continuations(context, [row["answer"], *texts(row["wrong"], where)], where), 0


def read_choices(row: Row, where: str) -> tuple[list[Choice], int]:
    context = f"{as_text(row['query'], 'query', where)}\nAnswer:"
    return continuations(context, texts(row["choices"], where), where), gold_of(row, where)


def read_endings(row: Row, where: str) -> tuple[list[Choice], int]:
    context = as_text(row["context"], "context", where)
    return continuations(context, texts(row["endings"], where), where), gold_of(row, where)


def read_options(row: Row, where: str) -> tuple[list[Choice], int]:
    contexts, ending = texts(row["context_options"], where), row["continuation"]
    return [each for context in contexts for each in continuations(context, [ending], where)], gold_of(row, where)


def read_pair(row: Row, where: str) -> tuple[list[Choice], int]:
    return [Choice(START, as_text(row[key], key, where)) for key in ("good", "bad")], 0


def read_truthfulqa(row: Row, where: str) -> tuple[list[Choice], int]:
    context = f"Question: {as_text(row['Question'], 'Question', where)}\nAnswer:"
    wrong = [each.strip() for each in as_text(row["Incorrect Answers"], "Incorrect Answers", where).split(";")]
    return continuations(context, [row["Best Answer"], *filter(None, wrong)], where), 0


FORMATS = {
    "ours": Format(("query", "answer", "wrong"), read_answer),
    "ARC, PIQA": Format(("query", "choices", "gold"), read_choices),
    "HellaSwag": Format(("context", "endings", "gold"), read_endings),
    "WinoGrande": Format(("context_options", "continuation", "gold"), read_options, normalised=False),
    "BLiMP": Format(("good", "bad"), read_pair, normalised=False),
    "TruthfulQA": Format(("Question", "Best Answer", "Incorrect Answers"), read_truthfulqa),
}
"""By name. Where the context differs between the choices and the continuation does not, length means nothing."""


def continuations(context: str, endings: Sequence[object], where: str) -> list[Choice]:
    """Return choices that go on after a space."""
    return [Choice(context, f" {as_text(each, 'a choice', where).strip()}") for each in endings]


def texts(value: object, where: str) -> list[str]:
    return [as_text(each, "a choice", place) for place, each in numbered(value, where)]


def gold_of(row: Row, where: str) -> int:
    gold = row["gold"]
    if not isinstance(gold, int) or isinstance(gold, bool):
        raise SuiteError("gold is not the number of a choice", where=where, found=repr(gold))
    return gold
