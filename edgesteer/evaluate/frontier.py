"""Frontier: effect against cost. What an arm pays for an effect, what it gets for a cost, and how evenly.

Between the strengths that were measured, effect and cost are interpolated linearly. Intervals are bootstrapped over
prompts, with the same prompts for both arms. Pure functions of arrays, and `make_curves`, which makes those of records.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from edgesteer.evaluate.paired import Array, Value, by_strength, matched, unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import Interval
from edgesteer.profile.statistics import CONFIDENCE, RESAMPLES

BUDGETS = (0.1, 0.2)
"""Added nats per token at which arms are compared."""


@dataclass(frozen=True)
class Curve:
    """The dose-response of one arm; its column at strength 0 is the unsteered model.

    strengths: (k,) ascending; effects: (prompts, k); costs: (prompts, k) in nats per token above the unsteered text.
    """

    strengths: Array
    effects: Array
    costs: Array

    @property
    def mean_effects(self) -> Array:
        return np.asarray(self.effects.mean(axis=0))

    @property
    def mean_costs(self) -> Array:
        return np.asarray(self.costs.mean(axis=0))


def make_curves(records: Sequence[Record], value: Value) -> tuple[list[str], dict[str, Curve]]:
    """Return the prompts, and the curve of each arm that has a dial, over the prompts that all of them answered.

    value: the effect of a text. A prompt with an empty text, which has no likelihood, is left out.
    Raises EdgeSteerError without unsteered texts, or when no prompt and sample was answered by all.
    """
    arms = {arm: strengths for arm, strengths in by_strength(records).items() if set(strengths) != {0.0}}
    columns = [unsteered(records), *(column for strengths in arms.values() for column in strengths.values())]
    effects, nlls = matched(columns, value), matched(columns, lambda record: record.nll)
    usable = np.isfinite(effects).all(axis=1) & np.isfinite(nlls).all(axis=1)
    effects, costs = effects[usable], (nlls - nlls[:, :1])[usable]
    names = shared_prompts(columns)
    prompts = [names[row] for row in np.flatnonzero(usable)]
    curves, first = {}, 1
    for arm, strengths in arms.items():
        places = [0, *range(first, first + len(strengths))]
        first += len(strengths)
        dial = np.array([0.0, *strengths])
        order = np.argsort(dial)
        curves[arm] = Curve(dial[order], effects[:, places][:, order], costs[:, places][:, order])
    return prompts, curves


def averaged(curves: Sequence[Curve]) -> Curve:
    """Return one curve over the prompts of several concepts, whose dials have as many places each.

    Its strengths are the places, 0 being the unsteered model; every prompt counts once. Raises ValueError when the
    dials have different numbers of places.
    """
    effects, costs = (np.concatenate([getattr(curve, name) for curve in curves]) for name in ("effects", "costs"))
    return Curve(np.arange(effects.shape[1], dtype=np.float64), effects, costs)


def shared_prompts(columns: Sequence[Sequence[Record]]) -> list[str]:
    """Return the prompts of the rows of `matched`."""
    held = [{(record.prompt, record.sample) for record in column} for column in columns]
    return sorted({prompt for prompt, _ in set.intersection(*held)})


# ---- along a curve ----


def cost_at_effect(effects: Array, costs: Array, wanted: Array | float) -> Array:
    """Return the least cost at which a curve has at least an effect, inf where it never has: (...,).

    effects, costs: (..., k) along the dial; wanted: (...,).
    """
    wanted = np.asarray(wanted, dtype=np.float64)[..., None]
    enough = effects >= wanted
    at_points = np.where(enough, costs, np.inf)
    crosses = enough[..., 1:] != enough[..., :-1]
    way = share_of_way(effects, wanted, crosses)
    between = np.where(crosses, costs[..., :-1] + way * (costs[..., 1:] - costs[..., :-1]), np.inf)
    return np.asarray(np.concatenate([at_points, between], axis=-1).min(axis=-1))


def share_of_way(values: Array, wanted: Array, crosses: NDArray[np.bool_]) -> Array:
    """Return how far between two neighbours a value is reached, 0..1, where it is: (..., k - 1)."""
    rise = values[..., 1:] - values[..., :-1]
    return np.divide(wanted - values[..., :-1], rise, out=np.zeros_like(rise), where=crosses)


def effect_at_cost(effects: Array, costs: Array, budget: Array | float) -> Array:
    """Return the largest effect that a curve has at no more than a cost: (...,); -inf where everything costs more."""
    return -cost_at_effect(-costs, -effects, -np.asarray(budget, dtype=np.float64))


def at_effect(curve: Curve, wanted: float) -> tuple[Array, Array] | None:
    """Return effect and cost of every prompt, (prompts,) each, where the mean effect is the one that is wanted.

    Of several such places the one nearest to strength 0; None when there is none.
    """
    reached = curve.mean_effects >= wanted
    crosses = reached[1:] != reached[:-1]
    if not crosses.any():
        return None
    way = share_of_way(curve.mean_effects, np.array(wanted), crosses)
    places = curve.strengths[:-1] + way * np.diff(curve.strengths)
    segment = int(np.where(crosses, np.abs(places), np.inf).argmin())
    effects, costs = (
        values[:, segment] + way[segment] * (values[:, segment + 1] - values[:, segment])
        for values in (curve.effects, curve.costs)
    )
    return effects, costs


# ---- comparisons ----


@dataclass(frozen=True)
class Price:
    """What an arm pays for the effect that the reference has at a budget.

    effect: the mean of the measure there. rival_cost, cost: added nats; inf: it never gets there. share: cost over
    rival_cost, 1 where neither pays anything.
    """

    budget: float
    effect: float
    rival_cost: float
    cost: float
    share: Interval


def price(reference: Curve, arm: Curve, budget: float, rival: Curve | None = None) -> Price:
    """Compare the costs of two arms over the same prompts at matched effect.

    rival: whose cost at that effect the arm's is divided by; the reference when None.
    """
    arms = (rival or reference, arm)
    (effect,), ((theirs,), (ours,)) = _prices(reference, arms, budget, whole(reference))
    sampled = _share(*reversed(_prices(reference, arms, budget, resamples(len(reference.effects)))[1]))
    return Price(budget, float(effect), float(theirs), float(ours), _limits(float(_share(ours, theirs)), sampled))


def _prices(reference: Curve, arms: Sequence[Curve], budget: float, weights: Array) -> tuple[Array, list[Array]]:
    """Return the reference's effect at a budget, and what each arm pays for it."""
    effect = effect_at_cost(weights @ reference.effects, weights @ reference.costs, np.full(len(weights), budget))
    return effect, [cost_at_effect(weights @ arm.effects, weights @ arm.costs, effect) for arm in arms]


