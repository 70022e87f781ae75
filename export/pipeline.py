"""The exporter from end to end: a loaded model and a contrast set in, a calibrated Controller out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.riccati import RiccatiSolution, regulator_direction, solve_riccati
from edgesteer.controller import LAWS, Array, Controller, Provenance
from edgesteer.errors import ConceptError, SteeringError
from edgesteer.export.activations import Activations, collect_activations
from edgesteer.export.calibrate import (
    CLASS_DISTANCE,
    FOLDS,
    Classes,
    Float,
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
from edgesteer.export.weights import LoadedModel, TokenizedText

POOLINGS = ("mean", "last")
CALIBRATION_TEXTS = 6
LEVELS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
"""Levels at which the divergence on neutral text is measured, on each side."""


class Progress(Protocol):
    """Where the exporter reports its stages; the command line draws them as bars with the time left."""

    def stage(self, name: str, total: int) -> Callable[[], None]:
        """Begin a stage of `total` steps; the returned function is called after each."""
        ...


@dataclass(frozen=True)
class ExportOptions:
    """How a controller is made; tests/runtime/test_steering.py measures what the defaults do."""

    law: str = "lqr"
    """The feedback law; a-lqr is the published one, add a static vector."""
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
    jacobian_prompts: int = 24
    """Texts to linearize the blocks at, half of each pole."""
    blocks: tuple[int, ...] | None = None
    """The steered blocks."""
    memory_tokens: float = 8.0
    """Time constant of the outer loop's running mean."""
    dial_nats: float = 0.5
    """Divergence per token on neutral text, without the outer loop, that strength 1 may cause."""
    safe_nats: float = 1.5
    """The same at the ends of the safe range."""
    seed: int = 0
    """Of the draw of those texts and of the held-out folds."""

    def __post_init__(self) -> None:
        for value, allowed, name in ((self.law, LAWS, "law"), (self.pooling, POOLINGS, "pooling")):
            if value not in allowed:
                raise SteeringError(f"unknown {name}", expected=" or ".join(allowed), found=value)
        for name, in_range, expected in (
            ("shrinkage", 0 < self.shrinkage <= 1, "above 0, at most 1"),
            ("state_cost", self.state_cost >= 0, "at least 0"),
            ("input_cost", self.input_cost > 0, "above 0"),
            ("terminal_cost", self.terminal_cost >= 0, "at least 0"),
            ("jacobian_prompts", self.jacobian_prompts >= 1, "at least 1"),
            ("memory_tokens", self.memory_tokens >= 1, "at least 1"),
            ("dial_nats", self.dial_nats > 0, "above 0"),
            ("safe_nats", self.safe_nats > 0, "above 0"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not in_range:
                raise SteeringError(f"{name} is out of range", expected=expected, found=getattr(self, name))


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
    blocks = options.blocks or tuple(range(model.n_blocks))
    if not all(0 <= b < model.n_blocks for b in blocks):
        raise SteeringError("steered blocks are outside the model", expected=f"0 to {model.n_blocks - 1}", found=blocks)
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
    statistics = alpha_statistics(classes, neutral_activations, w, separations)
    chosen = choose_prompts(positive, negative, options)
    jacobians = mean_jacobians(model, [t.tokens for t in chosen], progress.stage("Jacobians", len(chosen)))
    controller = Controller(
        name=concept.name,
        positive=concept.positive,
        negative=concept.negative,
        n_blocks=model.n_blocks,
        statistics=statistics,
        provenance=Provenance(
            state_cost=options.state_cost,
            input_cost=options.input_cost,
            terminal_cost=options.terminal_cost,
            jacobian_count=len(chosen),
            seed=options.seed,
            pooling=options.pooling,
            shrinkage=options.shrinkage,
            concept_sha256=concept.sha256,
            prompt_count=len(positive) + len(negative),
        ),
        **law_tensors(classes, w, statistics.neutral_mean, jacobians, blocks, options, progress),
    )
    sensor = make_sensor(
        classes,
        neutral_activations,
        prompt_activations,
        w,
        int(np.argmax(separations)),
        len(blocks),
        options.memory_tokens,
    )
    return calibrate(model, replace(controller, sensor=sensor), jacobians, plain[:CALIBRATION_TEXTS], options, progress)


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
    classes: Classes,
    w: Float,
    neutral_mean: Array,
    jacobians: Array,
    blocks: tuple[int, ...],
    options: ExportOptions,
    progress: Progress,
) -> dict[str, Any]:
    """Return the fields of the Controller that state its law, at the steered blocks."""
    direction = classes.direction
    outputs = np.array(blocks) + 1
    rest: Float | Array
    if options.law == "add":
        probe, offset, gain = None, np.zeros(len(blocks)), direction[outputs]
        rest, span = np.zeros(len(blocks)), np.ones(len(blocks))
    else:
        solution = riccati_of(jacobians, blocks, options, progress)
        if options.law == "a-lqr":
            probe, gain, span = paper_law(direction, solution, blocks)
            offset = rest = np.zeros(len(blocks))
        else:
            probe, offset = w[outputs], np.einsum("mn,mn->m", classes.negative_mean[outputs], w[outputs])
            gain = np.stack(
                [
                    regulator_direction(solution.cost_to_go[t], direction[t], input_cost=options.input_cost)
                    for t in outputs
                ]
            )
            rest = neutral_mean[list(blocks)]
            span = np.full(len(blocks), CLASS_DISTANCE)
    as_float32 = {"probe": probe, "offset": offset, "gain": gain, "rest": rest, "span": span}
    return {
        "law": options.law,
        "blocks": blocks,
        "mode": "hold" if options.law in ("add", "a-lqr") else "one-sided",
        **{name: None if value is None else value.astype(np.float32) for name, value in as_float32.items()},
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


def paper_law(direction: Float, solution: RiccatiSolution, blocks: Sequence[int]) -> tuple[Float, Float, Float]:
    """Return probe, gain and span of A-LQR as published: v_t = E_t/|E_t|, K_t v_t, |E_t|, at the blocks' inputs.

    The setpoint at strength lambda is lambda |E_t|, and u_t = (lambda |E_t| - v_t . x_t) K_t v_t (arXiv 2604.19018).
    """
    at_input = direction[list(blocks)]
    norm = np.linalg.norm(at_input, axis=1)
    v = at_input / np.where(norm > 0, norm, 1.0)[:, None]  # E_0 is 0 when all texts end in one token
    gain = np.einsum("mij,mj->mi", solution.gains[list(blocks)], v)
    return v, gain, norm


def calibrate(
    model: LoadedModel,
    controller: Controller,
    jacobians: Array,
    texts: Sequence[TokenizedText],
    options: ExportOptions,
    progress: Progress,
) -> Controller:
    """Return the controller with its dial, its safe range and the sensor's push.

    Strength 1 is where the divergence on neutral text reaches options.dial_nats, the safe range ends where it reaches
    options.safe_nats, on each side. A-LQR as published keeps its own dial: there strength is the paper's lambda.
    """
    advance = progress.stage("calibration", (3 + 2 * len(LEVELS)) * len(texts))
    neutral = neutral_texts(model, controller, texts, advance)
    up, down = (
        divergence_curve(model, controller, neutral, [sign * level for level in LEVELS], advance) for sign in (1, -1)
    )
    if controller.law != "a-lqr":
        controller = replace(controller, scale=level_at(up, LEVELS, options.dial_nats))
    low, high = (round(level_at(curve, LEVELS, options.safe_nats) / controller.scale, 2) for curve in (down, up))
    controller = replace(controller, safe_range=(-low, high))
    return calibrate_push(model, controller, jacobians, neutral, advance)
