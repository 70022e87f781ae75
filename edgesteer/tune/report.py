"""What tuning found, as tables and sentences, and as plain data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgesteer.controller import LAWS_WITH_A_BOUND
from edgesteer.evaluate.markdown import NONE, interval, number, rate
from edgesteer.evaluate.statistics import Interval
from edgesteer.profile.report import Table
from edgesteer.tune.dial import Dose
from edgesteer.tune.race import Candidate
from edgesteer.tune.tuning import Tuned

DIGITS = 2


def tables(tuned: Tuned) -> list[Table]:
    return [candidate_table(tuned.candidates), dial_table(tuned.dial.doses)]


def candidate_table(candidates: Sequence[Candidate]) -> Table:
    headers = ["setting", "texts", "its 1 on the old dial", "effect within the budget", "nats around its 1"]
    rows = [
        [each.name, str(each.texts), number(each.level), shown(each.effect), shown(each.cost)] for each in candidates
    ]
    return Table("Settings, the best first; each on the texts of its last round", headers, rows)


def dial_table(doses: Sequence[Dose]) -> Table:
    headers = ["strength", "effect", "added nats", "broken", "p", "items worse, p"]
    rows = [
        [
            f"{dose.strength:+.2f}", shown(dose.effect), shown(dose.cost), rate(dose.broken), number(dose.broken_p),
            number(dose.harm_p) if math.isfinite(dose.harm_p) else NONE,
        ]
        for dose in doses
    ]  # fmt: skip
    return Table("The new dial", headers, rows)


def shown(found: Interval | None) -> str:
    return NONE if found is None else interval(found, DIGITS)


def notes(tuned: Tuned, budget: float) -> list[str]:
    """Return what was chosen and how sure that is, the most important sentence first."""
    controller = tuned.controller
    low, high = controller.safe_range
    lines = [verdict(tuned)]
    for rival in tuned.rivals:
        surely = f"more in {100 * rival.gain.sureness:.0f} of 100 resamples"
        lines.append(f"Effect over {rival.name!r} within +{budget:g}: {shown(rival.gain.difference)}, {surely}.")
    boundless = controller.law in LAWS_WITH_A_BOUND and controller.certificate is None
    if boundless and tuned.chosen.setting.changes.keys() & {"blocks", "shape"}:
        lines.append("The blocks or gains changed, so there is no tracking bound: see `edgesteer certify`.")
    return [*lines, *tuned.dial.notes, f"Safe range: {low:g} to {high:g}."]


def verdict(tuned: Tuned) -> str:
    if tuned.chosen.setting.changes:
        return f"Chosen: {tuned.chosen.name}."
    return "Nothing beats the sidecar as it is: only its dial was calibrated."


def as_record(tuned: Tuned, judge: Any) -> dict[str, Any]:
    """Return all of it but the controller's tensors."""
    controller = tuned.controller
    return {
        "controller": controller.name,
        "chosen": tuned.chosen.setting.changes,
        "scale": controller.scale,
        "negative_scale": controller.negative_scale,
        "safe_range": list(controller.safe_range),
        "blocks": list(controller.blocks),
        "judge": {"name": judge.name, "accuracy": judge.accuracy},
        "candidates": [
            {"name": each.name, "changes": each.setting.changes, "texts": each.texts, "level": each.level,
             "effect": each.effect, "cost": each.cost}
            for each in tuned.candidates
        ],
        "rivals": list(tuned.rivals),
        "dial": list(tuned.dial.doses),
        "notes": list(tuned.dial.notes),
    }  # fmt: skip
