"""`edgesteer eval questionnaire`: table, JSON and refusals, on the tiny model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch  # makes the tiny model


@pytest.fixture
def questionnaire(edgesteer: Any, tiny_model: Any, tmp_path: Path) -> Any:
    """Return a function that asks the tiny model three items under what the arguments say."""
    path = tmp_path / "items.csv"
    path.write_text("text,label_ocean,key\nWorry,N,1\nFear the worst,N,1\nTrust others,A,1\n")
    return lambda *more: edgesteer("eval", "questionnaire", tiny_model.gguf, path, *more, "--threads", 1)


def test_steering_moves_what_the_model_says_of_itself(questionnaire: Any, tiny_steer: Any) -> None:
    result = questionnaire("--steer", f"{tiny_steer()}=1", "--json")
    assert result.code == 0
    agreeableness, neuroticism = json.loads(result.out)
    assert (agreeableness["trait"], neuroticism["trait"], neuroticism["n"]) == ("agreeableness", "neuroticism", 2)
    assert neuroticism["change"]["value"] == pytest.approx(neuroticism["after"] - neuroticism["before"])
    assert neuroticism["change"]["value"] != 0


def test_strength_zero_moves_nothing(questionnaire: Any, tiny_steer: Any) -> None:
    found = json.loads(questionnaire("--steer", f"{tiny_steer()}=0", "--json").out)
    assert [each["change"]["value"] for each in found] == [0.0, 0.0]


def test_the_table_has_a_row_for_each_trait(questionnaire: Any, tiny_steer: Any) -> None:
    result = questionnaire("--steer", f"{tiny_steer()}=1", "--limit", 1)
    assert [line.split()[:2] for line in result.out.splitlines()[-2:]] == [["agreeableness", "1"], ["neuroticism", "1"]]


def test_another_file_is_refused(edgesteer: Any, tiny_model: Any, tmp_path: Path, tiny_steer: Any) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    result = edgesteer("eval", "questionnaire", tiny_model.gguf, path, "--steer", f"{tiny_steer()}=1")
    assert result.code == 1
    assert "other.csv: row 1: not an item of a questionnaire" in result.err
