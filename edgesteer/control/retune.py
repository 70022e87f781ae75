"""Retuning: the gains of an existing controller for other costs or fewer blocks, from the linear model alone.

Knows no models, no prompts and no files. A gain is h(S) d, where h(S) = (S + R)^-1 S and d does not depend on the costs
(`lqr`: the class direction E at the block's output; `a-lqr`: A v, what the block makes of E/|E|). The controller
keeps no d, so it is solved out of the gain that is there:

    d = h(S_before)^-1 gain,      gain' = h(S_after) d

with both S from the same linear model. Costs that stay therefore give back the gains that were there, whatever the
linear model is worth, and its errors enter through the change alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from edgesteer.control.factored import Vector, regulated_direction, regulator_direction
from edgesteer.control.factored_model import FactoredModel
from edgesteer.control.linear_model import predicted_push
from edgesteer.control.options import ControllerOptions
from edgesteer.controller import Controller
from edgesteer.errors import SteeringError
from edgesteer.progress import Progress

RETUNED_LAWS = ("lqr", "a-lqr")
COSTS = ("state_cost", "input_cost", "terminal_cost")


@dataclass(frozen=True)
class RetuneOptions:
    """What is to be changed; None: it stays as it was."""

    state_cost: float | None = None
    """q: on the deviation of the residual stream at every boundary."""
    input_cost: float | None = None
    """r: on the control."""
    terminal_cost: float | None = None
    """q_f: on the deviation of the last boundary."""
    blocks: tuple[int, ...] | None = None
    """The steered blocks, some of those that are steered now."""


def retune(controller: Controller, model: FactoredModel, changes: RetuneOptions, progress: Progress) -> Controller:
    """Return the controller with the gains, the dial and the sensor's push that other costs and blocks ask for.

    The dial: strength 1 moves the last boundary, which the logits are read from, as far as before, by the linear model;
    so do the ends of the safe range. The dial of `a-lqr` is the paper's lambda and stays, there the safe range moves
    instead. A certificate is dropped.
    Raises SteeringError for a cost out of range, for another law, for gains that are of no such costs, and for blocks
    without a probe.
    """
    before = recorded_options(controller)
    options = replace(before, **{name: value for name, value in vars(changes).items() if value is not None})
    blocks = retuned_blocks(controller, options.blocks or ())
    directions = solved_directions(controller, model, before, progress)
    costs = model.costs_to_go(blocks, options, progress)
    kept = [controller.blocks.index(block) for block in blocks]
    gains = [regulator_direction(costs[b + 1], directions[i], input_cost=options.input_cost)
             for b, i in zip(blocks, kept, strict=True)]  # fmt: skip
    kept_rows: dict[str, Any] = {name: getattr(controller, name)[kept] for name in ("probe", "offset", "rest", "span")}
    made = replace(
        controller,
        blocks=blocks,
        gain=np.stack(gains).astype(np.float32),
        **kept_rows,
        sensor=controller.sensor and replace(controller.sensor, push=controller.sensor.push[kept]),
        provenance=replace(controller.provenance, **{name: getattr(options, name) for name in COSTS}),
        certificate=None,
    )
    return recalibrated(controller, made, model)


def recorded_options(controller: Controller) -> ControllerOptions:
    """Return the costs and the blocks that a controller was made for. Raises SteeringError unless it has such gains."""
    provenance = controller.provenance
    if controller.law not in RETUNED_LAWS or provenance.input_cost <= 0:
        raise SteeringError(
            "has no gains of the Riccati recursion to retune",
            where=controller.name,
            expected=f"law {' or '.join(RETUNED_LAWS)} and the costs that it was made for",
            found=f"law {controller.law}, input cost {provenance.input_cost:g}",
            remedy="Give a sidecar that `edgesteer export` or `edgesteer learn` made.",
        )
    if provenance.cost is not None:
        raise SteeringError(
            "gains of another cost cannot be retuned",
            where=controller.name,
            expected="a state cost on the whole residual stream",
            found=f"--cost {provenance.cost}",
            remedy="Export it again, with the costs that you want.",
        )
    if provenance.state_cost <= 0:
        raise SteeringError(
            "gains cannot be solved for their directions",
            where=controller.name,
            expected="a state cost above 0",
            found=provenance.state_cost,
            remedy="Export it again, with the costs that you want.",
        )
    return ControllerOptions(blocks=controller.blocks, **{name: getattr(provenance, name) for name in COSTS})


def retuned_blocks(controller: Controller, blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Return the blocks to steer, ascending. Raises SteeringError when the controller reads nothing at one of them."""
    if not blocks or not set(blocks) <= set(controller.blocks):
        raise SteeringError(
            "has no probe at some of these blocks",
            where=controller.name,
            expected=f"some of {controller.blocks}",
            found=blocks,
            remedy="Export or learn it with more blocks.",
        )
    return tuple(sorted(set(blocks)))


def solved_directions(
    controller: Controller, model: FactoredModel, options: ControllerOptions, progress: Progress
) -> list[Vector]:
    """Return what each gain regulates, d of (n,); options: those that the gains are of."""
    costs = model.costs_to_go(controller.blocks, options, progress)
    return [
        regulated_direction(costs[block + 1], gain.astype(np.float64), input_cost=options.input_cost)
        for block, gain in zip(controller.blocks, controller.gain, strict=True)
    ]


def recalibrated(before: Controller, made: Controller, model: FactoredModel) -> Controller:
    """Return a retuned controller with its dial, and with the push that its gains give at the sensor."""
    if before.sensor is not None and made.sensor is not None:
        old, new = predicted_push(before, model), predicted_push(made, model)
        factor = float(before.sensor.push @ old / (old @ old)) if np.any(old) else 0.0
        made = replace(made, sensor=replace(made.sensor, push=(factor * new).astype(np.float32)))
    reach, retuned_reach = reach_per_level(before, model), reach_per_level(made, model)
    if not (reach > 0 and retuned_reach > 0):
        remedy = "Give a state cost or a terminal cost above 0."
        raise SteeringError("gains vanish, so the dial has no scale", where=made.name, remedy=remedy)
    ratio = reach / retuned_reach
    if made.law == "a-lqr":
        low, high = (round(end * ratio, 2) for end in made.safe_range)
        return replace(made, safe_range=(low, high))
    negative_scale = None if before.negative_scale is None else before.negative_scale * ratio
    return replace(made, scale=before.scale * ratio, negative_scale=negative_scale)


def reach_per_level(controller: Controller, model: FactoredModel) -> float:
    """Return how far one unit of level moves the last boundary in the linear model, at full effort both ways.

    From rest, each law corrects what those before it have left of its setpoint.
    """
    assert controller.probe is not None
    x: Vector = np.zeros(controller.width)
    for number, block in enumerate(model.blocks):
        read, x = x, block @ x
        if number in controller.blocks:
            law = controller.blocks.index(number)
            reading = controller.probe[law] @ (read if controller.reads_block_input else x)
            x = x + (controller.span[law] - reading) * controller.gain[law]
    return float(np.linalg.norm(x))
