"""The Big Five by questionnaire: what a model says of itself, by the log likelihoods of its possible answers.

Form of the Machine Personality Inventory (Jiang et al. 2023); the items come from a file of the user's. Steered and
unsteered answers are compared item by item.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import softmax  # type: ignore[import-untyped]

from edgesteer.errors import SuiteError
from edgesteer.evaluate import capability
from edgesteer.evaluate.personality import TRAITS
from edgesteer.evaluate.statistics import Interval, paired_bootstrap
from edgesteer.evaluate.suite import as_suite_error, read_rows
from edgesteer.profile.report import Table, interval, number

OPTIONS = (
    "Very Accurate",
    "Moderately Accurate",
    "Neither Accurate Nor Inaccurate",
    "Moderately Inaccurate",
    "Very Inaccurate",
)
"""What can be answered, from agreeing to disagreeing."""
POINTS = {1: (5, 4, 3, 2, 1), -1: (1, 2, 3, 4, 5)}
"""What the answers are worth for the trait, by the item's key."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Item:
    """One statement about oneself. key: 1 when agreeing speaks for the trait, -1 when it speaks against."""

    text: str
    trait: str
    key: int


def read_items(path: Path, *, limit: int | None = None) -> list[Item]:
    """Return the items of a CSV file with the columns text, label_ocean (a letter of OCEAN) and key (1 or -1).

    limit: most items of each trait and key, the first ones. Raises SuiteError for a file that cannot be read or has no
    items, and for a row that is none.
    """
    with as_suite_error():
        rows = enumerate(read_rows(path, "", str(path)), start=1)
        items = [as_item(row, f"{path}: row {place}") for place, row in rows]
    found: dict[tuple[str, int], list[Item]] = defaultdict(list)
    for item in items:
        found[item.trait, item.key].append(item)
    if not found:
        raise SuiteError("there are no items", where=path)
    return [item for trait in TRAITS.values() for key in POINTS for item in found[trait, key][:limit]]


def as_item(row: Mapping[str, Any], where: str) -> Item:
    """Return the item of a row. Raises SuiteError."""
    text, letter, key = (str(row.get(name, "")).strip() for name in ("text", "label_ocean", "key"))
    if not text or letter not in TRAITS or key not in ("1", "-1"):
        raise SuiteError(
            "not an item of a questionnaire",
            where=where,
            expected="text, label_ocean of O, C, E, A or N, and key of 1 or -1",
            found=dict(row),
        )
    return Item(text, TRAITS[letter], int(key))


def question(item: Item) -> str:
    """Return what the model is asked; its answer is one of OPTIONS."""
    statement = item.text[0].lower() + item.text[1:]
    return (
        f'Statement: "You {statement}."\nHow accurately does the statement describe you? '
        f"Options: {', '.join(OPTIONS)}.\nAnswer:"
    )


def as_choices(items: Sequence[Item]) -> list[capability.Item]:
    """Return the items as `answer_items` scores them: a choice for each of OPTIONS, of which none is the right one."""
    return [
        capability.Item(
            item.trait, tuple(capability.Choice(question(item), f" {option}") for option in OPTIONS), gold=0
        )
        for item in items
    ]


def points(items: Sequence[Item], log_likelihoods: ArrayLike) -> Array:
    """Return the expected answer to each item, in points of the trait from 1 to 5: (items,).

    log_likelihoods: (items, 5) of the OPTIONS after the question, in nats. Expected, and not the likeliest, because a
    small model answers nearly all items alike, and only its probabilities move.
    """
    worth = np.array([POINTS[item.key] for item in items], dtype=np.float64)
    chances = softmax(np.asarray(log_likelihoods, dtype=np.float64), axis=1)
    return np.asarray((chances * worth).sum(axis=1))


@dataclass(frozen=True)
class TraitScore:
    """Mean points of a trait over its items, before and after; change: paired over the items.

    Items of either key weigh the same together: where a trait has both, agreeing with everything does not move it.
    """

    trait: str
    n: int
    before: float
    after: float
    change: Interval


def compare(items: Sequence[Item], before: ArrayLike, after: ArrayLike) -> list[TraitScore]:
    """Return the score of each trait that has items; before and after are log likelihoods as in `points`."""
    both = np.stack([points(items, before), points(items, after)])
    traits, keys = np.array([item.trait for item in items]), np.array([item.key for item in items])
    found = []
    for trait in TRAITS.values():
        own = traits == trait
        if own.any():
            first, second = both[:, own] * balance(keys[own])
            change = paired_bootstrap(second - first)
            found.append(TraitScore(trait, int(own.sum()), float(first.mean()), float(second.mean()), change))
    return found


def balance(keys: NDArray[np.int_]) -> Array:
    """Return weights of mean 1 under which the items of either key come to the same: (n,)."""
    counts = {key: int((keys == key).sum()) for key in keys.tolist()}
    return np.array([len(keys) / (len(counts) * counts[key]) for key in keys.tolist()])


def scores_table(scores: Sequence[TraitScore]) -> Table:
    rows = [
        [
            score.trait,
            str(score.n),
            number(score.before, 3),
            number(score.after, 3),
            f"{score.change.value:+.3f}",
            interval(score.change.low, score.change.high),
        ]
        for score in scores
    ]
    return Table("Points of 1 to 5", ["trait", "items", "before", "after", "change", "95 % interval"], rows)
