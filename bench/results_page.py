"""Results page: the tables of docs/results.md, from the texts of every model and concept. Generates nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate.frontier import (
    BUDGETS,
    Curve,
    at_effect,
    averaged,
    make_curves,
    price,
    regulation,
    resamples,
    whole,
)
from edgesteer.evaluate.judges import Judge
from edgesteer.evaluate.markdown import interval, number, percent, table
from edgesteer.evaluate.paired import MEASURES, UNSTEERED, Array, outcome, unsteered
from edgesteer.evaluate.plot import PANEL_INCHES, draw_frontier
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.report import ON_TARGET
from edgesteer.evaluate.statistics import Interval, paired_bootstrap, spearman, variance_between
from edgesteer.evaluate.suite import Suite
from edgesteer.evaluate.tables import broken_share, mean
from edgesteer.plot import save

REFERENCE = "static"
LOOPS = ("closed", "closed-static")
"""The regulator's gains and the static vector, with a loop whose target moves with the dial."""
UPPER = ("closed-upper", "closed-static-upper", "static-upper")
"""Two of the loops, and the static vector, at the upper half of the blocks."""
Rows = NDArray[np.bool_]
SCHEDULED = ("scheduled", "scheduled-loop", "static-loop")
"""A gain scheduled by uncertainty at the upper half, without and with its loop; the static vector with that loop."""
REPEATED = (REFERENCE, SCHEDULED[1])
"""The ways of steering with several texts a prompt."""
REPEATED_DRAWS = 2000
KEYS: tuple[Callable[[Record], Any], ...] = (
    lambda record: record.strength, lambda record: record.prompt, lambda record: record.sample,
)  # fmt: skip
LEAST_RISE = 0.05
"""Of the mean effect above the unsteered one: below it there is nothing to regulate."""
CLOSED = (*LOOPS, *UPPER[:2], *SCHEDULED[1:])
DRAWN = ("static", "decay", "closed", "closed-static", *SCHEDULED)
MOST_NATS = 0.6
"""Beyond it a fit is of broken text."""
HOPELESS = 100.0
"""How many times the static vector's cost is no comparison any more."""
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
    repeated: list[Record]
    """Several texts a prompt, unsteered and of the arms in REPEATED."""

    @cached_property
    def curves(self) -> dict[str, tuple[list[str], dict[str, Curve]]]:
        """Of each measure: the prompts, and the curve of each arm over them."""
        return {measure: make_curves(self.records, outcome(self.suite.primary, measure)) for measure in MEASURES}

    @cached_property
    def repeated_curves(self) -> dict[str, Curve]:
        """The curves of the mean score over several texts a prompt."""
        return make_curves(self.repeated, outcome(self.suite.primary, "mean"))[1]


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
        curves = [run.curves[measure][1] for run in runs]
        for arm in DRAWN:
            draw_frontier(panel, arm, average(curves, arm))
        panel.set(xlabel="added nats per token", ylabel=measure)
    panel.legend(fontsize="small")
    save(figure, path)


PREFACE = """\
# Results

Made by `{command}`. The texts are of several runs: an arm that did not change was not generated again,
and those that were left out since were taken out of the records. A run from nothing has not been timed; its parts took
about four and a half hours on two cores with two more arms, so that about four are expected.
SmolLM2-135M-Instruct is requantized to Q4_0. *Presence*: any sentence of a text carries the concept; *density*: the
share that does; *mean*: the judge's score. *Cost*: negative log likelihood per token under the unsteered model, above
the unsteered texts of the same prompts and seeds.

- *static*: the difference of the class means added at every block; *static-middle*: at the middle third;
  *static-upper*: at the upper half; *decay*: the static vector with an effort that falls off over tokens; *pca*:
  repeng's directions.
- *system-prompt*: a system prompt that asks for the concept, on SmolLM2 alone (this Gemma has no chat template); it has
  no dial, so that it is in the last table of a model and not in the averages.
- *closed*: `lqr` with the outer loop; *closed-static*: the static vector with it; *closed-upper*,
  *closed-static-upper*: the same at the upper half. The targets of these loops move with the dial.
- *scheduled*: the static vector at the upper half with a gain that follows how undecided the next token is
  ([method.md](method.md)), open across tokens; *scheduled-loop*: with the loop that `--law scheduled` makes, which has
  a fixed target and a reserve of eight tokens; *static-loop*: the static vector at every block with that loop.
- *best closed*: of these six loops the one that is cheapest on half of the prompts, measured on the other half, and
  the other way round.

Arms are compared averaged over concepts, place by place of their dials. *Not that far*: the end of the arm's dial has
less effect than asked for. *Fitted*: effect as linear and cost as quadratic in the strength, over all strengths of at
most 0.6 nats; the cost at equal effect that follows, over the static vector's. It knows more than the two single places
above it, and has the narrower intervals. *Several texts each*: three texts a prompt, of the static vector and of
*scheduled-loop* at two strengths each. Intervals hold at 95 %, bootstrapped over prompts; there is none where some
resamples do not come to the effect. Bold is a value at the wanted one or better, whatever its interval says. *Effect on
target less far* is no aim that was set: by how much prompts on target come out above those far from it, over the same
of the static vector. Nor is the averaged rank correlation; both were looked at when the aims were missed, and so were
the fit and the upper half, whose strengths were set after a first look at `ocean`. The law *scheduled* and its loops
were found on `ocean`, `french` and `optimism` with SmolLM2, on the prompts of this page. A first version of that loop,
with one target for all concepts and a full reserve for all prompts, was measured on everything here; what this one does
otherwise came from its readings of these prompts, and was tried on `ocean` (Gemma), `dogs`, `optimism` and `simplicity`
(SmolLM2) before this run."""


