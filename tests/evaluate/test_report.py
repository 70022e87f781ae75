"""The report of experiments made by hand: what was planted appears, and what was not does not."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.evaluate.judges import Accuracy, make_judge
from edgesteer.evaluate.plot import plot_experiment
from edgesteer.evaluate.report import report, write_report
from edgesteer.evaluate.suite import Suite, SuitePrompt
from edgesteer.evaluate.tables import broken_share, effect_table, headline, probe_reading, probe_table

SUITE = Suite("dogs", (), (), "dogs", "A topic.")
STRENGTHS = (0.5, 1.0, 1.5)
SLOPES = {"closed": (0.4, 0.1), "static": (0.4, 0.2), "idle": (0.0, 0.0)}
"""Effect, and nats, of each unit of strength."""


class Dogs:
    name, threshold, accuracy = "dogs", 0.5, Accuracy(0.9, 0.8, 0.95, 100, 0.5)

    def score(self, texts: Any) -> Any:
        raise NotImplementedError


class Cats(Dogs):
    name, accuracy = "cats", None


@pytest.fixture(scope="module")
def records(make_record: Any) -> list[Any]:
    """20 prompts and 2 samples with noise on every effect and cost; prompts `on` cost the closed loop nothing."""
    random = np.random.default_rng(0)
    found = []
    for number, sample in ((number, sample) for number in range(20) for sample in range(2)):
        group = "on" if number % 4 == 0 else "far"
        for arm, strength in [("none", 0.0), *((arm, strength) for arm in SLOPES for strength in STRENGTHS)]:
            effect, nats = SLOPES.get(arm, (0.0, 0.0))
            nats = 0.0 if (arm, group) == ("closed", "on") else nats
            score = 0.1 + effect * strength + random.normal(0, 0.02)
            found.append(
                make_record(
                    arm, strength, f"p{number}", sample=sample, group=group, dogs=score, cats=0.3,
                    nll=2 + nats * strength + random.normal(0, 0.01),
                    steering=[{"alpha": [strength, strength + 0.2, None]}] if strength else [],
                )
            )  # fmt: skip
    return found


def cells(text: str, heading: str, *row: str) -> list[str]:
    """Return the cells of the row that begins so, in the first table under a heading."""
    below = text.split(f"{heading}\n", 1)[1]
    lines = ([cell.strip() for cell in line.strip("| ").split("|")] for line in below.splitlines() if line[:1] == "|")
    return next(line for line in lines if line[: len(row)] == list(row))


@pytest.fixture(scope="module")
def text(records: list[Any]) -> str:
    return report(records, SUITE, [Dogs(), Cats()], "tiny, dogs")


def values(cell: str) -> list[float]:
    """Return estimate, low and high of a cell such as `0.10 (0.05 to 0.15)`."""
    return [float(each) for each in cell.replace("(", "").replace(")", "").replace("to", "").split()]


def test_a_planted_effect_appears_with_its_size_and_a_null_effect_does_not(text: str) -> None:
    planted = values(cells(text, "## Effect", "closed", "1")[7])
    assert planted == pytest.approx([0.4, 0.4, 0.4], abs=0.03)
    nothing = values(cells(text, "## Effect", "idle", "1")[7])
    assert nothing[1] < 0 < nothing[2]


def test_a_planted_cost_appears_with_its_size(text: str) -> None:
    static, idle = (values(cells(text, "## Cost", arm, "1")[3]) for arm in ("static", "idle"))
    assert static[1] < 0.2 < static[2]
    assert static[1] > 0.15
    assert abs(idle[0]) < 0.01


def test_what_a_cheaper_arm_pays_at_matched_effect_appears(text: str) -> None:
    """Of the closed loop's prompts a quarter pay nothing, so it pays 0.375 of what the static vector does."""
    row = cells(text, "### By mean", "static", "+0.1")
    assert row[2:4] == ["0.30", "0.100"]
    share = values(row[5])
    assert share[1] < 0.375 < share[2] < 0.6
    assert values(row[10])[1] < 0 < values(row[10])[2] < values(row[9])[1]  # on target: nothing against something


def test_judges_stand_with_their_accuracy(text: str) -> None:
    assert "0.900 [0.800, 0.950] right of 100" in cells(text, "## Judges", "dogs")[3]
    assert cells(text, "## Judges", "cats")[1:] == ["", "0.50", "not measured"]
    assert "| arm | strength | dogs (90 % right) | cats |" in text


def test_groups_are_reported_apart(text: str, records: list[Any]) -> None:
    far, on = (values(cells(text, "## By group of prompts", group, "closed", "1")[6])[0] for group in ("far", "on"))
    assert far == pytest.approx(0.1, abs=0.01)
    assert on == pytest.approx(0, abs=0.01)
    alone = [record for record in records if record.group == "on"]
    assert "## By group" not in report(alone, SUITE, [Dogs(), Cats()], "tiny, dogs")


