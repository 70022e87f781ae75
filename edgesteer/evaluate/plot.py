"""Pictures of an experiment: effect against strength, and effect against cost. Needs matplotlib, imported to draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesteer.evaluate.frontier import Curve, make_curves
from edgesteer.evaluate.paired import MEASURES, changes, outcome, unsteered
from edgesteer.evaluate.record import Record
from edgesteer.evaluate.tables import mean, nats
from edgesteer.extras import needs_extra
from edgesteer.plot import save

PANEL_INCHES = (4.5, 3.4)
FORMATS = ("png", "svg")
Draw = Callable[[Any, str, Curve], None]


def plot_experiment(folder: Path, records: Sequence[Record], primary: str) -> list[Path]:
    """Write effect_strength and effect_cost as PNG and SVG, a panel a measure; return their paths.

    None are written when no arm has a dial. Raises MissingExtraError without matplotlib.
    """
    drawings: dict[str, tuple[Draw, str]] = {
        "effect_strength": (draw_dose, "strength"),
        "effect_cost": (draw_frontier, "added nats per token"),
    }
    with needs_extra("eval"):
        from matplotlib.figure import Figure
    found = {measure: make_curves(records, outcome(primary, measure))[1] for measure in MEASURES}
    if not any(len(curve.effects) for curves in found.values() for curve in curves.values()):
        return []
    paths = []
    for name, (draw, label) in drawings.items():
        width, height = PANEL_INCHES
        figure = Figure(figsize=(len(MEASURES) * width, height), layout="constrained")
        for panel, (measure, curves) in zip(figure.subplots(1, len(MEASURES)), found.items(), strict=True):
            for arm, curve in curves.items():
                draw(panel, arm, curve)
            if draw is draw_frontier:
                draw_points(panel, records, primary, measure, set(curves))
            panel.set(xlabel=label, ylabel=f"{primary}: {measure}", ylim=(-0.03, 1.03))
        panel.legend(fontsize="small")
        paths += [folder / f"{name}.{suffix}" for suffix in FORMATS]
        for path in paths[-len(FORMATS) :]:
            save(figure, path)
    return paths


def draw_dose(panel: Any, arm: str, curve: Curve) -> None:
    """Draw the mean effect at each strength with its standard error over prompts."""
    n = len(curve.effects)
    error = curve.effects.std(axis=0, ddof=1) / np.sqrt(n) if n > 1 else None
    panel.errorbar(curve.strengths, curve.mean_effects, yerr=error, marker="o", markersize=4, capsize=2, label=arm)


def draw_frontier(panel: Any, arm: str, curve: Curve) -> None:
    panel.plot(curve.mean_costs, curve.mean_effects, marker="o", markersize=4, label=arm)


def draw_points(panel: Any, records: Sequence[Record], primary: str, measure: str, dialled: set[str]) -> None:
    """Draw the arms without a dial, such as a system prompt, as single points."""
    base = unsteered(records)
    for arm in dict.fromkeys(record.arm for record in records):
        chosen = [record for record in records if record.arm == arm]
        if arm not in dialled and arm != base[0].arm:
            added = changes(chosen, base, nats)
            panel.plot(np.nanmean(added), mean(chosen, outcome(primary, measure)), "*", markersize=10, label=arm)
