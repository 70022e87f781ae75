"""Results page: the tables of docs/results.md, from the texts of every model and concept. Generates nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate.frontier import BUDGETS, Curve, at_effect, averaged, make_curves, price, regulation
from edgesteer.evaluate.judges import Judge
from edgesteer.evaluate.markdown import interval, number, percent, table
from edgesteer.evaluate.paired import MEASURES, outcome, unsteered
from edgesteer.evaluate.plot import PANEL_INCHES, draw_frontier
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.report import ON_TARGET
from edgesteer.evaluate.statistics import Interval, paired_bootstrap, spearman
from edgesteer.evaluate.suite import Suite
from edgesteer.evaluate.tables import broken_share, mean
from edgesteer.plot import save

REFERENCE = "static"
LOOPS = ("closed", "closed-kick", "closed-static", "kick-static")
"""The ways of steering that close the loop: the regulator's gains and the static vector, each with two loops."""
UPPER = ("closed-upper", "closed-static-upper", "static-upper")
"""Two of the loops, and the static vector, at the upper half of the blocks."""
Rows = NDArray[np.bool_]
CLOSED = (*LOOPS, *UPPER[:2])
DRAWN = ("static", "static-upper", "decay", *CLOSED)
FAR = "far"
"""The group of the prompts that have nothing of the concept."""


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
        parts += [f"## {model}", size_of(chosen), f"![Effect against cost on {model}]({picture_of(model)})"]
        parts += ["### What was aimed at", table(*target_table(chosen))]
        for measure in MEASURES:
            parts += [f"### Cost at the static vector's effect, by {measure}", table(*cost_table(chosen, measure))]
        parts += ["### Regulation and dial", table(*regulation_table(chosen))]
        parts += ["### Rank correlation of strength and effect", table(*dial_table(chosen))]
        parts += ["### Every concept, arm and strength", table(*frontier_table(chosen))]
    return "\n\n".join([*parts, LIMITS]) + "\n"


def picture_of(model: str) -> str:
    """Return the name of the file with a model's frontiers, beside the page."""
    return f"results-{model}.svg"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Write a picture of the frontiers of one model, averaged over its concepts: a panel a measure."""
    from matplotlib.figure import Figure

    width, height = PANEL_INCHES
    figure = Figure(figsize=(len(MEASURES) * width, height), layout="constrained")
    for panel, measure in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        curves = [curves_of(run, measure)[1] for run in runs]
        for arm in DRAWN:
            draw_frontier(panel, arm, average(curves, arm))
        panel.set(xlabel="added nats per token", ylabel=measure)
    panel.legend(fontsize="small")
    save(figure, path)


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


def average(curves: Iterable[Mapping[str, Curve]], arm: str, *others: str) -> Curve:
    """Return an arm's curve over the concepts that have it and the others."""
    return averaged([each[arm] for each in curves if {arm, *others} <= each.keys()])


