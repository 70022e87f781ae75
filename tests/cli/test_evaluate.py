"""`edgesteer eval`: a sweep from files to report, resumed, and refused where it would mix two experiments."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest

SUITE = """
name = "greetings"
description = "Does the text greet?"
max_tokens = 6
system = "Greet."
primary = "letters"
[[prompts]]
text = "Good morning."
group = "far"
[[prompts]]
text = "Good evening."
group = "on"
[[prompts]]
text = "Good night."
group = "far"
[[judges]]
kind = "words"
name = "letters"
patterns = ["[a-e]"]
[[judges]]
kind = "words"
name = "digits"
patterns = ["[0-9]"]
"""

Eval = Any


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "greetings.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def arguments(tiny_model: Any, tiny_steer: Any, suite: Path) -> list[str]:
    """A sweep of 3 prompts: unsteered, and two controllers at two strengths."""
    one, other = tiny_steer(file="warm.gguf"), tiny_steer("warm", "other.gguf", seed=1)
    return [
        "eval", tiny_model.gguf, "--steer", one, "--against", other, "--suite", suite, "--strengths", "0.5,1",
        "--samples", "1", "-np", "2", "-t", "1",
    ]  # fmt: skip


def lines(folder: Path) -> list[str]:
    return (folder / "results.jsonl").read_text("utf-8").splitlines()


def test_a_sweep_writes_results_report_and_plots(edgesteer: Any, arguments: list[str], tmp_path: Path) -> None:
    result = edgesteer(*arguments, "--baselines", "system-prompt,decay", "-o", tmp_path / "run")
    assert result.code == 0, result.err
    records = [json.loads(line) for line in lines(tmp_path / "run")]
    assert [(each["arm"], each["strength"]) for each in records[:8]] == [
        ("none", 0), ("warm", 0.5), ("warm", 1), ("other", 0.5), ("other", 1), ("system-prompt", 0), ("decay", 0.5),
        ("decay", 1),
    ]  # fmt: skip
    assert len(records) == 24
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "run.json", "results.jsonl", "report.md", "effect_strength.png", "effect_strength.svg", "effect_cost.png",
        "effect_cost.svg",
    }  # fmt: skip
    report = (tmp_path / "run" / "report.md").read_text("utf-8")
    assert report.startswith("# tiny, greetings\n\nDoes the text greet?")
    assert result.out.splitlines()[0].split() == [
        "arm", "strength", "presence", "density", "mean", "added", "nats", "broken",
    ]  # fmt: skip
    assert len(result.out.splitlines()) == 9


def test_the_same_command_resumes_to_the_same_results(edgesteer: Any, arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert edgesteer(*arguments, "-o", folder).code == 0
    whole, report = lines(folder), (folder / "report.md").read_text("utf-8")
    (folder / "results.jsonl").write_text("\n".join(whole[:10]) + "\n" + whole[10][:20], encoding="utf-8")
    result = edgesteer(*arguments, "-o", folder)
    assert result.code == 0
    assert "texts (5 steps)" in result.err
    assert lines(folder) == whole
    assert (folder / "report.md").read_text("utf-8") == report


def test_another_experiment_needs_force(edgesteer: Any, arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    assert edgesteer(*arguments, "--limit", "1", "-o", folder).code == 0
    result = edgesteer(*arguments, "--limit", "1", "--seed", "5", "-o", folder)
    assert result.code == 1
    assert "the folder holds another experiment; expected seed 5; found seed 0" in result.err
    assert edgesteer(*arguments, "--limit", "1", "--seed", "5", "--force", "-o", folder).code == 0
    assert len(lines(folder)) == 5


def test_a_dry_run_counts_and_writes_nothing(edgesteer: Any, arguments: list[str], tmp_path: Path) -> None:
    result = edgesteer(*arguments, "--samples", "4", "-n", "9", "--dry-run", "-o", tmp_path / "run")
    assert result.code == 0
    assert "60 texts of at most 9 tokens" in result.err
    assert not (tmp_path / "run").exists()


def test_ctrl_c_keeps_what_was_done_and_says_how_to_go_on(start: Any, arguments: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = start(*arguments, "--samples", "200", "-o", folder)
    while not (folder / "results.jsonl").exists() or not lines(folder):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130, err
    assert "the same command goes on from there" in err
    assert lines(folder)
    assert not (folder / "report.md").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strengths", "much"], "not a list of strengths"),
        (["--strengths", "0"], "not a list of strengths"),
        (["--baselines", "luck"], "no such baseline; expected system-prompt or open or decay; found luck"),
        (["--suite", "nowhere"], "no such suite"),
        (["--steer", "nowhere.gguf"], "nowhere.gguf"),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(
    options: list[str], message: str, edgesteer: Any, arguments: list[str], tmp_path: Path
) -> None:
    result = edgesteer(*arguments, *options, "-o", tmp_path / "run")
    assert result.code == 1
    assert message in result.err
    assert not (tmp_path / "run").exists()


def test_a_strength_outside_the_safe_range_is_said(edgesteer: Any, arguments: list[str], tmp_path: Path) -> None:
    result = edgesteer(*arguments, "--strengths", "0.5,3", "--dry-run", "-o", tmp_path / "run")
    assert result.err.count("strength 3 is outside the safe range") == 2