LIMITS = """\
## What is reached, and what limits it

- *Reading the tables.* A text's likelihood scatters by about half a nat, so that the added cost of one concept's 24 to
  32 texts is known to about 0.1 nats, and that of Gemma's 12 to less; averages over concepts, to 0.02 to 0.05.
- *Cost: less, not half.* Fitted over the dial and averaged over the concepts, *scheduled-loop* pays 0.73 (0.46 to 1.16)
  of the static vector's cost on SmolLM2 and 0.64 (0.40 to 1.00) on Gemma for the same mean score. Where the static
  vector pays 0.2 nats, three texts a prompt give 0.76 (0.58 to 1.02) and 0.78 (0.55 to 1.08): about a quarter less on
  both models, and neither interval excludes none. Where it pays 0.1 they give 0.84 and 0.93. The decaying vector pays,
  fitted likewise, 1.03 (0.66 to 1.64) and 0.76 (0.47 to 1.16); on Gemma it is about as cheap as the loop, and cheaper
  at small effects. The regulator pays 1.76 and 1.09.
- *Why.* A push costs as much at a token that is decided as at one that is not, and changes nothing there. The regulator
  pushes hardest where the concept is least natural, which is the opposite of cheap.
- *Prompts on target pay little.* At the same mean effect *scheduled-loop* costs them -0.05 nats (-0.14 to 0.03) on
  SmolLM2 and 0.05 (-0.10 to 0.16) on Gemma, the static vector 0.34 and 0.39. Three texts a prompt give 0.09 (0.03 to
  0.18) and 0.03 (-0.05 to 0.11), for 0.30 and 0.22. So 0.02 is reached in one of the four, and is not shown. The loop's
  first version paid, with three texts a prompt and at the same effect, 0.11 (0.05 to 0.17) and 0.12 (0.01 to 0.22): on
  SmolLM2 no less, on Gemma more, within the intervals. It had one target for all concepts, which was out of reach where
  neutral text is most of the way to the pole already, a full reserve for every prompt, and for three sidecars a sensor
  in the last block, where it could not read the prompt. Its texts are not in the tables any more. Of what is left on
  SmolLM2 most is conscientiousness: neutral text reads 0.8 of the way there, and prompts on target hardly more.
- *Half the dial* gives 0.54 and 0.58 of the effect.
- *Spread.* Of single texts it does not fall: most of it is chance, which no controller removes. What prompts differ by
  on average, measured with three texts a prompt, is 0.89 (0.65 to 1.12) of the static vector's on SmolLM2. On Gemma it
  is 1.62, of so few prompts that the interval has no end. The loop leaves prompts on target where they are, but brings
  those far from it only part of the way: on SmolLM2 0.40 of the static vector's distance between the two is left, on
  Gemma 1.34.
- *The dial of one concept.* With one text a prompt, neighbouring strengths often change places, and a rank correlation
  over five of them falls below 0.95 by one such change. Civility and extraversion start near the top (0.73 to 0.89
  unsteered), and refusal hardly moves in models of this size, whatever steers it. `edgesteer tune` measures on a model
  where text breaks; here the ends of the dial are those of the exporter, by divergence on neutral text, and some break
  at them.
- *`a-lqr` and `pid`* break Gemma's text well inside of the range that neutral text gave them.
- *Tried without gain*: relay-like loops, fast attack with slow release, pushes of a single token, directions
  whitened by the output's Fisher information.
- *Tried once, with no script kept*: directions by the policy gradient of the judge's score on the model's own unsteered
  texts; on `french` they came no cheaper than the static vector. That is no verdict on the idea. The rest is by such
  gradients, not by steered texts, on SmolLM2. Directions by the gradient of the contrast texts' likelihood, positive
  less negative, with and without the inverse Fisher information: no better than the static vector's for `ocean` and
  `dogs`, worse for `french`, better for `optimism`. A push that grows with alpha, or with how far alpha falls short:
  worse than a constant one. A push that grows with the next token's entropy: better, and it became *scheduled*. With
  the upper half of the blocks and a decay over ten tokens it explains 1.7 times as much of the score at equal cost as
  the static vector does, averaged over four concepts, and no other gate, decay or range of blocks explained more. That
  is 0.6 of the cost, about what the loop has: half would take another direction, not another gain.
- *Not tried*: trajectories linearized again under steering, probes fitted on generated text, a budget for the push of
  each block, directions or gains trained under steering.
- *The reserve*: a push that ends cannot take a topic out of a prompt that keeps bringing it back (`--fade-tokens 0` has
  none). `edgesteer tune` chooses between the forms for a model and concept."""


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


