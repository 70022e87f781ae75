"""The tensors of each law at m steered blocks, as edgesteer/controller.py uses them.

Pure array functions; directions E are those of the boundary that a law reads, in rows of width n. Gains that depend on
how the blocks move a deviation come from edgesteer/control/linear_model.py.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.control.classes import CLASS_DISTANCE

Float = NDArray[np.float64]
Tensors = dict[str, NDArray[Any] | None]
RADIANS = math.pi / 16
"""Angle that one level of `rotate` asks for."""


def static_law(direction: Float) -> Tensors:
    """Return the tensors of `add`: level times E, whatever x is."""
    zeros = np.zeros(len(direction))
    return {"probe": None, "offset": zeros, "gain": direction, "rest": zeros, "span": np.ones(len(direction))}


def scheduled_law(direction: Float, probe: Float, offset: Float) -> Tensors:
    """Return the tensors of `scheduled`: level times E times how uncertain the next token is, relative to the average.

    A gain that is scheduled by a reading of the state: a push costs as much where the model has decided, and
    does nothing there. probe, offset: see edgesteer/control/uncertainty.py, at the blocks' outputs.
    """
    zeros = np.zeros(len(direction))
    return {"probe": -probe, "offset": -offset, "gain": direction, "rest": zeros, "span": zeros}


def regulator_law(
    direction: Float, probe: Float, gain: Float, negative_mean: Float, neutral_mean: NDArray[Any]
) -> Tensors:
    """Return the tensors of `lqr`: the whitened probe and (S + R)^-1 S E, from what neutral text reads, (m,), upwards.

    gain: (m, n), from a LinearModel.
    """
    return {
        "probe": probe,
        "offset": np.einsum("mn,mn->m", negative_mean, probe),
        "gain": gain,
        "rest": neutral_mean,
        "span": np.full(len(direction), CLASS_DISTANCE),
    }


def ablation_law(direction: Float) -> Tensors:
    """Return the tensors of `ablate`: x loses a share of its projection on E (Arditi et al. 2024, arXiv 2406.11717)."""
    v, zeros = unit(direction), np.zeros(len(direction))
    return {"probe": v, "offset": zeros, "gain": v, "rest": zeros, "span": zeros}


def projection_law(direction: Float) -> Tensors:
    """Return the tensors of `pid`: the setpoint of E/|E| . x is level |E|, and E/|E| is what it is corrected along.

    Nguyen et al. 2025 (arXiv 2510.04309), in the form that Skifstad et al. 2026 (arXiv 2604.19018) compare with.
    """
    v, zeros = unit(direction), np.zeros(len(direction))
    return {"probe": v, "offset": zeros, "gain": v, "rest": zeros, "span": np.linalg.norm(direction, axis=1)}


def paper_law(direction: Float, gain: Float) -> Tensors:
    """Return the tensors of A-LQR as published: v_t = E_t/|E_t| and K_t v_t, at the blocks' inputs.

    The setpoint at strength lambda is lambda |E_t|, and u_t = (lambda |E_t| - v_t . x_t) K_t v_t (arXiv 2604.19018).
    gain: (m, n), K_t v_t, from a LinearModel.
    """
    return projection_law(direction) | {"gain": gain}


def rotation_law(direction: Float, axes: Float) -> Tensors:
    """Return the tensors of `rotate`: turn by level * RADIANS towards E in its plane with an orthogonal axis.

    Vu and Nguyen 2025 (arXiv 2510.26243), with the exact rotation of Dang and Ngo 2026 (arXiv 2601.19375).
    """
    v, zeros = unit(direction), np.zeros(len(direction))
    return {"probe": v, "offset": zeros, "gain": v, "axis": axes, "rest": zeros, "span": np.full(len(v), RADIANS)}


def opposite_sides(direction: Float, negative_mean: Float) -> NDArray[np.bool_]:
    """Return where the class means project on E with opposite signs, (m,): Dang and Ngo's choice of blocks."""
    negative = np.einsum("mn,mn->m", negative_mean, direction)
    positive = negative + np.einsum("mn,mn->m", direction, direction)
    opposite: NDArray[np.bool_] = (negative < 0) & (positive > 0)
    return opposite


def second_axes(pooled: Float, direction: Float) -> Float:
    """Return a unit vector orthogonal to E for each boundary, (m, n): along it the texts differ most, apart from E.

    pooled: (P, m, n) one activation per text, of both classes; the axis is the first principal component of what is
    left of them orthogonal to E.
    """
    rows = []
    for boundary, v in enumerate(unit(direction)):
        deviations = pooled[:, boundary] - pooled[:, boundary].mean(axis=0)
        component = np.linalg.svd(deviations - np.outer(deviations @ v, v), full_matrices=False)[2][0]
        rows.append(component - (component @ v) * v)
    return unit(np.stack(rows))


def principal_directions(positive: Float, negative: Float) -> Float:
    """Return the first principal component of the pairs' differences at each boundary, of length 1: (m, n).

    repeng's recipe (method pca_diff), which llama.cpp's cvector-generator has taken over; it points to where the
    positive texts lie on average. positive, negative: (P, m, n) one activation per text, pair by pair; where one class
    has more texts, the rest of them is left out.
    """
    pairs = min(len(positive), len(negative))
    differences = positive[:pairs] - negative[:pairs]
    mean = differences.mean(axis=0)
    centred = differences - mean
    rows = [np.linalg.svd(centred[:, boundary], full_matrices=False)[2][0] for boundary in range(len(mean))]
    return np.stack([row if row @ e >= 0 else -row for row, e in zip(rows, mean, strict=True)])


def unit(rows: Float) -> Float:
    """Return the rows at length 1; a row of zeros stays."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    scaled: Float = rows / np.where(lengths > 0, lengths, 1.0)
    return scaled
