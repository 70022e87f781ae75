"""`edgesteer tune` with the tiny model: what it writes, what it leaves alone, and what it refuses."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesteer.sidecar import read_sidecar, write_sidecar

SUITE = """
name = "letters"
description = "Does the text have letters?"
max_tokens = 5
primary = "letters"
[[prompts]]
text = "Good morning."
[[prompts]]
text = "Good evening."
[[prompts]]
text = "Good night."
[[judges]]
kind = "words"
name = "letters"
patterns = ["[a-e]"]
"""


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "letters.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def arguments(tiny_model: Any, tiny_steer: Any, suite: Path) -> list[Any]:
    sidecar = tiny_steer(mode="one-sided")
    return ["tune", tiny_model.gguf, sidecar, "--suite", suite, "--quick", "--texts", "800", "--items", "1", "-t", "1"]


def controller(path: Path) -> Any:
    return read_sidecar(path).controllers["warm"]


def test_tune_writes_a_dial_whose_two_sides_are_calibrated(
    edgesteer: Any, arguments: list[Any], tmp_path: Path
) -> None:
    result = edgesteer(*arguments, "-o", tmp_path / "tuned.gguf")
    assert result.code == 0, result.err
    old, new = controller(tmp_path / "warm.gguf"), controller(tmp_path / "tuned.gguf")
    assert old.negative_scale is None
    assert new.scale != old.scale
    assert new.negative_scale is not None
    assert new.default_strength == 1.0
    assert new.safe_range[0] <= -1
    assert new.safe_range[1] >= 1
    assert "The new dial" in result.out
    assert "Safe range: " in result.out


def test_without_output_the_sidecar_itself_is_replaced_and_its_other_controllers_stay(
    edgesteer: Any, arguments: list[Any], tmp_path: Path
) -> None:
    path = tmp_path / "warm.gguf"
    content = read_sidecar(path)
    other = replace(content.controllers["warm"], name="other")
    write_sidecar(path, replace(content, controllers={"other": other, **content.controllers}))
    assert edgesteer(*arguments).code == 1  # which of the two?
    result = edgesteer(*arguments, "--controller", "warm", "--no-degradation")
    assert result.code == 0, result.err
    found = read_sidecar(path).controllers
    assert list(found) == ["other", "warm"]
    assert found["other"].scale == other.scale
    assert found["warm"].negative_scale is not None


def test_the_same_seed_gives_the_same_file_and_another_one_another(
    edgesteer: Any, arguments: list[Any], tmp_path: Path
) -> None:
    files = []
    for number, seed in enumerate((0, 0, 1)):
        files.append(tmp_path / f"{number}.gguf")
        assert edgesteer(*arguments, "--no-degradation", "--seed", seed, "-o", files[-1]).code == 0
    first, second, third = (path.read_bytes() for path in files)
    assert first == second
    assert first != third


def test_json_says_what_was_tried_and_chosen(edgesteer: Any, arguments: list[Any], tmp_path: Path) -> None:
    result = edgesteer(*arguments, "--json", "-o", tmp_path / "tuned.gguf")
    assert result.code == 0, result.err
    found, new = json.loads(result.out), controller(tmp_path / "tuned.gguf")
    assert found["scale"] == new.scale
    assert found["negative_scale"] == new.negative_scale
    assert found["safe_range"] == list(new.safe_range)
    assert found["blocks"] == list(new.blocks)
    assert "as it is" in [each["name"] for each in found["candidates"]]
    assert all({"value", "low", "high"} == each["effect"].keys() for each in found["candidates"])
    assert {each["name"] for each in found["rivals"]} <= {each["name"] for each in found["candidates"]}
    assert len(found["dial"]) == 10
    assert any(dose["harm_p"] is not None for dose in found["dial"])


def test_ctrl_c_leaves_the_sidecar_as_it_was(start: Any, arguments: list[Any], tmp_path: Path) -> None:
    before = (tmp_path / "warm.gguf").read_bytes()
    process = start(*arguments, "--texts", "100000")
    assert process.stderr.readline().startswith("texts (")
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert (tmp_path / "warm.gguf").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["letters.toml", "warm.gguf"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--suite", "nowhere"], "no such suite"),
        (["--concept", "nowhere"], "no such concept"),
        (["--controller", "cold"], "no such controller"),
        (["--budget", "0"], "budget is out of range"),
        (["-o", "nowhere/tuned.gguf"], "its folder does not exist"),
    ],
)
def test_what_cannot_be_tuned_is_refused_in_one_line(
    options: list[str], message: str, edgesteer: Any, arguments: list[Any], tmp_path: Path
) -> None:
    before = (tmp_path / "warm.gguf").read_bytes()
    result = edgesteer(*arguments, *options)
    assert result.code == 1
    assert message in result.err
    assert (tmp_path / "warm.gguf").read_bytes() == before


def test_without_a_suite_or_a_concept_the_error_says_what_to_give(
    edgesteer: Any, tiny_model: Any, tiny_steer: Any
) -> None:
    result = edgesteer("tune", tiny_model.gguf, tiny_steer("unheard-of"))
    assert result.code == 1
    assert "Give --suite, or --concept FILE." in result.err


def test_ablation_is_refused(edgesteer: Any, tiny_model: Any, tiny_steer: Any, suite: Path) -> None:
    result = edgesteer("tune", tiny_model.gguf, tiny_steer(law="ablate"), "--suite", suite)
    assert result.code == 1
    assert "this law's dial cannot be tuned" in result.err
