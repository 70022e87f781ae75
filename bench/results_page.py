"""Results page: the tables of docs/results.md, from the texts of every model and concept. Generates nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from edgesteer.evaluate.frontier import BUDGETS, Curve, make_curves, pooled_price, regulation
from edgesteer.evaluate.judges import Judge
from edgesteer.evaluate.markdown import interval, number, percent, table
from edgesteer.evaluate.paired import MEASURES, outcome, unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.report import ON_TARGET
from edgesteer.evaluate.statistics import Interval, paired_bootstrap, spearman
from edgesteer.evaluate.suite import Suite
from edgesteer.evaluate.tables import broken_share, mean

REFERENCE = "static"
LOOPS = ("closed", "closed-kick", "closed-static", "kick-static")
"""The ways of steering that close the loop: the regulator's gains and the static vector, each with two loops."""


@dataclass(frozen=True)
class Run:
    """The texts of one model and concept."""

    model: str
    concept: str
    suite: Suite
    judges: list[Judge]
    records: list[Record]


def page(runs: Sequence[Run], command: str) -> str:
    models = list(dict.fromkeys(run.model for run in runs))
    parts = [PREFACE.format(command=command), "## Judges", table(*judge_table(runs))]
    for model in models:
        chosen = [run for run in runs if run.model == model]
        parts += [f"## {model}", size_of(chosen), "### What was aimed at", table(*target_table(chosen))]
        for measure in MEASURES:
            parts += [f"### Cost at the static vector's effect, by {measure}", table(*cost_table(chosen, measure))]
        parts += ["### Regulation and dial", table(*regulation_table(chosen))]
        parts += ["### Rank correlation of strength and effect", table(*dial_table(chosen))]
        parts += ["### Every concept, arm and strength", table(*frontier_table(chosen))]
    return "\n\n".join([*parts, LIMITS]) + "\n"


PREFACE = """\
# Results

Made by `{command}`. SmolLM2-135M-Instruct is requantized to Q4_0. *Presence*: any sentence of a text
carries the concept; *density*: the share that does; *mean*:
the judge's score. *Cost*: negative log likelihood per token under the unsteered model, above the unsteered texts of
the same prompts and seeds. *static*: the difference of the class means added at every block; *static-middle*: at the
middle third; *decay*: the static vector with an effort that falls off over tokens; *pca*: repeng's directions;
*closed*: `lqr` with the outer loop; *closed-static*: the static vector with it; *closed-kick*, *kick-static*: the same
two with a reserve that empties in three tokens. *best closed*: of these four the one that is cheapest over all concepts
on half of the prompts, measured on the other half, and the other way round. In the tables of what was aimed at, bold is
what was reached, and *3 of 9* counts the concepts in which both arms come to the effect. Intervals hold at
95 %, bootstrapped over prompts."""


LIMITS = """\
## What is reached, and what limits it

- *Reading the tables.* A text's likelihood scatters by about half a nat, so that the added cost of 24 to 32 texts
  is known to about 0.1 nats, and that of Gemma's 12 to less. Costs below that, and shares of them, may come out
  negative; read the sums over concepts, and how many concepts are in them. Where no interval is given, the sum of the
  static vector's costs comes near zero in some resamples. Choosing a loop by half of such prompts picks one that was
  lucky there, which is why *best closed* does worse than the loops it chooses from.
- *Cost.* By mean score, the regulator with a reserve, *closed-kick*, pays less than the static vector and less than the
  decaying one in every row of both models, over the 4 to 7 of 9 concepts that both bring to the effect. The other
  measures do not agree on it: at +0.1 and +0.2 nats it pays 0.50 and 0.48 of the static vector's cost by presence on
  SmolLM2, but 1.53 and 0.75 on Gemma, and by density 1.24 and 0.94, 1.04 and 0.73. Half, which was wanted on both
  models, is so reached by no measure. The sums have no useful intervals.
- *Prompts on target.* With a reserve, they pay nothing that these texts could show (the static vector: 0.5 to 0.6
  nats), and fewer texts break than without it. The loop alone keeps pushing, because a text that was steered towards a
  tone rarely reads as far from neutral as its reference asks for.
- *Why it is not half everywhere.* A static vector is cheap where the concept is a tone: a push of some tokens alone
  then costs more for the same effect than a weaker push of all of them. Where it is a topic, letting go early pays,
  but a vector that decays by itself has most of that gain.
- *Why the spread does not fall.* At these effects most of the spread over prompts is that of single texts, which no
  controller removes: the sensor reads far, near and on-target prompts as 0.0, 0.5 and 0.85, with a standard
  deviation of 0.2 to 0.3 over texts of one kind.
- *The dial.* With one text a prompt, neighbouring strengths often change places, and a rank correlation over five of
  them falls below 0.95 by one such change. Civility and extraversion start near the top (0.73 to 0.89 unsteered), and
  refusal hardly moves in models of this size, whatever steers it. `edgesteer tune` measures on a model where text
  breaks; here the ends of the dial are those of the exporter, by divergence on neutral text, and some break at them.
- *`a-lqr` and `pid`* break Gemma's text well inside of the range that neutral text gave them.
- *Tried without gain*: relay-like loops, fast attack with slow release, pushes of a single token, directions
  whitened by the output's Fisher information.
- *The reserve is an option* (`--fade-tokens`), not the default: a push that ends cannot take a topic out of a
  prompt that keeps bringing it back. `edgesteer tune` chooses between the forms for a model and concept."""


