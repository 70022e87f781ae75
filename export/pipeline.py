"""The exporter from end to end: a loaded model and a contrast set in, a calibrated Controller out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.riccati import RiccatiSolution, solve_riccati
from edgesteer.controller import LAWS, Array, Controller, Pid, Provenance, Sensor, Statistics
from edgesteer.errors import ConceptError, SteeringError
from edgesteer.export.activations import Activations, collect_activations
from edgesteer.export.calibrate import (
    FOLDS,
    Classes,
    Float,
    NeutralText,
    alpha_statistics,
    calibrate_push,
    classes_of,
    divergence_curve,
    held_out_separation,
    level_at,
    make_sensor,
    neutral_texts,
    probes,
)
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.laws import (
    ablation_law,
    opposite_sides,
    paper_law,
    principal_directions,
    projection_law,
    regulator_law,
    rotation_law,
    second_axes,
    static_law,
)
from edgesteer.export.weights import LoadedModel, TokenizedText

POOLINGS = ("mean", "last")
DIRECTIONS = ("mean", "pca")
ANALYSIS_OPTIONS = ("pooling", "shrinkage", "jacobian_prompts", "seed")
"""What an Analysis depends on; a controller may have other values of the other options."""
CALIBRATION_TEXTS = 6
LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Levels at which the divergence on neutral text is measured, on each side."""
SHARES = (0.25, 0.5, 1.0)
"""The same for `ablate`, of what is removed."""


class Progress(Protocol):
    """Where the exporter reports its stages; the command line draws them as bars with the time left."""

    def stage(self, name: str, total: int) -> Callable[[], None]:
        """Begin a stage of `total` steps; the returned function is called after each."""
        ...