def average(curves: Iterable[Mapping[str, Curve]], arm: str, *others: str) -> Curve:
    """Return an arm's curve over the concepts that have it and the others."""
    return averaged([each[arm] for each in curves if {arm, *others} <= each.keys()])


def cost_table(runs: Sequence[Run], measure: str) -> tuple[tuple[str, ...], list[list[str]]]:
    """Each arm averaged over concepts: its frontier, and its cost over that of the static vector at its effect."""
    curves = [run.curves[measure][1] for run in runs]
    rows = []
    for arm in arms_of(curves):
        reference, curve = average(curves, REFERENCE, arm), average(curves, arm, REFERENCE)
        frontier = zip(curve.mean_effects[1:] - curve.mean_effects[0], curve.mean_costs[1:], strict=True)
        shares = (share_cell(reference, curve, budget) for budget in BUDGETS)
        steps = ", ".join(f"{number(effect)} for {number(cost)}" for effect, cost in frontier)
        rows.append([arm, steps, *shares, fitted_cell(curves, arm), str(sum(arm in each for each in curves))])
    shares = (f"cost over static's at +{budget:g} nats" for budget in BUDGETS)
    return ("arm", "added effect for added nats, up the dial", *shares, "fitted over the dial", "concepts"), rows


def fitted_cell(curves: Sequence[Mapping[str, Curve]], arm: str) -> str:
    found = fitted_share(curves, arm)
    return interval(found) if found.value < HOPELESS else "no comparison"


def dial_of(curves: Sequence[Mapping[str, Curve]], arm: str, *others: str) -> Array:
    """Return the places of an arm's dial as shares of its end: the mean over the concepts with all arms."""
    chosen = [each[arm] for each in curves if {arm, *others} <= each.keys()]
    return np.asarray(np.mean([curve.strengths / curve.strengths[-1] for curve in chosen], axis=0))


def fitted_share(curves: Sequence[Mapping[str, Curve]], arm: str) -> Interval:
    """Return an arm's cost over that of the static vector at equal effect, fitted over all strengths up to MOST_NATS.

    A small push moves the judge's score in proportion to it, and the likelihood by its square: so effect is fitted as
    b s and cost as k s^2 over the dial s, by least squares, and k / b^2 compared. inf where an arm has no effect.
    """
    reference, curve = average(curves, REFERENCE, arm), average(curves, arm, REFERENCE)
    dials = dial_of(curves, REFERENCE, arm), dial_of(curves, arm, REFERENCE)

    def share(weights: Array) -> Array:
        theirs, ours = (price_of_effect(*each, weights) for each in zip((reference, curve), dials, strict=True))
        return np.asarray(ours / theirs)

    found = np.sort(share(resamples(len(reference.effects))))
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return Interval(float(share(whole(reference))[0]), float(low), float(high))


