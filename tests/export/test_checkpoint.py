"""The checkpoint's folder: what it keeps, what it gives to how many processes, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.export.checkpoint import Sum, checkpoint_of, unfinished


def sum_of(*prompts: int) -> Sum:
    """The sum of 2^prompt: it says by itself which prompts are in it."""
    return Sum(frozenset(prompts), np.array([2.0**prompt for prompt in prompts]).sum(keepdims=True))


def same(one: Sum, other: Sum) -> bool:
    return one.prompts == other.prompts and np.array_equal(one.total, other.total)


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "warm.gguf"


def test_sums_of_different_prompts_add_up() -> None:
    assert same(sum_of(0, 2) + sum_of(1), sum_of(0, 1, 2))


def test_a_prompt_is_never_counted_twice() -> None:
    assert same(sum_of(0, 2) + sum_of(2, 3), sum_of(0, 2))


def test_nothing_is_kept_before_there_is_a_sum(output: Path) -> None:
    checkpoint = checkpoint_of(output, "settings")
    checkpoint.save("jacobians", 0, 1, Sum(), now=True)
    assert not unfinished(output).exists()
    assert checkpoint.load("jacobians", 0, 1) == Sum()


def test_sums_are_kept_under_their_names(output: Path) -> None:
    checkpoint = checkpoint_of(output, "settings")
    checkpoint.save("products-3", 0, 1, sum_of(0), now=True)
    checkpoint.save("products-31", 0, 1, sum_of(1, 2), now=True)
    again = checkpoint_of(output, "settings")
    assert same(again.load("products-3", 0, 1), sum_of(0))
    assert same(again.load("products-31", 0, 1), sum_of(1, 2))


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [sum_of(0, 1, 2)]),
        (2, [sum_of(0, 2), sum_of(1)]),
        (3, [sum_of(0), sum_of(1), sum_of(2)]),
        (4, [sum_of(0), sum_of(1), sum_of(2), Sum()]),
    ],
)
def test_fewer_or_more_processes_share_what_three_have_left(output: Path, size: int, expected: list[Sum]) -> None:
    for rank in range(3):
        checkpoint_of(output, "settings").save("jacobians", rank, 3, sum_of(rank), now=True)
    found = [checkpoint_of(output, "settings").load("jacobians", rank, size) for rank in range(size)]
    for one, other in zip(found, expected, strict=True):
        assert same(one, other)


def test_a_sum_takes_the_place_of_those_it_was_made_of(output: Path) -> None:
    checkpoint = checkpoint_of(output, "settings")
    for rank in range(2):
        checkpoint.save("jacobians", rank, 2, sum_of(rank), now=True)
    checkpoint.save("jacobians", 0, 1, checkpoint.load("jacobians", 0, 1) + sum_of(2), now=True)
    assert same(checkpoint.load("jacobians", 0, 1), sum_of(0, 1, 2))
    assert len(list(unfinished(output).glob("jacobians.*"))) == 1


def test_saving_waits_where_it_would_take_most_of_the_time(output: Path) -> None:
    checkpoint = checkpoint_of(output, "settings")
    for prompt in range(2):
        checkpoint.save("jacobians", 0, 1, sum_of(*range(prompt + 1)), now=False)
    assert same(checkpoint.load("jacobians", 0, 1), sum_of(0))
    checkpoint.save("jacobians", 0, 1, sum_of(0, 1), now=True)
    assert same(checkpoint.load("jacobians", 0, 1), sum_of(0, 1))


def test_other_settings_are_refused(output: Path) -> None:
    checkpoint_of(output, "warm", 24).save("jacobians", 0, 1, sum_of(0), now=True)
    with pytest.raises(EdgeSteerError, match="holds an unfinished export of another model, concept, options"):
        checkpoint_of(output, "warm", 25)
    assert same(checkpoint_of(output, "warm", 24).load("jacobians", 0, 1), sum_of(0))


def test_damage_is_named(output: Path) -> None:
    checkpoint = checkpoint_of(output, "settings")
    checkpoint.save("jacobians", 0, 1, sum_of(0), now=True)
    (file,) = unfinished(output).glob("jacobians.*")
    file.write_bytes(file.read_bytes()[:-30])
    with pytest.raises(EdgeSteerError, match=r"jacobians\.0\.npz: the sums of an unfinished export are damaged"):
        checkpoint.load("jacobians", 0, 1)


def test_nothing_is_left_in_the_end(output: Path, tmp_path: Path) -> None:
    checkpoint = checkpoint_of(output, "settings")
    checkpoint.save("jacobians", 0, 1, sum_of(0), now=True)
    checkpoint.remove()
    assert list(tmp_path.iterdir()) == []
