"""The exporter from end to end: a loaded model and a contrast set in, a calibrated Controller out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.activations import Activations
from edgesteer.control.calibration import CALIBRATION_TEXTS
from edgesteer.control.classes import Classes, classes_of, probes
from edgesteer.control.feature_cost import FeatureModel
from edgesteer.control.linear_model import DenseModel, LinearModel
from edgesteer.control.options import ControllerOptions, require_option
from edgesteer.control.synthesis import Analysis, analyse_classes, make_controller, named_by_law, steered_blocks
from edgesteer.control.uncertainty import Uncertainty, fit_uncertainty
from edgesteer.controller import Controller
from edgesteer.errors import SteeringError
from edgesteer.export.activations import collect_activations, next_token_entropies
from edgesteer.export.calibrate import TorchTexts
from edgesteer.export.jacobians import PRECISIONS, LinearizationPoints, jacobians_at, sensitivities_at
from edgesteer.export.weights import LoadedModel, TokenizedText
from edgesteer.export.workers import ALONE, Workers
from edgesteer.progress import Progress
from edgesteer.tokens import check_completions, neutral_parts, neutral_rows

COSTS = ("full", "feature")


@dataclass(frozen=True)
class ExportOptions(ControllerOptions):
    """How a controller is made from a model in PyTorch."""

    jacobian_prompts: int = 24
    """Texts to linearize the blocks at, half of each pole."""
    cost: str = "full"
    """What q and q_f are on: the whole residual stream, or, in a fraction of time and memory, the concept's reading."""
    precision: str = "float32"
    """Of the products with the blocks' Jacobians; their sums are in float64."""

    of_analysis = (*ControllerOptions.of_analysis, "jacobian_prompts", "cost", "precision")  # type: ignore[assignment]

    def __post_init__(self) -> None:
        super().__post_init__()
        require_option(self, "jacobian_prompts", self.jacobian_prompts >= 1, "at least 1")
        for name, allowed in (("cost", COSTS), ("precision", PRECISIONS)):
            if getattr(self, name) not in allowed:
                raise SteeringError(f"unknown {name}", expected=" or ".join(allowed), found=getattr(self, name))


@dataclass(frozen=True)
class ExportAnalysis(Analysis):
    """An Analysis by PyTorch, with the texts that its controllers are calibrated on."""

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
    workers: Workers = ALONE,
) -> dict[str, Controller]:
    """Return controllers of different laws from one analysis, by name: first the concept's own, then `concept-law`.

    Raises what export_controller raises.
    """
    analysis = analyse(model, concept, neutral, laws[0], progress, workers)
    return named_by_law([controller_of(model, analysis, options, progress) for options in laws])


def analyse(
    model: LoadedModel,
    concept: ConceptSet,
    neutral: Sequence[Example],
    options: ExportOptions,
    progress: Progress,
    workers: Workers = ALONE,
) -> ExportAnalysis:
    """Return what the controllers of a concept have in common, whatever their law, blocks, costs and dial.

    Raises ConceptError when a text has no tokens, SteeringError when the options do not fit the model.
    """
    steered_blocks(model.n_blocks, options)
    positive, negative, plain = (
        tokenize_all(model, examples) for examples in (concept.positive_examples, concept.negative_examples, neutral)
    )
    activations = collect(model, positive, negative, plain, options, progress, workers)
    chosen = choose_prompts(positive, negative, options)
    linear_model = linearized(model, chosen, activations[0], options, progress, workers)
    analysis = analyse_classes(concept, *activations, linear_model, len(chosen), options, progress)
    return ExportAnalysis(**vars(analysis), calibration_texts=tuple(plain[:CALIBRATION_TEXTS]))


def linearized(
    model: LoadedModel,
    texts: Sequence[TokenizedText],
    classes: Classes,
    options: ExportOptions,
    progress: Progress,
    workers: Workers,
) -> LinearModel:
    """Return the linear model of the blocks at the last tokens of some texts, as much of it as the cost needs."""
    steps = model.n_blocks * len(texts)
    advance = progress.stage("texts to linearize at", steps)
    points = LinearizationPoints(model, [text.tokens for text in texts], workers, advance)
    if options.cost == "full":
        return DenseModel(jacobians_at(points, progress.stage("Jacobians", steps), precision=options.precision))
    w = probes(classes, options.shrinkage)
    advance = progress.stage("Jacobian products", steps)
    return FeatureModel(sensitivities_at(points, w, advance, precision=options.precision))


def controller_of(
    model: LoadedModel, analysis: ExportAnalysis, options: ExportOptions, progress: Progress
) -> Controller:
    """Return the calibrated controller that some options ask for.

    Raises SteeringError when the options do not fit the model, or ask for another analysis.
    """
    made = make_controller(analysis, options, TorchTexts(model, analysis.calibration_texts), progress)
    cost = None if options.cost == "full" else options.cost
    return replace(made, provenance=replace(made.provenance, cost=cost))


def tokenize_all(model: LoadedModel, examples: Sequence[Example]) -> list[TokenizedText]:
    texts = [model.tokenize(e) for e in examples]
    check_completions(examples, texts)
    return texts


def collect(
    model: LoadedModel,
    positive: Sequence[TokenizedText],
    negative: Sequence[TokenizedText],
    neutral: Sequence[TokenizedText],
    options: ExportOptions,
    progress: Progress,
    workers: Workers,
) -> tuple[Classes, Activations, Activations, Uncertainty]:
    """Return the activations of both classes, of neutral completions, of the words of neutral prompts; and what they
    say of the next token's entropy.
    """
    poles = (positive, negative, neutral)
    texts = [text for pole in poles for text in pole]  # together, so that weights that are streamed are read once
    advance = progress.stage("activations", model.n_blocks * len(texts))
    completions, words = neutral_parts(collect_activations(model, texts, advance, neutral_rows, workers), texts)
    entropies = next_token_entropies(model, texts, completions)
    uncertainty = fit_uncertainty([completions], entropies, options.shrinkage)
    of = np.repeat(np.arange(3), [len(pole) for pole in poles])
    up, down, plain = (completions.select(of == pole) for pole in range(3))
    return classes_of(up, down, options.pooling), plain, words.select(of == 2), uncertainty


def choose_prompts(
    positive: Sequence[TokenizedText], negative: Sequence[TokenizedText], options: ExportOptions
) -> list[TokenizedText]:
    """Return the texts to linearize at: an equal share of both poles, drawn with the seed."""
    rng = np.random.default_rng(options.seed)
    half = (options.jacobian_prompts + 1) // 2
    drawn = [pole[i] for pole in (positive, negative) for i in sorted(rng.permutation(len(pole))[:half])]
    return drawn[: options.jacobian_prompts]