def cost_table(runs: Sequence[Run], measure: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Each arm averaged over concepts: its frontier, and its cost over that of the static vector at its effect."""
    curves = [curves_of(run, measure)[1] for run in runs]
    rows = []
    for arm in arms_of(curves):
        reference, curve = average(curves, REFERENCE, arm), average(curves, arm, REFERENCE)
        frontier = zip(curve.mean_effects[1:] - curve.mean_effects[0], curve.mean_costs[1:], strict=True)
        shares = (share_cell(reference, curve, budget) for budget in BUDGETS)
        steps = ", ".join(f"{number(effect)} for {number(cost)}" for effect, cost in frontier)
        rows.append([arm, steps, *shares, str(sum(arm in each for each in curves))])
    shares = (f"cost over static's at +{budget:g} nats" for budget in BUDGETS)
    return ("arm", "added effect for added nats, up the dial", *shares, "concepts"), rows


def share_cell(
    reference: Curve, curve: Curve, budget: float, wanted: float = -math.inf, rival: Curve | None = None
) -> str:
    """Return what a curve pays over what a rival pays for the reference's effect at a budget; bold if it is wanted."""
    found = price(reference, curve, budget, rival).share
    if found.value == math.inf:
        return "not that far"
    return cell(interval(found), found.value <= wanted)


def arms_of(curves: Iterable[Mapping[str, Curve]]) -> list[str]:
    """Return the arms of all concepts; not every law can be exported for every concept."""
    return list(dict.fromkeys(arm for each in curves for arm in each))


def best_closed(curves: Sequence[Mapping[str, Curve]], budget: float) -> tuple[Curve, Curve, Curve]:
    """Return the static vector, the decaying one, and the loop that is cheapest on the other half of the prompts."""
    halves: list[list[Curve]] = [[], [], []]
    for here, there in ((0, 1), (1, 0)):
        mine, others = (halved(curves, number) for number in (here, there))
        reference = average(others, REFERENCE)
        best = min(CLOSED, key=lambda arm: price(reference, average(others, arm), budget).share.value)
        for place, arm in enumerate((REFERENCE, "decay", best)):
            halves[place].append(average(mine, arm))
    return averaged(halves[0]), averaged(halves[1]), averaged(halves[2])


def halved(curves: Sequence[Mapping[str, Curve]], number: int) -> list[dict[str, Curve]]:
    """Return every other prompt of all curves."""
    return [
        {
            arm: replace(curve, effects=curve.effects[number::2], costs=curve.costs[number::2])
            for arm, curve in each.items()
        }
        for each in curves
    ]


def target_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    """What the closed loop was to reach, and what each form of it reached. Effects are the judge's mean scores."""
    curves = [curves_of(run, "mean")[1] for run in runs]
    rows = [
        price_row(curves, rival, wanted, budget)
        for budget in BUDGETS
        for rival, wanted in ((REFERENCE, 0.5), ("decay", 1.0))
    ]
    found = [regulation_of(runs, arm) for arm in CLOSED]
    plain = float(np.mean([broken_share(base, base) for base in (unsteered(run.records) for run in runs)]))
    rows += [
        ["spread over prompts, over that of *static* at its effect", "at most 0.5", "",
         *(cell(number(each.spread), each.spread <= 0.5) for each in found)],
        ["effect on target less effect far from it, over that of *static* at its effect", "at most 0.5", "",
         *(cell(number(each.slope), each.slope <= 0.5) for each in found)],
        ["cost of prompts on target", "at most 0.02", "",
         *(cell(interval(each.on_target, 3), each.on_target.value <= 0.02) for each in found)],
        ["share of the effect at half the level", "0.4 to 0.6", "",
         *(cell(number(each.half), 0.4 <= each.half <= 0.6) for each in found)],
        ["rank correlation of strength and effect, averaged over concepts", "at least 0.95", "",
         *(cell(number(each.rank), each.rank >= 0.95) for each in found)],
        ["the same, least of all concepts", "at least 0.95", "",
         *(cell(number(least), least >= 0.95) for least in (min(each.ranks.values()) for each in found))],
        ["broken texts at the safe end", f"0 %; unsteered {percent(plain)}", "",
         *(cell(percent(each.broken), each.broken <= plain) for each in found)],
    ]  # fmt: skip
    return ("", "wanted", "best closed", *CLOSED), rows


def price_row(curves: Sequence[Mapping[str, Curve]], rival: str, wanted: float, budget: float) -> list[str]:
    """Return what each form of the loop pays for the effect of the static vector, over what a rival pays for it."""
    trios = [best_closed(curves, budget)]
    trios += [(average(curves, REFERENCE), average(curves, "decay"), average(curves, arm)) for arm in CLOSED]
    what = f"cost over that of *{rival}* at the effect of static at +{budget:g} nats"
    cells = (
        share_cell(reference, arm, budget, wanted, None if rival == REFERENCE else decay)
        for reference, decay, arm in trios
    )
    return [what, f"at most {wanted:g}", *cells]


def cell(text: str, is_reached: bool) -> str:
    """Return a number that was to be reached, in bold where it was."""
    return f"**{text}**" if is_reached else text


class Regulated(NamedTuple):
    """How an arm regulates. spread: median over concepts; ranks: by concept; the rest: averaged over concepts.

    slope: by how much prompts on target come out higher than those far from it, over the same of the static vector at
    the same effect.
    """

    spread: float
    slope: float
    on_target: Interval
    half: float
    rank: float
    ranks: dict[str, float]
    broken: float


def regulation_of(runs: Sequence[Run], arm: str) -> Regulated:
    found = [(run, *curves_of(run, "mean")) for run in runs]
    found = [each for each in found if arm in each[2]]
    spreads, ranks, broken, groups = [], {}, [], []
    for run, prompts, curves in found:
        curve = curves[arm]
        if (matched := regulation(curves[REFERENCE], curve, float(curve.mean_effects[-1]))) is not None:
            spreads.append(matched.ratio.value)
        of = {record.prompt: record.group for record in run.records}
        groups += [of[prompt] for prompt in prompts]
        ranks[run.concept] = spearman(curve.strengths, curve.mean_effects)
        last = [record for record in run.records if (record.arm, record.strength) == (arm, curve.strengths[-1])]
        broken.append(broken_share(last, unsteered(run.records)))
    everything = [curves for _, _, curves in found]
    reference, curve = average(everything, REFERENCE), average(everything, arm)
    rise = curve.mean_effects - curve.mean_effects[0]
    dial = np.mean([curves[arm].strengths / curves[arm].strengths[-1] for curves in everything], axis=0)
    on, far = (np.array(groups) == group for group in (ON_TARGET, FAR))
    return Regulated(
        float(np.median(spreads)) if spreads else math.nan,
        slope_share(reference, curve, on, far),
        paired_bootstrap(curve.costs[on, -1]),
        float(np.interp(0.5, dial, rise) / rise[-1]) if rise[-1] else math.nan,
        spearman(curve.strengths, curve.mean_effects),
        ranks,
        float(np.mean(broken)),
    )


def slope_share(reference: Curve, curve: Curve, on: Rows, far: Rows) -> float:
    """Return the slope of a curve over that of a reference; see Regulated. on, far: masks of prompts, (prompts,)."""
    effect = min(each.mean_effects.max() for each in (reference, curve))
    places = [at_effect(each, float(effect)) for each in (reference, curve)]
    if places[0] is None or places[1] is None:
        return math.nan
    theirs, ours = (effects[on].mean() - effects[far].mean() for effects, _ in (places[0], places[1]))
    return float(ours / theirs)


def regulation_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Of each arm, over concepts: spread at matched effect, cost on target, half the level, broken texts."""
    rows = []
    for arm in arms_of(curves_of(run, "mean")[1] for run in runs):
        found = regulation_of(runs, arm)
        rows.append([
            arm, number(found.spread), number(found.slope), interval(found.on_target, 3), number(found.half),
            number(found.rank), percent(found.broken),
        ])  # fmt: skip
    headers = (
        "arm", "spread over static's at its effect", "on target less far, over static's", "cost on target",
        "share of the effect at half the dial", "rank correlation", "broken at the last strength",
    )  # fmt: skip
    return headers, rows


def dial_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    ranks = {arm: regulation_of(runs, arm).ranks for arm in arms_of(curves_of(run, "mean")[1] for run in runs)}
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
