"""Draws what a controller's calibration says of every block. Needs matplotlib, which is imported when it draws."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgesteer.controller import Controller
from edgesteer.errors import EdgeSteerError
from edgesteer.extras import needs_extra
from edgesteer.files import atomic_write

CLASSES = (("positive", "tab:red"), ("negative", "tab:blue"), ("neutral", "tab:gray"))
PANEL_INCHES = (4.5, 3.2)


def plot_controllers(controllers: Sequence[Controller], path: str | os.PathLike[str]) -> None:
    """Draw a row of three panels a controller: class separation, gain norms, and alpha of both classes and of neutral
    text (mean and spread), over the blocks. The path's suffix is the format; none is png.

    Raises MissingExtraError without matplotlib, EdgeSteerError when the file cannot be written or has no such format.
    """
    with needs_extra("plot"):
        from matplotlib.figure import Figure
    width, height = PANEL_INCHES
    figure = Figure(figsize=(3 * width, len(controllers) * height), layout="constrained")
    axes = figure.subplots(len(controllers), 3, squeeze=False)
    for row, controller in zip(axes, controllers, strict=True):
        for panel, draw in zip(row, (draw_separation, draw_gain_norms, draw_alpha), strict=True):
            draw(panel, controller)
            panel.set(xlabel="block", xlim=(-0.5, controller.n_blocks - 0.5))
    save(figure, Path(path))


def save(figure: Any, path: Path) -> None:
    kind = picture_kind(path)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format=kind, dpi=150)


def picture_kind(path: Path) -> str:
    """Return the format that a path's suffix names. Raises as plot_controllers does."""
    with needs_extra("plot"):
        from matplotlib.backend_bases import FigureCanvasBase
    kind = path.suffix.removeprefix(".").lower() or "png"
    kinds = FigureCanvasBase.get_supported_filetypes()
    if kind not in kinds:
        raise EdgeSteerError("unknown kind of picture", where=path, expected=", ".join(sorted(kinds)), found=kind)
    return kind


def draw_separation(panel: Any, controller: Controller) -> None:
    panel.set(title=f"{controller.name}: separation of the classes", ylabel="d' on held-out texts")
    if controller.statistics is None:
        say_no_statistics(panel)
        return
    panel.plot(controller.statistics.separation, ".-", color="black")
    if controller.sensor is not None:
        panel.axvline(controller.sensor.block, color="tab:green", linestyle="--", label="sensor")
        panel.legend()


def draw_gain_norms(panel: Any, controller: Controller) -> None:
    panel.set(title=f"{controller.name}: gain norms", ylabel="|gain|")
    panel.bar(controller.blocks, np.linalg.norm(controller.gain, axis=1), color="tab:purple")


def draw_alpha(panel: Any, controller: Controller) -> None:
    panel.set(title=f"{controller.name}: alpha, mean ± spread", ylabel="alpha")
    if controller.statistics is None:
        say_no_statistics(panel)
        return
    blocks = np.arange(controller.n_blocks)
    names = {"positive": controller.positive, "negative": controller.negative, "neutral": "neutral text"}
    for key, colour in CLASSES:
        mean, spread = (getattr(controller.statistics, f"{key}_{what}") for what in ("mean", "spread"))
        panel.plot(blocks, mean, color=colour, label=names[key])
        panel.fill_between(blocks, mean - spread, mean + spread, color=colour, alpha=0.15)
    panel.legend()


def say_no_statistics(panel: Any) -> None:
    panel.text(0.5, 0.5, "the file has no statistics", transform=panel.transAxes, ha="center")
