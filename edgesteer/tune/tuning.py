"""Tuning: from a controller to the setting and the dial with the most effect within a budget of cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from edgesteer.controller import Controller
from edgesteer.errors import SteeringError
from edgesteer.evaluate.capability import PARALLEL, Answer, Item, answer_items
from edgesteer.evaluate.degradation import compare
from edgesteer.evaluate.frontier import Gain, gain
from edgesteer.evaluate.judges import Judge
from edgesteer.evaluate.suite import Suite
from edgesteer.runtime.model import LlamaModel
from edgesteer.runtime.request import Steering
from edgesteer.tune.dial import GRID, Dial, Harmed, calibrate
from edgesteer.tune.meter import Meter
from edgesteer.tune.race import PILOT, PROBES, Candidate, Race, field_of, pilot, race, sizes_of_rounds
from edgesteer.tune.settings import Setting, candidates, redialled

SURE = 0.9
"""Share of the resamples in which a setting must have more effect than the controller as it is to take its place."""
QUICK = 4
"""By how much fewer texts a quick run makes."""


@dataclass(frozen=True)
class TuneOptions:
    """How a controller is tuned."""

    budget: float = 0.15
    """Nats per token that strength 1 may cost, on average over the prompts."""
    texts: int = 1200
    """About how many texts to generate."""
    max_tokens: int = 32
    """Most tokens of a text."""
    items: int = 12
    """Most items of each benchmark on which the model must not get worse; 0: no such test."""
    seed: int = 0
    """Of all texts."""

    def __post_init__(self) -> None:
        for value, in_range, name, expected in (
            (self.budget, self.budget > 0, "budget", "above 0"),
            (self.texts, self.texts >= 1, "texts", "at least 1"),
            (self.max_tokens, self.max_tokens >= 1, "max_tokens", "at least 1"),
            (self.items, self.items >= 0, "items", "at least 0"),
            (self.seed, self.seed >= 0, "seed", "at least 0"),
        ):
            if not in_range:
                raise SteeringError(f"{name} is out of range", expected=expected, found=value)


@dataclass(frozen=True)
class Plan:
    """Texts of each arm and strength: of the pilot, of each round of the race, and of the dial."""

    pilot: int
    rounds: tuple[int, ...]
    dial: int


@dataclass(frozen=True)
class Rival:
    """What was not chosen, and by how much more effect the chosen setting has within the budget."""

    name: str
    gain: Gain


@dataclass(frozen=True)
class Tuned:
    """candidates: all that were tried, best first. rivals: the controller as it was, and the second best."""

    controller: Controller
    chosen: Candidate
    candidates: tuple[Candidate, ...]
    rivals: tuple[Rival, ...]
    dial: Dial


def plan(texts: int, sizes: Sequence[int], n_sides: int) -> Plan:
    """Divide texts: the rounds of the race get equal shares, and so does the dial with the pilot."""
    share = texts / (len(sizes) + 1)
    rounds = tuple(max(1, round(share / (size * len(PROBES) + 1))) for size in sizes)
    dial = max(1, round(share / (len(GRID) * n_sides + 1 + (len(PILOT) + 1) / 2)))
    return Plan(max(1, dial // 2), rounds, dial)


def n_texts(meter: Meter, plan: Plan, sizes: Sequence[int], n_sides: int) -> int:
    """Return how many texts a plan makes."""
    rounds = (meter.n_texts(count, size * len(PROBES)) for size, count in zip(sizes, plan.rounds, strict=True))
    return meter.n_texts(plan.pilot, len(PILOT)) + sum(rounds) + meter.n_texts(plan.dial, len(GRID) * n_sides)


def tune(
    model: LlamaModel,
    controller: Controller,
    subject: tuple[Suite, Judge],
    options: TuneOptions,
    items: Sequence[Item] = (),
    *,
    quick: bool = False,
    parallel: int = PARALLEL,
    threads: int | None = None,
    stage: Callable[[str, int], Callable[[], None]] = lambda name, total: lambda: None,
) -> Tuned:
    """Return the controller in its best setting, on a dial where strength 1 costs the budget.

    items: on which the safe range must not make the model worse. quick: with few settings and texts. stage: begins a
    stage of so many steps; what it returns is called after each. Raises SteeringError for a law without a level, and
    what run_experiment, answer_items and calibrate raise.
    """
    settings = candidates(controller, quick=quick)
    sizes, n_sides = sizes_of_rounds(len(settings)), 2 if controller.safe_range[0] < 0 else 1
    meter = Meter(model, *subject, seed=options.seed, parallel=parallel, threads=threads)
    counts = plan(options.texts // (QUICK if quick else 1), sizes, n_sides)
    meter = replace(meter, on_text=stage("texts", n_texts(meter, counts, sizes, n_sides)))
    level = pilot(controller, meter, options.budget, counts.pilot)
    ran = race(field_of(settings, level), meter, options.budget, counts.rounds)
    chosen, rivals = choose(ran, options.budget)
    harmed = harm_test(model, items, parallel, threads, stage) if items else None
    points = [replace(point, strength=point.strength / chosen.level) for point in chosen.points]
    dial = calibrate(
        redialled(chosen.controller, chosen.level), points, meter, options.budget, counts.dial, harmed
    )
    return Tuned(dial.controller, chosen, (*ran.finalists, *ran.out), rivals, dial)


def choose(ran: Race, budget: float) -> tuple[Candidate, tuple[Rival, ...]]:
    """Return the best finalist, or the controller as it was unless that is beaten surely enough; and its rivals."""
    kept = next(each for each in ran.finalists if each.setting == Setting())
    best = next((each for each in ran.finalists if each is not kept), kept)
    surely = gain(ran.curves[kept.name], ran.curves[best.name], budget).sureness >= SURE
    chosen = best if surely else kept
    second = [each for each in ran.finalists if each not in (chosen, kept)][:1]
    others = [each for each in (kept, *second) if each is not chosen]
    rivals = (Rival(each.name, gain(ran.curves[each.name], ran.curves[chosen.name], budget)) for each in others)
    return chosen, tuple(rivals)


def harm_test(
    model: LlamaModel,
    items: Sequence[Item],
    parallel: int,
    threads: int | None,
    stage: Callable[[str, int], Callable[[], None]],
) -> Harmed:
    """Return what tests whether a strength makes the model worse at some items, which it answers unsteered at once."""
    n_choices = sum(len(item.choices) for item in items)

    def answers(name: str, controllers: Sequence[Controller], steering: Sequence[Steering]) -> list[Answer]:
        advance = stage(name, n_choices)
        return answer_items(
            model, items, controllers, steering, parallel=parallel, threads=threads, on_choice=advance
        )

    before = answers("items, unsteered", [], [])

    def harmed(controller: Controller, strength: float) -> float:
        name = f"items, {controller.positive if strength > 0 else controller.negative}"
        after = answers(name, [controller], [Steering(controller.name, strength)])
        return compare(before, after).combined.pooled

    return harmed