def test_the_probes_reading_is_apart_and_no_verdict(text: str, records: list[Any]) -> None:
    assert cells(text, "## What the probes read: part of the loop, not a verdict", "closed", "1")[2] == "1.10"
    assert probe_table([record for record in records if record.arm == "none"])[1] == []
    assert math.isnan(probe_reading(records[0]))


def test_broken_texts_are_counted(make_record: Any) -> None:
    base = [make_record(prompt=prompt, nll=2.0) for prompt in "ab"]
    steered = [
        make_record("lqr", 1.0, "a", nll=4.5),
        make_record("lqr", 1.0, "b", text="so so so so so so"),
        make_record("lqr", 1.0, "c", text="", nll=math.nan),
        make_record("lqr", 1.0, "d"),
    ]
    assert broken_share(base, base) == 0
    assert broken_share(steered, base) == 0.5


def test_means_are_over_texts_and_changes_over_prompts(make_record: Any) -> None:
    records = [
        make_record("none", 0.0, "a", dogs=0.0), make_record("none", 0.0, "b", dogs=0.5),
        make_record("lqr", 1.0, "a", dogs=0.5), make_record("lqr", 1.0, "b", dogs=1.0),
    ]  # fmt: skip
    headers, rows = effect_table(records, "dogs")
    assert headers[:4] == ("arm", "strength", "presence", "change")
    assert [row[:4] for row in rows] == [["none", "", "0.25", ""], ["lqr", "1", "0.75", "0.50 (0.50 to 0.50)"]]
    assert headline(records, "dogs")[1][1] == ["lqr", "1", "0.75", "0.75", "0.75", "0.000 (0.000 to 0.000)", "0 %"]


def test_a_language_as_the_effect_has_a_part_of_its_own(make_record: Any) -> None:
    judge = make_judge({"kind": "language", "name": "french", "wanted": "fr"}, Path())
    suite = Suite("french", (SuitePrompt("a", "Where does the river flow?"),), (), "french", "A language.")
    records = [
        make_record("none", 0.0, "a", text="The river flows to the sea.", french=0.0),
        make_record("lqr", 1.0, "a", text="La rivière coule.", french=1.0),
    ]
    text = report(records, suite, [judge], "tiny, french")
    assert cells(text, "## Language steering", "lqr", "1")[4].startswith("100 %")
    assert float(cells(text, "## Language steering", "none", "0")[5]) > 0.5


def test_a_trait_as_the_effect_has_a_part_of_its_own(make_record: Any) -> None:
    records = [
        make_record(arm, strength, prompt, openness=0.25 * strength)
        for arm, strength in (("none", 0.0), ("lqr", 1.0), ("lqr", 2.0))
        for prompt in "abc"
    ]
    text = report(records, replace(SUITE, primary="openness"), [], "tiny, openness")
    assert "## Personality" in text
    assert "## Language steering" not in text


def test_a_run_without_a_dial_has_a_report_without_comparisons(make_record: Any, tmp_path: Path) -> None:
    records = [make_record(arm, 0.0, prompt, dogs=0.5) for arm in ("none", "system-prompt") for prompt in "ab"]
    text = write_report(tmp_path, records, SUITE, [Dogs()], "tiny, dogs").read_text("utf-8")
    assert cells(text, "## Effect", "system-prompt")[2] == "0.50"
    assert "## Effect against cost" not in text
    assert [path.name for path in tmp_path.iterdir()] == ["report.md"]


def test_a_report_of_one_prompt_and_of_empty_texts_is_written(make_record: Any, tmp_path: Path) -> None:
    records = [make_record("none", 0.0, "a", dogs=0.0)]
    records += [make_record("lqr", s, "a", dogs=0.0, text="", nll=math.nan) for s in STRENGTHS]
    text = write_report(tmp_path, records, SUITE, [Dogs()], "tiny, dogs").read_text("utf-8")
    assert cells(text, "## Cost", "lqr", "1")[2:4] == ["-", "-"]


def test_pictures_are_png_and_svg_and_name_every_arm(records: list[Any], make_record: Any, tmp_path: Path) -> None:
    asked = [make_record("system-prompt", 0.0, f"p{number}", dogs=0.6, nll=2.5) for number in range(20)]
    paths = plot_experiment(tmp_path, [*records, *asked], "dogs")
    assert [path.name for path in paths] == [
        "effect_strength.png", "effect_strength.svg", "effect_cost.png", "effect_cost.svg",
    ]  # fmt: skip
    assert paths[0].read_bytes().startswith(b"\x89PNG")
    dose, frontier = (path.read_text("utf-8") for path in paths[1::2])
    for arm in SLOPES:
        assert f"<!-- {arm} -->" in dose
        assert f"<!-- {arm} -->" in frontier
    assert "<!-- system-prompt -->" in frontier
    assert "<!-- system-prompt -->" not in dose
