"""From what texts say of a concept to its calibrated Controller: the part of the way that all makers share.

PyTorch (edgesteer.export) and llama.cpp (edgesteer.learn) both give their activations, their linear model and their
neutral texts to this file; it knows neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgesteer.concept import ConceptSet
from edgesteer.control.activations import Activations
from edgesteer.control.calibration import NeutralTexts, calibrate, steps_of
from edgesteer.control.classes import (
    FOLDS,
    Classes,
    alpha_statistics,
    held_out_separation,
    make_sensor,
    probes,
    sensor_block,
)
from edgesteer.control.laws import (
    ablation_law,
    opposite_sides,
    paper_law,
    principal_directions,
    projection_law,
    regulator_law,
    rotation_law,
    scheduled_law,
    second_axes,
    static_law,
)
from edgesteer.control.linear_model import LinearModel
from edgesteer.control.options import ControllerOptions
from edgesteer.control.uncertainty import Uncertainty
from edgesteer.controller import FIXED, Controller, Pid, Provenance, Sensor, Statistics
from edgesteer.errors import SteeringError
from edgesteer.progress import Progress

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Analysis:
    """What the controllers of one concept have in common: the slow part. T+1 boundaries of width n."""

    concept: ConceptSet
    options: ControllerOptions
    """Those that it was made with."""
    direction: Float
    """E_t, (T+1, n): positive class mean - negative class mean."""
    negative_mean: Float
    """(T+1, n)"""
    principal_directions: Float
    """(T+1, n) of `add` with pca."""
    second_axes: Float
    """(T+1, n) of the planes of `rotate`; see edgesteer/control/laws.py."""
    probes: Float
    """(T+1, n) whitened."""
    uncertainty: Uncertainty
    statistics: Statistics
    sensor: Sensor
    """For a controller that steers nothing yet."""
    linear_model: LinearModel
    jacobian_count: int
    """Texts that the blocks were linearized at."""

    @property
    def n_blocks(self) -> int:
        return len(self.direction) - 1


def analyse_classes(
    concept: ConceptSet,
    classes: Classes,
    neutral: Activations,
    neutral_prompts: Activations,
    uncertainty: Uncertainty,
    linear_model: LinearModel,
    jacobian_count: int,
    options: ControllerOptions,
    progress: Progress,
) -> Analysis:
    """Return what the controllers of a concept have in common, whatever their law, blocks, costs and dial.

    neutral, neutral_prompts: of the completions of neutral texts, and of the words of their prompts.
    """
    w = probes(classes, options.shrinkage)
    advance = progress.stage("separation on held-out texts", FOLDS)
    separations = held_out_separation(classes, options.shrinkage, seed=options.seed, progress=advance)
    pooled = [each.astype(np.float64) for each in (classes.positive_pooled, classes.negative_pooled)]
    return Analysis(
        concept=concept,
        options=options,
        direction=classes.direction,
        negative_mean=classes.negative_mean,
        principal_directions=principal_directions(*pooled),
        second_axes=second_axes(np.concatenate(pooled), classes.direction),
        probes=w,
        uncertainty=uncertainty,
        statistics=alpha_statistics(classes, neutral, w, separations),
        sensor=make_sensor(classes, neutral, neutral_prompts, w, sensor_block(separations)),
        linear_model=linear_model,
        jacobian_count=jacobian_count,
    )


def make_controller(
    analysis: Analysis, options: ControllerOptions, texts: NeutralTexts, progress: Progress
) -> Controller:
    """Return the calibrated controller that some options ask for. texts: to calibrate on.

    Raises SteeringError when the options do not fit the model, or ask for another analysis.
    """
    check_same_analysis(analysis, options)
    concept = analysis.concept
    if concept.one_way and options.law == "ablate":
        raise SteeringError(
            "a concept that is steered one way only is not taken out", where=concept.name, found="law ablate"
        )
    blocks = steered_blocks(analysis.n_blocks, options)
    if options.law == "rotate":
        blocks = blocks_with_opposite_sides(analysis, blocks)
    controller = Controller(
        name=concept.name,
        positive=concept.positive,
        negative=concept.negative,
        n_blocks=analysis.n_blocks,
        sensor=sensor_of(analysis, blocks, options),
        statistics=analysis.statistics,
        provenance=provenance_of(analysis, options),
        **law_tensors(analysis, blocks, options, progress),
    )
    advance = progress.stage("calibration", steps_of(controller.law, texts))
    made = calibrate(controller, analysis.linear_model, texts, options, advance)
    return replace(made, safe_range=(0.0, made.safe_range[1])) if concept.one_way else made


def named_by_law(controllers: Sequence[Controller]) -> dict[str, Controller]:
    """Return controllers of one concept and different laws by name: first the concept's own, then `concept-law`."""
    first, *others = controllers
    return {c.name: c for c in (first, *(replace(c, name=f"{c.name}-{c.law}") for c in others))}


