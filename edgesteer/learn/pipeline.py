"""Learning from end to end: a GGUF, its dynamics and a contrast set in, calibrated Controllers out.

The exporter's way with other hands: llama.cpp reads the texts, through the deployed, quantized model itself, and the
linear model comes from a dynamics sidecar. What is made of them is edgesteer/control/synthesis.py's. Needs no PyTorch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.activations import Activations
from edgesteer.control.calibration import CALIBRATION_TEXTS
from edgesteer.control.classes import Classes, classes_of
from edgesteer.control.factored_model import FactoredModel
from edgesteer.control.options import ControllerOptions
from edgesteer.control.synthesis import analyse_classes, make_controller, named_by_law, steered_blocks
from edgesteer.control.uncertainty import Uncertainty, fit_uncertainty
from edgesteer.controller import Controller
from edgesteer.dynamics import Dynamics
from edgesteer.progress import Progress
from edgesteer.runtime.texts import LlamaTexts, TextReader
from edgesteer.tokens import ExampleTokens, check_completions, completion_rows, neutral_parts, neutral_rows


def learn_controllers(
    reader: TextReader,
    dynamics: Dynamics,
    concept: ConceptSet,
    neutral: Sequence[Example],
    laws: Sequence[ControllerOptions],
    progress: Progress,
) -> dict[str, Controller]:
    """Return calibrated controllers of different laws of a concept: first the concept's own, then `concept-law`.

    dynamics: of this model. The same arguments give the same controllers.
    Raises ConceptError when a text has no tokens, SteeringError when the options do not fit the model, and what
    TextReader raises.
    """
    for options in laws:
        steered_blocks(reader.n_blocks, options)
    positive, negative, plain = (
        tokenize_all(reader, examples) for examples in (concept.positive_examples, concept.negative_examples, neutral)
    )
    analysis = analyse_classes(
        concept,
        *collect(reader, positive, negative, plain, laws[0], progress),
        FactoredModel(dynamics.blocks),
        dynamics.jacobian_count,
        laws[0],
        progress,
    )
    with reader.engine(plain[:CALIBRATION_TEXTS]) as engine:
        texts = LlamaTexts(engine, plain[:CALIBRATION_TEXTS])
        return named_by_law([make_controller(analysis, options, texts, progress) for options in laws])


def tokenize_all(reader: TextReader, examples: Sequence[Example]) -> list[ExampleTokens]:
    texts = [reader.tokenize(example) for example in examples]
    check_completions(examples, texts)
    return texts


def collect(
    reader: TextReader,
    positive: Sequence[ExampleTokens],
    negative: Sequence[ExampleTokens],
    neutral: Sequence[ExampleTokens],
    options: ControllerOptions,
    progress: Progress,
) -> tuple[Classes, Activations, Activations, Uncertainty]:
    """Return the activations of both classes, of neutral completions, of the words of neutral prompts; and what they
    say of the next token's entropy.
    """
    advance = progress.stage("activations", len(positive) + len(negative) + len(neutral))
    both, entropies = reader.activations([*positive, *negative], completion_rows, advance)
    is_positive = np.arange(len(positive) + len(negative)) < len(positive)
    classes = classes_of(both.select(is_positive), both.select(~is_positive), options.pooling)
    plain, plain_entropies = reader.activations(neutral, neutral_rows, advance)
    completions, words = neutral_parts(plain, neutral)
    entropies = np.concatenate([entropies, plain_entropies[completions.row]])
    return classes, completions, words, fit_uncertainty([both, completions], entropies, options.shrinkage)
