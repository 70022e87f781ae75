"""Experiments with the tiny model: what is paired, what is counted, and that a kill changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from edgesteer.errors import EdgeSteerError, SteeringError
from edgesteer.evaluate.arm import Arm, baseline
from edgesteer.evaluate.experiment import WAVES, n_texts, prompt_of, run_experiment, settings_of
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.suite import Suite, SuitePrompt
from edgesteer.runtime.batch import Batch
from edgesteer.runtime.engine import Engine
from edgesteer.runtime.likelihood import negative_log_likelihood
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Request
from edgesteer.runtime.sampling import Sampling

SUITE = Suite(
    "letters",
    tuple(SuitePrompt(key, f"Tell me of {key}.", group) for key, group in (("a", "far"), ("b", "far"), ("c", "on"))),
    judges=({"kind": "none", "name": "vowels"},),
    primary="vowels",
    max_tokens=8,
    system="Use vowels.",
)


class Vowels:
    """Judges by the share of vowels."""

    name, accuracy, threshold = "vowels", None, 0.1

    def score(self, texts: Sequence[str]) -> Any:
        return np.array([sum(each in "aeiou" for each in text) / max(1, len(text)) for text in texts])


@pytest.fixture(scope="module")
def arms(tiny_llama: LlamaModel, make_controller: Any) -> list[Arm]:
    closed = Arm("closed", make_controller(tiny_llama.n_blocks, tiny_llama.width), (0.5, 1.0))
    return [closed, baseline("open", closed, ""), baseline("system-prompt", closed, SUITE.system)]


Run = Callable[..., list[Record]]


@pytest.fixture(scope="module")
def run(tiny_llama: LlamaModel, arms: list[Arm]) -> Run:
    """Return a function that runs the experiment: 36 texts in blocks of 8."""

    def run(suite: Suite = SUITE, **options: Any) -> list[Record]:
        defaults: dict[str, Any] = {"samples": 2, "seed": 3, "parallel": 2, "threads": 1}
        return run_experiment(tiny_llama, suite, options.pop("arms", arms), [Vowels()], **{**defaults, **options})

    return run


@pytest.fixture(scope="module")
def records(run: Run) -> list[Record]:
    return run()


@pytest.fixture(scope="module")
def lines(records: list[Record]) -> list[str]:
    return [record.to_line() for record in records]


def test_every_prompt_is_answered_by_every_arm_at_every_strength(records: list[Record], arms: list[Arm]) -> None:
    assert len(records) == len({record.key for record in records}) == n_texts(SUITE, arms, 2) == 36
    assert [record.key[:2] for record in records[:6]] == [
        ("none", 0.0), ("closed", 0.5), ("closed", 1.0), ("open", 0.5), ("open", 1.0), ("system-prompt", 0.0),
    ]  # fmt: skip
    assert {record.prompt: record.group for record in records} == {"a": "far", "b": "far", "c": "on"}


def test_a_prompt_and_sample_has_one_seed_in_all_arms_and_no_other_has_it(records: list[Record]) -> None:
    seeds: dict[tuple[str, int], set[int]] = {}
    for record in records:
        seeds.setdefault((record.prompt, record.sample), set()).add(record.seed)
    assert [len(each) for each in seeds.values()] == [1] * 6
    assert len(set.union(*seeds.values())) == 6


def test_a_longer_suite_keeps_the_seeds_of_a_shorter(run: Run, records: list[Record]) -> None:
    short = {record.key: record.seed for record in run(SUITE.limited(1), samples=1, arms=[])}
    assert short.items() <= {record.key: record.seed for record in records}.items()


def test_steering_is_what_the_arm_says(records: list[Record]) -> None:
    by_arm = {(record.arm, record.strength): record for record in records[:6]}
    assert by_arm["none", 0.0].steering == by_arm["system-prompt", 0.0].steering == []
    assert by_arm["closed", 1.0].steering[0]["strength"] == 1.0
    assert set(by_arm["open", 1.0].steering[0]["effort"]) == {1.0}
    assert by_arm["closed", 1.0].text != by_arm["none", 0.0].text


def test_the_likelihood_is_that_of_the_generated_tokens_under_the_unsteered_model(
    records: list[Record], tiny_llama: LlamaModel
) -> None:
    record = next(each for each in records if each.arm == "system-prompt" and each.tokens == 8)
    asked, plain = (prompt_of(tiny_llama, SUITE, SUITE.prompts[0], system) for system in (SUITE.system, ""))
    assert len(asked.tokens) > len(plain.tokens)
    with Engine(tiny_llama, threads=1) as engine:
        request = Request(asked, sampling=Sampling(seed=record.seed), max_tokens=8)
        tokens = [piece.token for piece in Batch(engine).stream(request) if piece.token is not None]
        expected = negative_log_likelihood(engine, plain.tokens + tokens)[-8:].mean()
    assert record.nll == pytest.approx(expected, rel=1e-4)


def test_a_text_costs_the_same_in_every_arm(run: Run) -> None:
    costs: dict[tuple[str, int, str], set[float]] = {}
    for record in run(arms=[Arm("twin"), Arm("triplet")]):
        costs.setdefault((record.prompt, record.sample, record.text), set()).add(record.nll)
    assert len(costs) < 18
    assert {len(each) for each in costs.values()} == {1}


def test_scores_are_the_judges(records: list[Record]) -> None:
    for record in records:
        assert record.scores["vowels"].mean == pytest.approx(Vowels().score([record.text])[0])


@pytest.mark.parametrize("done", [1, 2 * WAVES, 2 * WAVES + 3, 36])
def test_a_killed_experiment_resumes_to_the_same_records(done: int, run: Run, lines: list[str]) -> None:
    left = [Record.from_line(line) for line in lines[:done]]
    made: list[Record] = []
    assert [record.to_line() for record in run(records=left, on_record=made.append)] == lines
    whole = done // (2 * WAVES) * 2 * WAVES if done < 36 else 36
    assert [record.to_line() for record in made] == lines[whole:]


def test_records_come_block_by_block_and_texts_one_by_one(run: Run) -> None:
    seen: list[str] = []
    run(on_record=lambda _: seen.append("record"), on_text=lambda: seen.append("text"))
    assert seen[:16] == ["text"] * 8 + ["record"] * 8
    assert seen.count("text") == seen.count("record") == 36


def test_a_raw_suite_takes_no_system_prompt(run: Run) -> None:
    suite = Suite("raw", SUITE.prompts, SUITE.judges, "vowels", max_tokens=2, raw=True)
    with pytest.raises(EdgeSteerError, match="a system prompt needs a chat template"):
        run(suite)
    assert len(run(suite, arms=[])) == 6


def test_two_controllers_of_one_name_can_be_compared(run: Run, arms: list[Arm], make_controller: Any) -> None:
    other = Arm("other", make_controller(4, 32, seed=1), (1.0,))
    records = run(arms=[arms[0], other], samples=1)
    assert {report["controller"] for record in records for report in record.steering} == {"closed", "other"}


def test_arms_are_refused_with_two_of_one_name_and_with_strengths_that_do_not_fit(run: Run, arms: list[Arm]) -> None:
    with pytest.raises(SteeringError, match="same name"):
        run(arms=[arms[0], arms[0]])
    for strengths in ((), (0.0, 1.0), (1.0, 1.0)):
        with pytest.raises(SteeringError, match="strength"):
            Arm("closed", arms[0].controller, strengths)
    with pytest.raises(SteeringError, match="strengths do not fit"):
        Arm("none", None, (1.0,))


def test_settings_tell_what_decides_the_records(arms: list[Arm]) -> None:
    settings = settings_of(SUITE, arms, samples=2)
    assert settings["samples"] == 2
    assert settings["suite_sha256"] == SUITE.sha256
    assert [dial["loop"] for dial in settings["arms"]] == ["closed", "open", "closed"]
    assert settings != settings_of(SUITE, arms[:2], samples=2)


def test_a_record_survives_its_line(records: list[Record]) -> None:
    for record in records:
        assert Record.from_line(record.to_line()) == record


def test_an_empty_text_has_no_likelihood_in_its_line(make_record: Callable[..., Record]) -> None:
    line = make_record(nll=math.nan).to_line()
    assert '"nll": null' in line
    assert math.isnan(Record.from_line(line).nll)
    for wrong in ("", "[]", "{}", line[:-5]):
        with pytest.raises(ValueError, match="not a record"):
            Record.from_line(wrong)