@dataclass(frozen=True)
class ExportOptions:
    """How a controller is made; tests/runtime/test_steering.py measures what the defaults do."""

    law: str = "lqr"
    """The law; a-lqr as published, add a static vector, ablate, pid and rotate the other baselines."""
    direction: str = "mean"
    """Of law add: the difference of the class means, or the first principal component of the pairs' differences."""
    pooling: str = "mean"
    """One activation per text: the mean over its completion's tokens, or its last token."""
    shrinkage: float = 0.3
    """Of the token covariance towards its diagonal."""
    state_cost: float = 1.0
    """q: on the deviation of the residual stream at every boundary."""
    input_cost: float = 10.0
    """r: on the control."""
    terminal_cost: float = 1.0
    """q_f: on the deviation of the last boundary."""
    proportional: float = 1.0
    """Factor of pid on a block's error."""
    integral: float = 0.1
    """Factor of pid on the sum of the errors of the blocks so far."""
    derivative: float = 0.1
    """Factor of pid on the error's change since the block before."""
    jacobian_prompts: int = 24
    """Texts to linearize the blocks at, half of each pole."""
    blocks: tuple[int, ...] | None = None
    """The steered blocks."""
    target: float = 1.0
    """What strength 1 asks the text to read above neutral, in distances of the classes."""
    memory_tokens: float = 8.0
    """Time constant of the outer loop's running mean."""
    slope: float = 1.0
    """Of the outer loop's effort over the share of the target that is missing."""
    fade_tokens: float = 0.0
    """Tokens of full effort that empty the outer loop's reserve; 0: it never empties."""
    recovery_tokens: float = 100.0
    """Time constant with which the reserve fills again."""
    dial_nats: float = 0.5
    """Divergence per token on neutral text, without the outer loop, that strength 1 may cause."""
    safe_nats: float = 1.5
    """The same at the ends of the safe range."""
    seed: int = 0
    """Of the draw of those texts and of the held-out folds."""

    def __post_init__(self) -> None:
        for value, allowed, name in (
            (self.law, LAWS, "law"),
            (self.direction, DIRECTIONS if self.law == "add" else DIRECTIONS[:1], "direction"),
            (self.pooling, POOLINGS, "pooling"),
        ):
            if value not in allowed:
                raise SteeringError(f"unknown {name}", expected=" or ".join(allowed), found=value)
        for name, in_range, expected in (
            ("shrinkage", 0 < self.shrinkage <= 1, "above 0, at most 1"),
            ("state_cost", self.state_cost >= 0, "at least 0"),
            ("input_cost", self.input_cost > 0, "above 0"),
            ("terminal_cost", self.terminal_cost >= 0, "at least 0"),
            ("proportional", self.proportional >= 0, "at least 0"),
            ("integral", self.integral >= 0, "at least 0"),
            ("derivative", self.derivative >= 0, "at least 0"),
            ("jacobian_prompts", self.jacobian_prompts >= 1, "at least 1"),
            ("target", self.target > 0, "above 0"),
            ("memory_tokens", self.memory_tokens >= 1, "at least 1"),
            ("slope", self.slope > 0, "above 0"),
            ("fade_tokens", self.fade_tokens == 0 or self.fade_tokens >= 1, "0 or at least 1"),
            ("recovery_tokens", self.recovery_tokens >= 1, "at least 1"),
            ("dial_nats", self.dial_nats > 0, "above 0"),
            ("safe_nats", self.safe_nats > 0, "above 0"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not in_range:
                raise SteeringError(f"{name} is out of range", expected=expected, found=getattr(self, name))


@dataclass(frozen=True)
class Analysis:
    """What the controllers of one concept have in common: the slow part of an export. T+1 boundaries of width n."""

    concept: ConceptSet
    options: ExportOptions
    """Those that it was made with."""
    direction: Float
    """E_t, (T+1, n): positive class mean - negative class mean."""
    negative_mean: Float
    """(T+1, n)"""
    principal_directions: Float
    """(T+1, n) of `add` with pca."""
    second_axes: Float
    """(T+1, n) of the planes of `rotate`; see export/laws.py."""
    probes: Float
    """(T+1, n) whitened."""
    statistics: Statistics
    sensor: Sensor
    """For a controller that steers nothing yet."""
    jacobians: Array
    """(T, n, n)"""
    jacobian_count: int
    calibration_texts: tuple[TokenizedText, ...]


def export_controller(
    model: LoadedModel,
    concept: ConceptSet,
    neutral: Sequence[Example],
    options: ExportOptions,
    progress: Progress,
) -> Controller:
    """Return the calibrated controller of a concept for a model. The same arguments give the same controller.

    Raises ConceptError when a text has no tokens, SteeringError when the options do not fit the model.
    """
    return controller_of(model, analyse(model, concept, neutral, options, progress), options, progress)


def export_controllers(
    model: LoadedModel,
    concept: ConceptSet,
    neutral: Sequence[Example],
    laws: Sequence[ExportOptions],
    progress: Progress,
) -> dict[str, Controller]:
    """Return controllers of different laws from one analysis, by name: first the concept's own, then `concept-law`.

    Raises what export_controller raises.
    """
    analysis = analyse(model, concept, neutral, laws[0], progress)
    first, *others = (controller_of(model, analysis, options, progress) for options in laws)
    return {c.name: c for c in (first, *(replace(c, name=f"{c.name}-{c.law}") for c in others))}


def analyse(
    model: LoadedModel,
    concept: ConceptSet,
    neutral: Sequence[Example],
    options: ExportOptions,
    progress: Progress,
) -> Analysis:
    """Return what the controllers of a concept have in common, whatever their law, blocks, costs and dial.

    Raises ConceptError when a text has no tokens, SteeringError when the options do not fit the model.
    """
    steered_blocks(model, options)
    positive, negative, plain = (
        tokenize_all(model, examples) for examples in (concept.positive_examples, concept.negative_examples, neutral)
    )
    classes, neutral_activations, prompt_activations = collect(model, positive, negative, plain, options, progress)
    w = probes(classes, options.shrinkage)
    separations = held_out_separation(
        classes,
        options.shrinkage,
        seed=options.seed,
        progress=progress.stage("separation on held-out texts", FOLDS),
    )
    chosen = choose_prompts(positive, negative, options)
    return Analysis(
        concept=concept,
        options=options,
        direction=classes.direction,
        negative_mean=classes.negative_mean,
        principal_directions=principal_directions(
            *(pooled.astype(np.float64) for pooled in (classes.positive_pooled, classes.negative_pooled))
        ),
        second_axes=second_axes(
            np.concatenate([classes.positive_pooled, classes.negative_pooled], dtype=np.float64), classes.direction
        ),
        probes=w,
        statistics=alpha_statistics(classes, neutral_activations, w, separations),
        sensor=make_sensor(classes, neutral_activations, prompt_activations, w, int(np.argmax(separations))),
        jacobians=mean_jacobians(model, [t.tokens for t in chosen], progress.stage("Jacobians", len(chosen))),
        jacobian_count=len(chosen),
        calibration_texts=tuple(plain[:CALIBRATION_TEXTS]),
    )


def controller_of(model: LoadedModel, analysis: Analysis, options: ExportOptions, progress: Progress) -> Controller:
    """Return the calibrated controller that some options ask for.

    Raises SteeringError when the options do not fit the model, or ask for another analysis.
    """
    for name in ANALYSIS_OPTIONS:
        asked, made = getattr(options, name), getattr(analysis.options, name)
        if asked != made:
            raise SteeringError(f"{name} is not that of the analysis", expected=made, found=asked)
    if analysis.concept.one_way and options.law == "ablate":
        raise SteeringError(
            "a concept that is steered one way only is not taken out", where=analysis.concept.name, found="law ablate"
        )
    blocks = steered_blocks(model, options)
    if options.law == "rotate":
        blocks = blocks_with_opposite_sides(analysis, blocks)
    concept = analysis.concept
    sensor = replace(
        analysis.sensor,
        target=-options.target if options.law == "ablate" else options.target,
        **{name: getattr(options, name) for name in ("memory_tokens", "slope", "fade_tokens", "recovery_tokens")},
        push=np.zeros(len(blocks), dtype=np.float32),
    )
    controller = Controller(
        name=concept.name,
        positive=concept.positive,
        negative=concept.negative,
        n_blocks=model.n_blocks,
        sensor=sensor,
        statistics=analysis.statistics,
        provenance=provenance_of(analysis, options),
        **law_tensors(analysis, blocks, options, progress),
    )
    made = calibrate(model, controller, analysis.jacobians, analysis.calibration_texts, options, progress)
    return replace(made, safe_range=(0.0, made.safe_range[1])) if concept.one_way else made


def steered_blocks(model: LoadedModel, options: ExportOptions) -> tuple[int, ...]:
    """Return the blocks that the options ask for. Raises SteeringError when the model does not have them."""
    blocks = options.blocks or tuple(range(model.n_blocks))
    if not all(0 <= b < model.n_blocks for b in blocks):
        raise SteeringError("steered blocks are outside the model", expected=f"0 to {model.n_blocks - 1}", found=blocks)
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


def provenance_of(analysis: Analysis, options: ExportOptions) -> Provenance:
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


def tokenize_all(model: LoadedModel, examples: Sequence[Example]) -> list[TokenizedText]:
    texts = [model.tokenize(e) for e in examples]
    for example, text in zip(examples, texts, strict=True):
        if text.completion_start >= len(text.tokens):
            raise ConceptError("a completion has no tokens", found=repr(example.completion))
    return texts


def collect(
    model: LoadedModel,
    positive: Sequence[TokenizedText],
    negative: Sequence[TokenizedText],
    neutral: Sequence[TokenizedText],
    options: ExportOptions,
    progress: Progress,
) -> tuple[Classes, Activations, Activations]:
    """Return the activations of both classes, of neutral completions, and of the words of neutral prompts."""
    advance = progress.stage("activations", len(positive) + len(negative) + len(neutral))
    classes = classes_of(
        collect_activations(model, positive, advance),
        collect_activations(model, negative, advance),
        options.pooling,
    )
    both = collect_activations(model, neutral, advance, lambda text: slice(text.words.start, len(text.tokens)))
    starts, ends = np.transpose([(t.completion_start, t.words.stop) for t in neutral])[:, both.text]
    return classes, both.where(both.position >= starts), both.where(both.position < ends)


def choose_prompts(
    positive: Sequence[TokenizedText], negative: Sequence[TokenizedText], options: ExportOptions
) -> list[TokenizedText]:
    """Return the texts to linearize at: an equal share of both poles, drawn with the seed."""
    rng = np.random.default_rng(options.seed)
    half = (options.jacobian_prompts + 1) // 2
    drawn = [pole[i] for pole in (positive, negative) for i in sorted(rng.permutation(len(pole))[:half])]
    return drawn[: options.jacobian_prompts]


def law_tensors(
    analysis: Analysis, blocks: tuple[int, ...], options: ExportOptions, progress: Progress
) -> dict[str, Any]:
    """Return the fields of the Controller that state its law, at the steered blocks."""
    inputs = list(blocks)
    outputs = np.array(blocks) + 1
    direction = analysis.direction
    match options.law:
        case "add":
            chosen = analysis.principal_directions if options.direction == "pca" else direction
            tensors = static_law(chosen[outputs])
        case "ablate":
            tensors = ablation_law(direction[outputs])
        case "rotate":
            tensors = rotation_law(direction[outputs], analysis.second_axes[outputs])
        case "pid":
            tensors = projection_law(direction[inputs])
        case "a-lqr":
            gains = riccati_of(analysis.jacobians, blocks, options, progress).gains
            tensors = paper_law(direction[inputs], gains[inputs])
        case _:
            cost_to_go = riccati_of(analysis.jacobians, blocks, options, progress).cost_to_go
            tensors = regulator_law(
                direction[outputs],
                analysis.probes[outputs],
                [cost_to_go[t] for t in outputs],
                analysis.negative_mean[outputs],
                analysis.statistics.neutral_mean[inputs],
                input_cost=options.input_cost,
            )
    return {
        "law": options.law,
        "blocks": blocks,
        "mode": "one-sided" if options.law == "lqr" else "hold",
        "pid": Pid(options.proportional, options.integral, options.derivative) if options.law == "pid" else None,
        **{name: None if value is None else value.astype(np.float32) for name, value in tensors.items()},
    }


def riccati_of(jacobians: Array, blocks: Sequence[int], options: ExportOptions, progress: Progress) -> RiccatiSolution:
    n_blocks = len(jacobians)
    return solve_riccati(
        jacobians.astype(np.float64),
        state_cost=options.state_cost,
        input_cost=options.input_cost,
        terminal_cost=options.terminal_cost,
        actuated=[b in blocks for b in range(n_blocks)],
        progress=progress.stage("Riccati recursion", n_blocks),
    )


def calibrate(
    model: LoadedModel,
    controller: Controller,
    jacobians: Array,
    texts: Sequence[TokenizedText],
    options: ExportOptions,
    progress: Progress,
) -> Controller:
    """Return the controller with its dial, its safe range and the sensor's push."""
    runs = 2 + len(SHARES) if controller.law == "ablate" else 3 + 2 * len(LEVELS)
    advance = progress.stage("calibration", runs * len(texts))
    neutral = neutral_texts(model, controller, texts, advance)
    dial = calibrate_share if controller.law == "ablate" else calibrate_level
    return calibrate_push(model, dial(model, controller, neutral, options, advance), jacobians, neutral, advance)


def calibrate_level(
    model: LoadedModel,
    controller: Controller,
    texts: Sequence[NeutralText],
    options: ExportOptions,
    advance: Callable[[], None],
) -> Controller:
    """Return the controller with its dial and its safe range.

    Strength 1 is where the divergence on neutral text reaches options.dial_nats, the safe range ends where it reaches
    options.safe_nats, on each side. A-LQR as published keeps its own dial: there strength is the paper's lambda.
    """
    up, down = (
        divergence_curve(
            model,
            controller,
            texts,
            [controller.command(sign)._replace(level=sign * each) for each in LEVELS],
            max(options.dial_nats, options.safe_nats),
            advance,
        )
        for sign in (1, -1)
    )
    if controller.law != "a-lqr":
        controller = replace(controller, scale=level_at(up, LEVELS, options.dial_nats))
    low, high = (round(level_at(curve, LEVELS, options.safe_nats) / controller.scale, 2) for curve in (down, up))
    return replace(controller, safe_range=(-low, high))


def calibrate_share(
    model: LoadedModel,
    controller: Controller,
    texts: Sequence[NeutralText],
    options: ExportOptions,
    advance: Callable[[], None],
) -> Controller:
    """The same for `ablate`, whose dial is the share removed: its safe range ends at 1 or at options.safe_nats."""
    curve = divergence_curve(
        model, controller, texts, [controller.command(share) for share in SHARES], options.safe_nats, advance
    )
    return replace(controller, safe_range=(0.0, round(level_at(curve, SHARES, options.safe_nats), 2)))
