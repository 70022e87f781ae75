"""Dial: what the strengths of a controller do on both sides, where 1 and -1 belong, and where text breaks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.arm import Arm
from edgesteer.evaluate.frontier import Curve
from edgesteer.evaluate.metrics import is_broken
from edgesteer.evaluate.paired import unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import LEVEL, Interval, discordance, mcnemar_one_sided, paired_bootstrap, wilson
from edgesteer.tune.meter import Meter, Point, strength_at
from edgesteer.tune.settings import redialled

GRID = (0.35, 0.7, 1.0, 1.5, 2.25)
"""Strengths that are measured on each side; 1 should cost the budget."""
STAGE = 999
"""Of the seeds; the race has lower ones."""

Harmed = Callable[[Controller, float], float]
"""The p-value of a test whether a strength of a controller made the model worse."""


@dataclass(frozen=True)
class Dose:
    """What a strength does.

    effect: change of the score. cost: added nats per token. broken: share of the texts. broken_p, harm_p: of the
    exact test whether more texts are broken, or more items wrong, than unsteered; nan where it was not made.
    """

    strength: float
    effect: Interval
    cost: Interval
    broken: Interval
    broken_p: float
    harm_p: float = math.nan

    @property
    def intact(self) -> bool:
        return self.broken_p > LEVEL and not self.harm_p <= LEVEL


@dataclass(frozen=True)
class Dial:
    """A controller whose strengths 1 and -1 cost the budget, what its strengths do, and what is to be said of it."""

    controller: Controller
    doses: tuple[Dose, ...]
    notes: tuple[str, ...]


def calibrate(
    controller: Controller, points: Sequence[Point], meter: Meter, budget: float, texts: int, harmed: Harmed | None
) -> Dial:
    """Measure both sides of a controller whose strength 1 should cost the budget, and calibrate them apart.

    points: earlier measurements of its positive side. harmed: None leaves out that test.
    Raises EdgeSteerError when the text breaks at every strength of a side.
    """
    sides = (1, -1) if controller.safe_range[0] < 0 else (1,)
    strengths = tuple(side * each for each in GRID for side in sides)
    plain = replace(controller, negative_scale=None)
    records = meter.measure([Arm("dial", plain, strengths)], texts, STAGE)
    curve, doses, ones, ends, notes = meter.curves(records)["dial"], [], {}, {}, []
    for side in sides:
        found = doses_of(records, curve, side)
        found, ends[side] = limit(found, plain, harmed)
        earlier = points if side > 0 else ()
        ones[side], note = strength_of_one(found, earlier, budget, abs(ends[side]))
        doses += [replace(dose, strength=dose.strength / ones[side]) for dose in found]
        notes += [f"{controller.positive if side > 0 else controller.negative}: {note}"] if note else []
    return Dial(dialled(plain, ones, ends), tuple(sorted(doses, key=lambda dose: dose.strength)), tuple(notes))


def doses_of(records: Sequence[Record], curve: Curve, side: int) -> list[Dose]:
    """Return the doses of one side, the weakest first."""
    base = {(record.prompt, record.sample): record for record in unsteered(records)}
    mean = float(np.nanmean([record.nll for record in base.values()]))
    doses = []
    for column in sorted(np.flatnonzero(curve.strengths * side > 0), key=lambda column: abs(curve.strengths[column])):
        strength = float(curve.strengths[column])
        pairs = [(base[r.prompt, r.sample], r) for r in records if r.strength == strength]
        before, after = ([not is_broken(r.text, r.nll, mean) for r in column] for column in zip(*pairs, strict=True))
        counts = discordance(before, after)
        doses.append(
            Dose(
                strength,
                paired_bootstrap(curve.effects[:, column]),
                paired_bootstrap(curve.costs[:, column]),
                wilson(after.count(False), len(after)),
                mcnemar_one_sided(counts.worse, counts.better),
            )
        )
    return doses


def limit(doses: Sequence[Dose], controller: Controller, harmed: Harmed | None) -> tuple[list[Dose], float]:
    """Return the doses with the tests that were made, and the strength up to which the text is intact.

    The test for harm begins at the greatest strength whose texts are whole, and goes down as long as it finds some.
    """
    found = list(doses)
    whole = next((n for n, dose in enumerate(found) if not dose.intact), len(found))
    for number in reversed(range(whole)):
        if harmed is not None:
            found[number] = replace(found[number], harm_p=harmed(controller, found[number].strength))
        if found[number].intact:
            return found, found[number].strength
    raise EdgeSteerError(
        "the text breaks at every strength",
        where=controller.name,
        found=f"strength {doses[0].strength * controller.scale:.3g} in levels is too much already",
        remedy="Use a smaller --budget, or export the controller again.",
    )


def strength_of_one(
    doses: Sequence[Dose], earlier: Sequence[Point], budget: float, most: float
) -> tuple[float, str | None]:
    """Return the strength that costs the budget, at most `most`, and what to say if it is less than the budget."""
    weight = earlier[-1].weight if earlier else 1.0
    points = [*earlier, *(Point(abs(dose.strength), dose.cost.value, weight) for dose in doses)]
    wanted = strength_at(points, budget)
    if wanted <= most:
        return wanted, None
    return most, "strength 1 costs less than the budget: it is the greatest that was measured without damage"


def dialled(controller: Controller, ones: dict[int, float], ends: dict[int, float]) -> Controller:
    """Return the controller with these strengths as 1 and -1, and with these ends of its safe range.

    ones: by side, as positive numbers; ends: by side, with their signs.
    """
    made = redialled(controller, ones[1])
    low, high = (floor(abs(ends[side]) / ones[side]) if side in ones else 0.0 for side in (-1, 1))
    return replace(
        made,
        negative_scale=controller.scale * ones[-1] if -1 in ones else None,
        default_strength=1.0,
        safe_range=(-low if low else 0.0, high),
    )


def floor(strength: float) -> float:
    """Return a strength of two digits after the point that is no greater, and not below 1 by rounding."""
    return max(1.0, math.floor(100 * strength) / 100)