def size_of(runs: Sequence[Run]) -> str:
    """Return a sentence on how much was generated."""
    prompts = [len({record.prompt for record in run.records}) for run in runs]
    texts = sum(len(run.records) for run in runs)
    least, most = min(prompts), max(prompts)
    return f"{len(runs)} concepts, {least if least == most else f'{least} to {most}'} prompts each, {texts} texts."


def judge_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    found = {run.concept: next(judge for judge in run.judges if judge.name == run.suite.primary) for run in runs}
    rows = [
        [concept, judge.name, "not measured" if judge.accuracy is None else str(judge.accuracy)]
        for concept, judge in found.items()
    ]
    return ("concept", "judge", "accuracy on held-out labels"), rows


def curves_of(run: Run, measure: str) -> tuple[list[str], dict[str, Curve]]:
    return make_curves(run.records, outcome(run.suite.primary, measure))


def cost_table(runs: Sequence[Run], measure: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """The added cost of each arm over that of the static vector, at its effect, over all concepts together."""
    curves = [curves_of(run, measure)[1] for run in runs]
    rows = []
    for arm in arms_of(curves):
        pairs = [(each[REFERENCE], each[arm]) for each in curves if arm in each]
        found = [pooled_price(pairs, budget) for budget in BUDGETS]
        rows.append([arm, *(f"{interval(each.share)}, {each.reached} of {len(runs)}" for each in found)])
    halves = [best_halves(curves, budget) for budget in BUDGETS]
    shares = [pooled_price([half.pair for half in each], budget) for each, budget in zip(halves, BUDGETS, strict=True)]
    rows.append(["best closed", *(f"{interval(each.share)}, {each.reached / 2:g} of {len(runs)}" for each in shares)])
    return ("arm", *(f"cost over static's at +{budget:g} nats, concepts" for budget in BUDGETS)), rows


def arms_of(curves: Iterable[Mapping[str, Curve]]) -> list[str]:
    """Return the arms of all concepts; not every law can be exported for every concept."""
    return list(dict.fromkeys(arm for each in curves for arm in each))


class Half(NamedTuple):
    """Half of the prompts of a concept: the static vector, the decaying one, and the loop that the other half chose."""

    reference: Curve
    decay: Curve
    chosen: Curve

    @property
    def pair(self) -> tuple[Curve, Curve]:
        return self.reference, self.chosen


def best_halves(curves: Sequence[Mapping[str, Curve]], budget: float) -> list[Half]:
    """Return both halves of every concept, each with the loop that is cheapest over all concepts on the others."""
    found = []
    for here, there in ((0, 1), (1, 0)):
        best = min(LOOPS, key=lambda name: half_price(curves, name, there, budget))
        found += [Half(*(half(each[name], here) for name in (REFERENCE, "decay", best))) for each in curves]
    return found


def half_price(curves: Sequence[Mapping[str, Curve]], name: str, number: int, budget: float) -> tuple[int, float]:
    """Return in how many concepts a loop misses the effect, and its share of the cost in the others."""
    found = pooled_price([(half(each[REFERENCE], number), half(each[name], number)) for each in curves], budget)
    return -found.reached, found.share.value


def half(curve: Curve, number: int) -> Curve:
    """Return every other prompt of a curve."""
    return replace(curve, effects=curve.effects[number::2], costs=curve.costs[number::2])


def target_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    """What the closed loop was to reach, and what each form of it reached. Effects are the judge's mean scores."""
    curves = [curves_of(run, "mean") for run in runs]
    rows = [
        price_row([each for _, each in curves], rival, wanted, budget)
        for budget in BUDGETS
        for rival, wanted in (("static", 0.5), ("decay", 1.0))
    ]
    found = [regulation_of(runs, curves, arm) for arm in LOOPS]
    least = [min(each.ranks.values()) for each in found]
    rows += [
        ["spread over prompts, over that of *static* at its effect", "at most 0.5", "",
         *(cell(number(each.spread), each.spread <= 0.5) for each in found)],
        ["cost of prompts on target", "at most 0.02", "",
         *(cell(interval(each.on_target, 3), each.on_target.value <= 0.02) for each in found)],
        ["share of the effect at half the level", "0.5", "", *(number(each.half) for each in found)],
        ["least rank correlation of strength and effect", "at least 0.95", "",
         *(cell(number(rank), rank >= 0.95) for rank in least)],
        ["broken texts at the safe end", "0 %", "", *(cell(percent(each.broken), each.broken == 0) for each in found)],
    ]  # fmt: skip
    return ("", "wanted", "best closed", *LOOPS), rows


def price_row(curves: Sequence[Mapping[str, Curve]], rival: str, wanted: float, budget: float) -> list[str]:
    """Return what each form of the loop pays for the effect of the static vector, over what a rival pays for it."""
    halves = best_halves(curves, budget)
    decay = None if rival == REFERENCE else [half.decay for half in halves]
    found = [pooled_price([half.pair for half in halves], budget, decay)]
    for arm in LOOPS:
        rivals = None if rival == REFERENCE else [each[rival] for each in curves]
        found.append(pooled_price([(each[REFERENCE], each[arm]) for each in curves], budget, rivals))
    what = f"cost over that of *{rival}* at the effect of static at +{budget:g} nats"
    counts = [found[0].reached / 2, *(each.reached for each in found[1:])]  # the best one is measured on halves
    shares = [f"{interval(each.share)}, {count:g} of {len(curves)}" for each, count in zip(found, counts, strict=True)]
    cells = [cell(share, each.share.value <= wanted) for share, each in zip(shares, found, strict=True)]
    return [what, f"at most {wanted:g}", *cells]


def cell(text: str, is_reached: bool) -> str:
    """Return a number that was to be reached, in bold where it was."""
    return f"**{text}**" if is_reached else text


class Regulated(NamedTuple):
    """An arm over concepts: medians but for on_target (mean), broken (mean) and ranks (by concept)."""

    spread: float
    spread_concepts: int
    on_target: Interval
    half: float
    ranks: dict[str, float]
    broken: float


def regulation_of(
    runs: Sequence[Run], curves: Sequence[tuple[list[str], Mapping[str, Curve]]], arm: str
) -> Regulated:
    spreads, on_target, halves, ranks, broken = [], [], [], {}, []
    for run, (prompts, each) in zip(runs, curves, strict=True):
        if arm not in each:
            continue
        curve = each[arm]
        if (found := regulation(each[REFERENCE], curve, float(curve.mean_effects[-1]))) is not None:
            spreads.append(found.ratio.value)
        groups = {record.prompt: record.group for record in run.records}
        on_target += curve.costs[[groups[prompt] == ON_TARGET for prompt in prompts], -1].tolist()
        rise = curve.mean_effects - curve.mean_effects[0]
        middle = float(np.interp(curve.strengths[-1] / 2, curve.strengths, rise))
        halves.append(middle / rise[-1] if rise[-1] else np.nan)
        ranks[run.concept] = spearman(curve.strengths, curve.mean_effects)
        last = [record for record in run.records if (record.arm, record.strength) == (arm, curve.strengths[-1])]
        broken.append(broken_share(last, unsteered(run.records)))
    return Regulated(
        float(np.median(spreads)) if spreads else np.nan,
        len(spreads),
        paired_bootstrap(np.array(on_target)),
        float(np.nanmedian(halves)),
        ranks,
        float(np.mean(broken)),
    )


def regulation_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Of each arm, over concepts: spread at matched effect, cost on target, half the level, broken texts."""
    curves = [curves_of(run, "mean") for run in runs]
    rows = []
    for arm in arms_of(each for _, each in curves):
        found = regulation_of(runs, curves, arm)
        rows.append([
            arm, f"{number(found.spread)} ({found.spread_concepts})", interval(found.on_target, 3),
            number(found.half), percent(found.broken),
        ])  # fmt: skip
    headers = (
        "arm", "spread over static's at its effect, median (concepts)", "cost on target at the last strength",
        "share of the effect at half of it, median", "broken at the last strength",
    )  # fmt: skip
    return headers, rows


def dial_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    curves = [curves_of(run, "mean") for run in runs]
    ranks = {arm: regulation_of(runs, curves, arm).ranks for arm in arms_of(each for _, each in curves)}
    rows = [[run.concept, *(number(each.get(run.concept, math.nan)) for each in ranks.values())] for run in runs]
    return ("concept", *ranks), rows


def frontier_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    rows = []
    for run in runs:
        base = unsteered(run.records)
        settings = dict.fromkeys((record.arm, record.strength) for record in run.records)
        for arm, strength in settings:
            chosen = [record for record in run.records if (record.arm, record.strength) == (arm, strength)]
            effects = [number(mean(chosen, outcome(run.suite.primary, measure))) for measure in MEASURES]
            added = mean(chosen, lambda record: record.nll) - mean(base, lambda record: record.nll)
            broken = percent(broken_share(chosen, base))
            rows.append([run.concept, arm, f"{strength:g}" if strength else "", *effects, number(added, 3), broken])
    return ("concept", "arm", "strength", *MEASURES, "added nats", "broken"), rows
