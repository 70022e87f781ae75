"""edgesteer judge."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnxruntime")

COLOURS = ("red", "blue", "green", "white", "black", "brown", "grey", "pink", "gold", "dark")


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    path = tmp_path / "labelled.tsv"
    lines = [f"I love my {each} coat.\tglad\nI hate my {each} coat.\tsad\n" for each in COLOURS]
    path.write_text("".join(lines))
    return path


def test_a_fitted_judge_says_how_good_it_is_and_can_be_measured(edgesteer: Any, labelled: Path) -> None:
    head = labelled.with_name("glad.onnx")
    fitted = edgesteer("judge", "fit", labelled, "-o", head, "--positive", "glad")
    assert (fitted.code, fitted.err) == (0, "embedding texts (20 steps)\n")
    lines = fitted.out.splitlines()
    assert lines[0].startswith(f"{head}: 'glad' against 'sad', fitted on 16 texts, C = ")
    assert lines[1].endswith("right of 4 (chance 0.500) held-out texts")
    measured = edgesteer("judge", "test", head, labelled, "--positive", "glad")
    assert measured.code == 0
    assert measured.out.endswith("right of 20 (chance 0.500) texts\n")


def test_json_of_fit_is_the_card_of_the_file(edgesteer: Any, labelled: Path) -> None:
    from edgesteer.evaluate.judges.head import read_head

    head = labelled.with_name("glad.onnx")
    result = edgesteer("judge", "fit", labelled, "-o", head, "--positive", "glad", "--held-out", 0.5, "--json")
    values = json.loads(result.out)
    assert (values["labels"], values["fitted"], values["accuracy"]["n"]) == (["sad", "glad"], 10, 10)
    assert values["regularization"] == read_head(head)[1].regularization


def test_sentiment_is_measured_without_a_file(edgesteer: Any, labelled: Path) -> None:
    result = edgesteer("judge", "test", "sentiment", labelled, "--positive", "glad", "--json")
    assert json.loads(result.out) == {
        "value": 1.0, "low": pytest.approx(0.839, abs=0.001), "high": 1.0, "n": 20, "chance": 0.5,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fit", "labelled.tsv", "-o", "a.onnx"), "which label carries the concept is not clear"),
        (("fit", "none.tsv", "-o", "a.onnx"), "none.tsv: the file cannot be read"),
        (("fit", "labelled.tsv", "-o", "labelled.tsv"), "would overwrite the file that is read"),
        (("fit", "labelled.tsv", "-o", "none/a.onnx"), "its folder does not exist"),
        (("test", "none.onnx", "labelled.tsv"), "none.onnx: the file cannot be read"),
        (("test", "labelled.tsv", "labelled.tsv"), "not a judge's head"),
        (("test", "sentiment", "labelled.tsv", "--positive", "merry"), "found merry"),
    ],
)
def test_errors_are_one_line(
    edgesteer: Any, labelled: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(labelled.parent)
    result = edgesteer("judge", *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("Error: ")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert [each.name for each in labelled.parent.iterdir()] == ["labelled.tsv"]