def check_same_analysis(analysis: Analysis, options: ControllerOptions) -> None:
    """Raise SteeringError when the options are not those of the analysis where it depends on them."""
    for name in analysis.options.of_analysis:
        asked, made = getattr(options, name), getattr(analysis.options, name)
        if asked != made:
            raise SteeringError(f"{name} is not that of the analysis", expected=made, found=asked)


def steered_blocks(n_blocks: int, options: ControllerOptions) -> tuple[int, ...]:
    """Return the blocks that the options ask for: by default all, for `scheduled` the upper half, where the next token
    is being chosen. Raises SteeringError when the model does not have them.
    """
    blocks = options.blocks or tuple(range(n_blocks // 2 if options.law == "scheduled" else 0, n_blocks))
    if not all(0 <= b < n_blocks for b in blocks):
        raise SteeringError("steered blocks are outside the model", expected=f"0 to {n_blocks - 1}", found=blocks)
    return blocks


def blocks_with_opposite_sides(analysis: Analysis, blocks: tuple[int, ...]) -> tuple[int, ...]:
    """Return those of some blocks that `rotate` steers. Raises SteeringError when there is none."""
    outputs = np.array(blocks) + 1
    chosen = np.array(blocks)[opposite_sides(analysis.direction[outputs], analysis.negative_mean[outputs])]
    if not len(chosen):
        raise SteeringError(
            "rotate has no block to steer",
            expected="a block where the class means project on their difference with opposite signs",
            found=f"none among {len(blocks)}",
            remedy="Choose another law, or contrast prompts that differ more.",
        )
    return tuple(chosen.tolist())


def sensor_of(analysis: Analysis, blocks: tuple[int, ...], options: ControllerOptions) -> Sensor:
    """Return the sensor with the outer loop that the options ask for, its push still to be calibrated."""
    loop = options.loop
    return replace(
        analysis.sensor,
        target=-loop.target if options.law == "ablate" else loop.target,
        reference=FIXED if loop.reference == FIXED else None,
        memory_tokens=loop.memory_tokens,
        slope=loop.slope,
        fade_tokens=loop.fade_tokens,
        recovery_tokens=options.recovery_tokens,
        push=np.zeros(len(blocks), dtype=np.float32),
    )


def provenance_of(analysis: Analysis, options: ControllerOptions) -> Provenance:
    concept = analysis.concept
    return Provenance(
        state_cost=options.state_cost,
        input_cost=options.input_cost,
        terminal_cost=options.terminal_cost,
        jacobian_count=analysis.jacobian_count,
        seed=options.seed,
        pooling=options.pooling,
        shrinkage=options.shrinkage,
        concept_sha256=concept.sha256,
        prompt_count=len(concept.positive_examples) + len(concept.negative_examples),
    )


def law_tensors(
    analysis: Analysis, blocks: tuple[int, ...], options: ControllerOptions, progress: Progress
) -> dict[str, Any]:
    """Return the fields of the Controller that state its law, at the steered blocks."""
    inputs = list(blocks)
    outputs = np.array(blocks) + 1
    direction = analysis.direction
    match options.law:
        case "add":
            chosen = analysis.principal_directions if options.direction == "pca" else direction
            tensors = static_law(chosen[outputs])
        case "scheduled":
            measured = analysis.uncertainty
            tensors = scheduled_law(direction[outputs], measured.probe[outputs], measured.offset[outputs])
        case "ablate":
            tensors = ablation_law(direction[outputs])
        case "rotate":
            tensors = rotation_law(direction[outputs], analysis.second_axes[outputs])
        case "pid":
            tensors = projection_law(direction[inputs])
        case "a-lqr":
            gains = analysis.linear_model.published_gains(direction, blocks, options, progress)
            tensors = paper_law(direction[inputs], gains)
        case _:
            tensors = regulator_law(
                direction[outputs],
                analysis.probes[outputs],
                analysis.linear_model.regulator_gains(direction, blocks, options, progress),
                analysis.negative_mean[outputs],
                analysis.statistics.neutral_mean[inputs],
            )
    return {
        "law": options.law,
        "blocks": blocks,
        "mode": "one-sided" if options.law == "lqr" else "hold",
        "pid": Pid(options.proportional, options.integral, options.derivative) if options.law == "pid" else None,
        **{name: None if value is None else value.astype(np.float32) for name, value in tensors.items()},
    }