def _share(cost: Array | float, reference: Array | float) -> Array:
    cost, reference = np.asarray(cost, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    free = (reference <= 0) & (cost <= 0)
    share = np.divide(cost, reference, out=np.full(cost.shape, np.inf), where=(reference > 0) & np.isfinite(cost))
    return np.asarray(np.where(free, 1.0, share))


def effect_within(curve: Curve, budget: float) -> Interval:
    """Return the largest mean effect at no more than a cost, in added nats."""

    def effect(weights: Array) -> Array:
        return effect_at_cost(weights @ curve.effects, weights @ curve.costs, np.full(len(weights), budget))

    return _limits(float(effect(whole(curve))[0]), effect(resamples(len(curve.effects))))


@dataclass(frozen=True)
class Gain:
    """How much more effect an arm has than a reference, both within a budget.

    sureness: share of the resamples in which it has more; those in which both have the same count half.
    """

    difference: Interval
    sureness: float


def gain(reference: Curve, arm: Curve, budget: float) -> Gain:
    """Compare the effects of two arms over the same prompts within a budget, in added nats."""

    def difference(weights: Array) -> Array:
        theirs, ours = (
            effect_at_cost(weights @ each.effects, weights @ each.costs, np.full(len(weights), budget))
            for each in (reference, arm)
        )
        return np.asarray(ours - theirs)

    found = difference(resamples(len(reference.effects)))
    sureness = float(np.mean(found > 0) + np.mean(found == 0) / 2)
    return Gain(_limits(float(difference(whole(reference))[0]), found), sureness)


@dataclass(frozen=True)
class Regulation:
    """How differently prompts come out where two arms have the same mean effect.

    spread, reference_spread: standard deviation over prompts of the prompt's mean effect; few samples a prompt add
    theirs to it. ratio: of the two; its interval takes the matched strengths as given.
    """

    effect: float
    reference_spread: float
    spread: float
    ratio: Interval


def regulation(reference: Curve, arm: Curve, effect: float) -> Regulation | None:
    """Compare the spreads of two arms over the same prompts at one mean effect; None when one of them has no such."""
    places = [at_effect(curve, effect) for curve in (reference, arm)]
    if places[0] is None or places[1] is None:
        return None
    theirs, ours = places[0][0], places[1][0]
    one, many = whole(reference), resamples(len(theirs))
    ratio = _limits(float(_ratio(ours, theirs, one)[0]), _ratio(ours, theirs, many))
    return Regulation(effect, float(_spread(theirs, one)[0]), float(_spread(ours, one)[0]), ratio)


def _ratio(ours: Array, theirs: Array, weights: Array) -> Array:
    return _share(_spread(ours, weights), _spread(theirs, weights))


def _spread(values: Array, weights: Array) -> Array:
    """(resamples,) standard deviation of a sample of n, from the variance of its resamples."""
    n = len(values)
    centred = values - values.mean()
    variance = np.maximum(weights @ centred**2 - (weights @ centred) ** 2, 0)
    return np.asarray(np.sqrt(variance * n / (n - 1))) if n > 1 else np.zeros(len(weights))


# ---- the bootstrap ----


def resamples(n: int) -> Array:
    """Return how much each of n prompts weighs in every resample: (RESAMPLES, n), rows of sum 1."""
    return _draw(n, RESAMPLES)


@lru_cache(maxsize=2)
def _draw(n: int, count: int) -> Array:
    return np.asarray(np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=count) / n)


def whole(curve: Curve) -> Array:
    """Return the weights of the sample itself: (1, n)."""
    n = len(curve.effects)
    return np.full((1, n), 1 / n)


def _limits(value: float, found: Array) -> Interval:
    """Return percentile limits that are values of resamples, of which some may be inf."""
    if math.isnan(value):
        return Interval(value, -math.inf, math.inf)
    ordered = np.sort(found)
    tail = (1 - CONFIDENCE) / 2
    last = len(ordered) - 1
    return Interval(value, float(ordered[math.floor(tail * last)]), float(ordered[math.ceil((1 - tail) * last)]))
