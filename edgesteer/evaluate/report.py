"""The report of an experiment: puts its tables, comparisons and plots together into report.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate import multilingual, personality, resistance, steerability
from edgesteer.evaluate.frontier import (
    BUDGETS,
    Curve,
    Regulation,
    at_effect,
    effect_within,
    make_curves,
    price,
    regulation,
)
from edgesteer.evaluate.judges import Judge
from edgesteer.evaluate.judges.encoder import load_encoder
from edgesteer.evaluate.judges.language import LanguageJudge
from edgesteer.evaluate.markdown import NONE, interval, number, table
from edgesteer.evaluate.metrics import LEAST_DISTINCT, MOST_NATS, MOST_REPETITION
from edgesteer.evaluate.paired import MEASURES, outcome
from edgesteer.evaluate.plot import plot_experiment
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import paired_bootstrap
from edgesteer.evaluate.suite import Suite
from edgesteer.evaluate.tables import (
    Table,
    all_judges_table,
    cost_table,
    effect_table,
    group_table,
    judges_table,
    probe_table,
)
from edgesteer.files import atomic_write

REPORT = "report.md"
ON_TARGET = "on"
"""The group of prompts that carry the concept already."""

HOW_TO_READ = f"""\
The effect is what the judge `{{primary}}` finds in a text: *presence* is 1 if any sentence carries the concept,
*density* the share of sentences that do, *mean* its score of the whole text in 0..1. *Nats* is -log p per token under
the unsteered model; *added* is above the unsteered texts of the same prompts and seeds. Intervals hold at 95 % and are
bootstrapped over the prompts, whose samples are averaged first. *Repetition* is the share of 4-grams that came before
in the text. A text is *broken* when its repetition is above {MOST_REPETITION:g}, its distinct-1 below
{LEAST_DISTINCT:g}, or its nats more than {MOST_NATS:g} above the mean of the unsteered texts.
"""
MATCHED = """\
What `{name}` pays for the mean effect that another arm has at a budget of added nats; strengths are interpolated.
*Spread* is the standard deviation over prompts of the prompt's effect, where both arms have that mean effect."""


def write_report(folder: Path, records: Sequence[Record], suite: Suite, judges: Sequence[Judge], title: str) -> Path:
    """Write report.md and the plots that it shows; return its path.

    Raises MissingExtraError without matplotlib, EdgeSteerError when a file cannot be written.
    """
    plots = plot_experiment(folder, records, suite.primary)
    text = report(records, suite, judges, title, [path.name for path in plots])
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return folder / REPORT


def report(
    records: Sequence[Record], suite: Suite, judges: Sequence[Judge], title: str, plots: Sequence[str] = ()
) -> str:
    """Return the report of an experiment as Markdown. plots: pictures beside it."""
    n_prompts, n_samples = (len({getattr(record, name) for record in records}) for name in ("prompt", "sample"))
    size = f"{n_prompts} prompts, {n_samples} samples of each, at most {suite.max_tokens} tokens."
    parts = [
        f"# {title}",
        f"{suite.description}\n\n{size}",
        HOW_TO_READ.format(primary=suite.primary),
        section("Judges", judges_table(judges, suite.primary)),
        section("Effect", effect_table(records, suite.primary)),
        section("Cost", cost_table(records)),
        *(f"![{Path(name).stem}]({name})" for name in plots if name.endswith(".png")),
        comparison(records, suite.primary),
        steerability.section(records, suite.primary),
        section("Side effects: what every judge finds", all_judges_table(records, judges)),
        section("By group of prompts", group_table(records, suite.primary)),
        section("What the probes read: part of the loop, not a verdict", probe_table(records)),
        language(records, suite, judges),
        personality.section({suite.primary: records}) if suite.primary in personality.TRAITS.values() else "",
        resistance.section(records),
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def section(heading: str, found: Table) -> str:
    return f"## {heading}\n\n{table(*found)}" if found[1] else ""


def language(records: Sequence[Record], suite: Suite, judges: Sequence[Judge]) -> str:
    """Return the part on language steering where the effect is a language; relevance is by the sentence encoder."""
    if not any(isinstance(judge, LanguageJudge) and judge.name == suite.primary for judge in judges):
        return ""
    questions = {prompt.id: prompt.text for prompt in suite.prompts}
    relevance = multilingual.relevances(records, questions, load_encoder().embed)
    return multilingual.section(records, suite.primary, relevance)


# ---- arms against each other ----


def comparison(records: Sequence[Record], primary: str) -> str:
    """Return the part that compares the arms at matched cost, and the first one with the others at matched effect."""
    parts = []
    for measure in MEASURES:
        prompts, curves = make_curves(records, outcome(primary, measure))
        if curves and len(prompts) > 1:
            groups = {record.prompt: record.group for record in records}
            on_target = np.array([groups[prompt] == ON_TARGET for prompt in prompts])
            parts += [f"### By {measure}", table(*within_table(curves)), table(*matched_table(curves, on_target))]
    name = next(iter(dict.fromkeys(record.arm for record in records if record.strength)), "")
    return "\n\n".join(["## Effect against cost", MATCHED.format(name=name), *parts]) if parts else ""


def within_table(curves: dict[str, Curve]) -> Table:
    """The largest mean effect of each arm within a budget."""
    rows = [
        [arm, number(float(curve.effects[:, curve.strengths == 0].mean())),
         *(interval(effect_within(curve, budget)) for budget in BUDGETS)]
        for arm, curve in curves.items()
    ]  # fmt: skip
    return ("arm", "unsteered", *(f"within +{budget:g} nats" for budget in BUDGETS)), rows


def matched_table(curves: dict[str, Curve], on_target: NDArray[np.bool_]) -> Table:
    """The first arm against each other one, at the effects that this one has within the budgets."""
    (_, arm), *others = curves.items()
    rows = []
    for name, reference in others:
        for budget in BUDGETS:
            found = price(reference, arm, budget)
            costs = [cost(found.rival_cost), cost(found.cost), interval(found.share)]
            spreads = spread_cells(regulation(reference, arm, found.effect))
            on = [on_target_cost(curve, found.effect, on_target) for curve in (reference, arm)]
            rows.append([name, f"+{budget:g}", number(found.effect), *costs, *spreads, *on])
    headers = (
        "against", "at nats", "effect", "its cost", "cost", "share", "its spread", "spread", "ratio",
        "its cost, on target", "cost, on target",
    )  # fmt: skip
    return headers, rows


def spread_cells(found: Regulation | None) -> list[str]:
    return (
        [NONE] * 3 if found is None else [number(found.reference_spread), number(found.spread), interval(found.ratio)]
    )


def cost(nats: float) -> str:
    return "never" if nats == math.inf else number(nats, 3)


def on_target_cost(curve: Curve, effect: float, on_target: NDArray[np.bool_]) -> str:
    """Return what prompts that carry the concept already pay where an arm has a mean effect."""
    found = at_effect(curve, effect)
    return NONE if found is None or not on_target.any() else interval(paired_bootstrap(found[1][on_target]), 3)
