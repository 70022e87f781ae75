"""`edgesteer eval degradation`: tables, JSON, exit codes and refusals, on the tiny model."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgesteer.evaluate.capability import answer_items, read_items

if TYPE_CHECKING:
    from edgesteer.runtime.model import LlamaModel

pytestmark = pytest.mark.torch  # makes the tiny model


@pytest.fixture
def items(tmp_path: Path, tiny_llama: LlamaModel) -> Path:
    """40 items whose gold choice is the one that the unsteered tiny model takes."""
    path = tmp_path / "own.jsonl"
    rows = [{"query": f"Question {n}", "choices": [f"in {n}", f"on {n + 1}"], "gold": 0} for n in range(40)]
    write(path, rows)
    chosen = [answer.chosen for answer in answer_items(tiny_llama, read_items(path), threads=1)]
    write(path, [{**row, "gold": gold} for row, gold in zip(rows, chosen, strict=True)])
    return path


def write(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)), "utf-8")


@pytest.fixture
def degradation(edgesteer: Any, tiny_model: Any, items: Path) -> Any:
    """Return a function that compares the tiny model with what the arguments say."""
    return lambda *more: edgesteer("eval", "degradation", tiny_model.gguf, *more, "--items", items, "--threads", 1)


def test_steering_is_compared_with_the_unsteered_model(degradation: Any, tiny_steer: Any) -> None:
    result = degradation("--steer", f"{tiny_steer()}=1", "--json")
    found = json.loads(result.out)
    assert result.code == 0
    assert [each["benchmark"] for each in found["benchmarks"]] == ["own"]
    assert found["pooled"]["counts"]["n"] == 40
    assert found["pooled"]["p_value"] == found["combined"]["pooled"]


def test_strength_zero_changes_no_answer(degradation: Any, tiny_steer: Any) -> None:
    found = json.loads(degradation("--steer", f"{tiny_steer()}=0", "--json").out)
    assert found["pooled"]["counts"] == {"worse": 0, "better": 0, "n": 40}


def test_two_models_are_compared(degradation: Any, tiny_model: Any) -> None:
    result = degradation(tiny_model.gguf)
    assert result.code == 0
    assert "No sign that the model got worse" in result.out
    assert result.out.splitlines()[2].split()[:3] == ["benchmark", "items", "before"]


def test_damage_is_said_and_fails_only_where_asked(degradation: Any, tiny_steer: Any) -> None:
    steer = ("--steer", f"{tiny_steer()}=1.9", "--open")
    result = degradation(*steer)
    assert result.code == 0
    assert "The model got worse" in result.out
    assert degradation(*steer, "--fail").code == 4


def test_no_damage_does_not_fail(degradation: Any, tiny_model: Any) -> None:
    assert degradation(tiny_model.gguf, "--fail").code == 0


def test_a_limit_shortens_each_benchmark(degradation: Any, tiny_model: Any) -> None:
    assert json.loads(degradation(tiny_model.gguf, "--limit", 3, "--json").out)["pooled"]["counts"]["n"] == 3


def test_something_to_compare_with_is_needed(degradation: Any) -> None:
    result = degradation()
    assert result.code == 1
    assert result.err == "Error: what is MODEL_A to be compared with?; expected MODEL_B or --steer\n"


def test_a_file_that_holds_no_items_is_an_error_of_one_line(degradation: Any, tiny_model: Any, items: Path) -> None:
    write(items, [{"text": "no item"}])
    result = degradation(tiny_model.gguf)
    assert result.code == 1
    assert result.err.startswith(f"Error: {items}: row 1: not an item")
    assert result.err.count("\n") == 1
