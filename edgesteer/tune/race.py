"""Race: settings compete at equal cost. All start on a few texts; the better half goes on with twice as many.

Successive halving (Jamieson and Talwalkar 2016). On the way each setting's level approaches the one that costs the
budget, and the changes of the two leaders are tried together. The controller as it is runs along to the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgesteer.controller import Controller
from edgesteer.evaluate.arm import Arm
from edgesteer.evaluate.frontier import Curve, effect_at_cost, effect_within
from edgesteer.evaluate.paired import UNSTEERED
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.statistics import Interval, paired_bootstrap
from edgesteer.tune.meter import Meter, Point, points_of, shrunk, strength_at
from edgesteer.tune.settings import Setting, applied, redialled

FINALISTS = 4
PILOT = (0.5, 1.0, 2.0)
"""Strengths at which the controller as it is is tried first."""
PROBES = (0.8, 1.25)
"""Strengths at which a setting is tried, around what should cost the budget."""
FARTHEST = 2.0
"""By how much a level changes at most between two rounds."""


@dataclass(frozen=True)
class Candidate:
    """A setting. level: the strength of the sidecar's dial that should cost the budget.

    points: all that was measured, on the sidecar's dial. texts: that were generated for it.
    """

    setting: Setting
    controller: Controller
    level: float
    points: tuple[Point, ...] = ()
    texts: int = 0
    effect: Interval | None = None
    """Within the budget, on the texts of its last round."""
    cost: Interval | None = None
    """Around its level, on the same."""

    @property
    def name(self) -> str:
        return self.setting.name

    @property
    def arm(self) -> Arm:
        return Arm(self.name, redialled(self.controller, self.level), PROBES)


@dataclass(frozen=True)
class Race:
    """finalists: best first, by the last round. curves: of the finalists, over the same prompts. out: the others."""

    finalists: tuple[Candidate, ...]
    curves: Mapping[str, Curve]
    out: tuple[Candidate, ...]


def sizes_of_rounds(n_candidates: int) -> list[int]:
    """Return how many run in each round: halved until FINALISTS are left."""
    sizes = [n_candidates]
    while sizes[-1] > FINALISTS:
        sizes.append(max(FINALISTS, (sizes[-1] + 1) // 2))
    return sizes


def pilot(controller: Controller, meter: Meter, budget: float, texts: int) -> float:
    """Return the strength of a controller that should cost the budget, from a few texts."""
    curve = meter.curves(meter.measure([Arm("pilot", controller, PILOT)], texts, stage=0))["pilot"]
    return bounded(strength_at(points_of(curve), budget), 1.0, farthest=2 * FARTHEST)


def bounded(level: float, around: float, farthest: float = FARTHEST) -> float:
    return min(max(level, around / farthest), around * farthest)


def field_of(settings: Mapping[Setting, Controller], level: float) -> list[Candidate]:
    """Return the candidates; one with fewer blocks begins at a higher level."""
    most = max(len(each.blocks) for each in settings.values())
    return [Candidate(setting, made, level * most / len(made.blocks)) for setting, made in settings.items()]


def race(field: Sequence[Candidate], meter: Meter, budget: float, texts: Sequence[int]) -> Race:
    """Run the rounds. field: the controller as it is first. texts: of each arm and strength, by round."""
    running, seen = list(field), {}
    for number, (size, count) in enumerate(zip(sizes_of_rounds(len(field)), texts, strict=True), start=1):
        running = entrants(running, size) if number > 1 else running
        records = meter.measure([each.arm for each in running], count, number)
        running = ranked(running, records, meter, budget)
        seen.update({each.setting: each for each in running})
    out = [each for setting, each in seen.items() if setting not in {final.setting for final in running}]
    return Race(tuple(running), meter.curves(records), tuple(out))


def ranked(
    running: Iterable[Candidate], records: Sequence[Record], meter: Meter, budget: float
) -> list[Candidate]:
    """Return the candidates after a round, those with most effect within the budget first."""
    curves = {}
    for each in running:
        own = [record for record in records if record.arm in (UNSTEERED, each.name)]
        curves.update(meter.curves(own))
    fair = shrunk(curves)
    effects = {name: float(effect_at_cost(each.mean_effects, each.mean_costs, budget)) for name, each in fair.items()}
    after = [updated(each, curves[each.name], fair[each.name], budget) for each in running]
    return sorted(after, key=lambda each: -effects[each.name])


def updated(candidate: Candidate, curve: Curve, fair: Curve, budget: float) -> Candidate:
    """Return a candidate after a round. fair: the curve with costs that noise has less part in, for the level."""
    points = (*candidate.points, *points_of(fair, candidate.level))
    return replace(
        candidate,
        points=points,
        level=bounded(strength_at(points, budget), candidate.level),
        texts=candidate.texts + len(PROBES) * len(curve.costs),
        effect=effect_within(curve, budget),
        cost=paired_bootstrap(curve.costs[:, 1:].mean(axis=1)),
    )


def entrants(placed: Sequence[Candidate], size: int) -> list[Candidate]:
    """Return who runs the next round: the controller as it is, the best, and the leaders' changes together."""
    kept = next(each for each in placed if not each.setting.changes)
    others = [each for each in placed if each.setting.changes][: size - 1]
    both = together(others, kept)
    return [kept, *others] if both is None else [kept, *others[: size - 2], both]


def together(placed: Sequence[Candidate], kept: Candidate) -> Candidate | None:
    """Return the changes of the first candidate and of the next one that changes something else; None: no such."""
    for other in placed[1:]:
        setting = placed[0].setting.combined(other.setting)
        if setting is not None and setting not in {each.setting for each in placed}:
            made = applied(setting, kept.controller)
            return Candidate(setting, made, placed[0].level * other.level / kept.level)
    return None