def price_of_effect(curve: Curve, dial: Array, weights: Array) -> Array:
    """Return k / b^2 of `fitted_share` for each row of weights: (resamples,)."""
    used = curve.mean_costs <= MOST_NATS
    if used.sum() < 2:
        return np.full(len(weights), np.inf)
    s, effects, costs = dial[used], curve.effects[:, used] - curve.effects[:, :1], curve.costs[:, used]
    b = weights @ effects @ s / (s @ s)
    k = weights @ costs @ s**2 / (s**2 @ s**2)
    return np.asarray(np.divide(k, b**2, out=np.full(len(b), np.inf), where=b > 0))


def share_cell(
    reference: Curve, curve: Curve, budget: float, wanted: float = -math.inf, rival: Curve | None = None
) -> str:
    """Return what a curve pays over what a rival pays for the reference's effect at a budget; bold if it is wanted."""
    found = price(reference, curve, budget, rival)
    if found.cost == math.inf:
        return "not that far"
    if found.rival_cost == math.inf:
        return "the rival not that far"
    return cell(interval(found.share), found.share.value <= wanted)


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
    curves = [run.curves["mean"][1] for run in runs]
    rows = [
        price_row(curves, rival, wanted, budget)
        for budget in BUDGETS
        for rival, wanted in ((REFERENCE, 0.5), ("decay", 1.0))
    ]
    rows.append([
        "cost over that of *static*, fitted over the dial", "at most 0.5", "",
        *(cell(fitted_cell(curves, arm), fitted_share(curves, arm).value <= 0.5) for arm in CLOSED),
    ])  # fmt: skip
    again = [run.repeated_curves for run in runs]
    for budget in BUDGETS:
        share = share_cell(average(again, REFERENCE), average(again, REPEATED[1]), budget, 0.5)
        rows.append([
            f"the same as first at +{budget:g} nats, several texts each", "at most 0.5", "",
            *(share if arm == REPEATED[1] else "" for arm in CLOSED),
        ])  # fmt: skip
    found = [regulation_of(runs, arm) for arm in CLOSED]
    spread, moved = repeated_spread(runs)
    repeated = cell(f"{interval(spread)}, {moved} concepts", spread.value <= 0.5)
    several = on_target_cell(regulation_of([replace(run, records=run.repeated) for run in runs], REPEATED[1]))
    plain = float(np.mean([broken_share(base, base) for base in (unsteered(run.records) for run in runs)]))
    rows += [
        ["spread over single texts, over that of *static* at its effect", "", "",
         *(number(each.spread) for each in found)],
        ["spread over prompts, several texts each, over that of *static* at its effect", "at most 0.5", "",
         *(repeated if arm == REPEATED[1] else "" for arm in CLOSED)],
        ["cost of prompts on target; of *static*'s at the same mean effect", "at most 0.02", "",
         *(on_target_cell(each) for each in found)],
        ["the same, several texts each", "at most 0.02", "",
         *(several if arm == REPEATED[1] else "" for arm in CLOSED)],
        ["share of the effect at half the level", "0.5", "", *(number(each.half) for each in found)],
        ["least rank correlation of strength and effect", "at least 0.95", "",
         *(cell(number(least), least >= 0.95) for least in (min(each.ranks.values()) for each in found))],
        ["broken texts at the safe end", f"0 %; unsteered {percent(plain)}", "",
         *(cell(percent(each.broken), each.broken == 0) for each in found)],
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


def on_target_cell(found: Regulated) -> str:
    ours = cell(interval(found.on_target, 3), found.on_target.value <= 0.02)
    return f"{ours}; {interval(found.on_target_static, 3)}"


def cell(text: str, is_reached: bool) -> str:
    """Return a number that was to be reached, in bold where it was."""
    return f"**{text}**" if is_reached else text


class Regulated(NamedTuple):
    """How an arm regulates. spread: median over concepts; ranks: by concept; the rest: averaged over concepts.

    effect: the largest mean effect that the arm and the static vector both have. on_target, on_target_static: what the
    prompts on target pay there. slope: by how much they come out higher there than those far from it, over the same of
    the static vector.
    """

    spread: float
    effect: float
    on_target: Interval
    on_target_static: Interval
    slope: float
    half: float
    rank: float
    ranks: dict[str, float]
    broken: float


def regulation_of(runs: Sequence[Run], arm: str) -> Regulated:
    found = [(run, *run.curves["mean"]) for run in runs]
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
    dial = dial_of(everything, arm)
    on, far = (np.array(groups) == group for group in (ON_TARGET, FAR))
    effect = min(float(each.mean_effects.max()) for each in (reference, curve))
    theirs, ours = (matched_at(each, effect) for each in (reference, curve))
    return Regulated(
        float(np.median(spreads)) if spreads else math.nan,
        effect - float(curve.mean_effects[0]),
        paired_bootstrap(ours[1][on]),
        paired_bootstrap(theirs[1][on]),
        float(np.divide(*(effects[on].mean() - effects[far].mean() for effects, _ in (ours, theirs)))),
        float(np.interp(0.5, dial, rise) / rise[-1]) if rise[-1] else math.nan,
        spearman(curve.strengths, curve.mean_effects),
        ranks,
        float(np.mean(broken)),
    )


def matched_at(curve: Curve, effect: float) -> tuple[Array, Array]:
    """Return effect and cost of every prompt at a mean effect; nan where the curve does not have it."""
    nothing = np.full(len(curve.effects), np.nan)
    return at_effect(curve, effect) or (nothing, nothing)


def repeated_spread(runs: Sequence[Run]) -> tuple[Interval, int]:
    """Return the spread over prompts of the loop in REPEATED, over the static vector's at the same mean effect, and the
    number of concepts that both move.

    The spread is of what a prompt gives on average: what texts of one prompt differ by is taken off, as in an analysis
    of variance. Squares are added over concepts; the interval is bootstrapped over prompts.
    """
    pairs = [pair for run in runs if (pair := matched_outcomes(run)) is not None]
    rng = np.random.default_rng(0)

    def ratio(draws: Sequence[NDArray[np.intp]]) -> float:
        theirs, ours = (
            sum(variance_between(pair[side][rows]) for pair, rows in zip(pairs, draws, strict=True)) for side in (0, 1)
        )
        return math.sqrt(max(ours, 0.0) / theirs) if theirs > 0 else math.inf

    everything = [np.arange(len(pair[0])) for pair in pairs]
    draws = sorted(ratio([rng.choice(rows, len(rows)) for rows in everything]) for _ in range(REPEATED_DRAWS))
    low, high = np.quantile(draws, [0.025, 0.975], method="nearest")
    return Interval(ratio(everything), float(low), float(high)), len(pairs)


def matched_outcomes(run: Run) -> tuple[Array, Array] | None:
    """Return the outcomes of both arms in REPEATED, (prompts, samples) each, at the largest mean effect that both have.

    Between two strengths they are interpolated. None where an arm moves less than LEAST_RISE.
    """
    places = [outcomes_by_strength(run, arm) for arm in REPEATED]
    effect = min(float(each.mean(axis=(1, 2)).max()) for each in places)
    if effect - places[0][0].mean() < LEAST_RISE:
        return None
    found = []
    for each in places:
        means = each.mean(axis=(1, 2))
        above = int(np.argmax(means >= effect))
        share = (effect - means[above - 1]) / (means[above] - means[above - 1])
        found.append((1 - share) * each[above - 1] + share * each[above])
    return found[0], found[1]


def outcomes_by_strength(run: Run, arm: str) -> Array:
    """Return (strengths, prompts, samples) of the judge's mean score, first of the unsteered texts."""
    value = outcome(run.suite.primary, "mean")
    chosen = [record for record in run.repeated if record.arm in (UNSTEERED, arm)]
    keys = [sorted({key(record) for record in chosen}) for key in KEYS]
    table = np.full([len(each) for each in keys], np.nan)
    for record in chosen:
        table[tuple(each.index(key(record)) for each, key in zip(keys, KEYS, strict=True))] = value(record)
    return table[:, np.isfinite(table).all(axis=(0, 2))]


def regulation_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    """Of each arm, over concepts: spread at matched effect, cost on target, half the level, broken texts."""
    rows = []
    for arm in arms_of(run.curves["mean"][1] for run in runs):
        found = regulation_of(runs, arm)
        rows.append([
            arm, number(found.spread), number(found.effect), interval(found.on_target, 3),
            interval(found.on_target_static, 3), number(found.slope), number(found.half), number(found.rank),
            percent(found.broken),
        ])  # fmt: skip
    headers = (
        "arm", "spread over static's at its effect", "added effect that both have", "cost on target there",
        "static's", "effect on target less far, over static's", "share of the effect at half the dial",
        "rank correlation, averaged", "broken at the last strength",
    )  # fmt: skip
    return headers, rows


def dial_table(runs: Sequence[Run]) -> tuple[tuple[str, ...], list[list[str]]]:
    ranks = {arm: regulation_of(runs, arm).ranks for arm in arms_of(run.curves["mean"][1] for run in runs)}
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
