"""Certification: linearization residuals of the steered model on held-out texts become a bound on the tracking error.

The bound's mathematics is in edgesteer/control/bound.py; here is what it is measured on. Knows no files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.bound import (
    controlled_risk,
    reading_residuals,
    responses,
    sensitivities,
    tracking_error_bound,
)
from edgesteer.control.classes import Float
from edgesteer.controller import LAWS_WITH_A_BOUND, Array, Certificate, Command, Controller
from edgesteer.errors import ConceptError, SteeringError
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.pipeline import tokenize_all
from edgesteer.export.simulate import SteeredRun, run_steered
from edgesteer.export.weights import LoadedModel, TokenizedText
from edgesteer.progress import Progress

EFFORTS = (0.0, 0.25, 0.5, 0.75, 1.0)
SIGNS = (1.0, -1.0)


@dataclass(frozen=True)
class CertifyOptions:
    """What a bound covers and what it is measured on."""

    strength: float = 1.0
    """The largest strength that the bound covers, towards either pole."""
    risk: float = 0.1
    """Share of a text's tokens that may exceed the bound, on average over texts."""
    texts: int = 32
    """Held-out texts to measure on."""
    jacobian_prompts: int = 6
    """More of them, to linearize the blocks at."""
    seed: int = 0
    """Of the draw of those texts."""

    def __post_init__(self) -> None:
        for name, in_range, expected in (
            ("strength", self.strength > 0 and np.isfinite(self.strength), "above 0"),
            ("risk", 0 < self.risk < 1, "above 0, below 1"),
            ("texts", self.texts >= 1 / self.risk - 1 if self.risk > 0 else True, "at least 1 / risk - 1"),
            ("jacobian_prompts", self.jacobian_prompts >= 1, "at least 1"),
            ("seed", self.seed >= 0, "at least 0"),
        ):
            if not in_range:
                raise SteeringError(f"{name} is out of range", expected=expected, found=getattr(self, name))


def held_out_examples(
    controllers: Mapping[str, Controller], concepts: Sequence[ConceptSet], neutral: Sequence[Example]
) -> list[Example]:
    """Return the texts of some concepts without those that a controller was made from, and without their prompts.

    neutral: the texts that every export uses. Raises ConceptError when none is left.
    """
    made_from = {controller.provenance.concept_sha256 for controller in controllers.values()}
    used = [e for c in concepts if c.sha256 in made_from for e in (*c.positive_examples, *c.negative_examples)]
    texts = {e.completion for e in (*used, *neutral)}
    prompts = {e.prompt for e in (*used, *neutral)} - {""}
    held_out = [
        example
        for concept in concepts
        for example in (*concept.positive_examples, *concept.negative_examples)
        if example.completion not in texts and example.prompt not in prompts
    ]
    if not held_out:
        raise ConceptError(
            "there are no held-out texts",
            expected="texts that no controller of the sidecar was made from",
            remedy="Give another --concept.",
        )
    return held_out


def certify_controllers(
    model: LoadedModel,
    controllers: Mapping[str, Controller],
    held_out: Sequence[Example],
    options: CertifyOptions,
    progress: Progress,
) -> dict[str, Controller]:
    """Return the controllers with their certificates. The same arguments give the same certificates.

    Raises SteeringError for a law without a bound, ConceptError when there are fewer held-out texts than asked for.
    """
    for controller in controllers.values():
        check_law(controller)
    measured_on, linearized_at = draw_texts(model, held_out, options)
    advance = progress.stage("Jacobians", model.n_blocks * len(linearized_at))
    jacobians = mean_jacobians(model, [text.tokens for text in linearized_at], advance)
    certified = {}
    for name, controller in controllers.items():
        advance = progress.stage(f"residuals of {name}", len(measured_on))
        certified[name] = certify(model, controller, jacobians, measured_on, options, advance)
    return certified


def check_law(controller: Controller) -> None:
    if controller.law not in LAWS_WITH_A_BOUND:
        raise SteeringError(
            "this law has no bound",
            where=controller.name,
            expected=" or ".join(LAWS_WITH_A_BOUND),
            found=controller.law,
        )


def draw_texts(
    model: LoadedModel, held_out: Sequence[Example], options: CertifyOptions
) -> tuple[list[TokenizedText], list[TokenizedText]]:
    """Return the texts to measure on and others to linearize at, drawn with the seed."""
    needed = options.texts + options.jacobian_prompts
    if len(held_out) < needed:
        raise ConceptError(
            "there are too few held-out texts",
            expected=needed,
            found=len(held_out),
            remedy="Give more --concept, or lower --texts.",
        )
    order = np.random.default_rng(options.seed).permutation(len(held_out))[:needed]
    texts = tokenize_all(model, [held_out[i] for i in order])
    return texts[: options.texts], texts[options.texts :]


def certify(
    model: LoadedModel,
    controller: Controller,
    jacobians: Array,
    texts: Sequence[TokenizedText],
    options: CertifyOptions,
    progress: Callable[[], None] = lambda: None,
) -> Controller:
    """Return a controller with its certificate, measured on some texts. jacobians: (T, n, n)."""
    loop = linearize(controller, jacobians)
    errors = []
    for text in texts:
        errors.append(errors_on_text(model, loop, text, options.strength))
        progress()
    quantiles = np.empty((2, len(SIGNS), len(EFFORTS), len(controller.blocks)))
    for kind, pole, effort, site in np.ndindex(quantiles.shape):
        of_texts = [each[kind, pole, effort, :, site] for each in errors]
        quantiles[kind, pole, effort, site] = controlled_risk(of_texts, options.risk)
    bound, measured = quantiles
    bound = np.maximum.accumulate(bound[:, ::-1], axis=1)[:, ::-1]  # never lower at a lower effort
    certificate = Certificate(
        level=options.strength * min(controller.scale, controller.negative_scale or controller.scale),
        mode=controller.mode,
        risk=options.risk,
        texts=len(texts),
        effort=np.array(EFFORTS, dtype=np.float32),
        bound=bound.astype(np.float32),
        measured=measured.astype(np.float32),
    )
    return replace(controller, certificate=certificate)


@dataclass(frozen=True)
class LinearizedLoop:
    """A controller with what the linear model says of its readings."""

    controller: Controller
    boundaries: tuple[int, ...]
    """(m,) where each law reads."""
    sensitivity: Float
    """(m, T+1, n)"""
    response: Float
    """(m, m)"""


def linearize(controller: Controller, jacobians: Array) -> LinearizedLoop:
    """Return the linear model of a controller's readings. jacobians: (T, n, n)."""
    assert controller.probe is not None
    boundaries = tuple(b if controller.reads_block_input else b + 1 for b in controller.blocks)
    sensitivity = sensitivities(jacobians.astype(np.float64), controller.probe.astype(np.float64), boundaries)
    response = responses(sensitivity, controller.gain.astype(np.float64), controller.blocks)
    return LinearizedLoop(controller, boundaries, sensitivity, response)


def errors_on_text(model: LoadedModel, loop: LinearizedLoop, text: TokenizedText, strength: float) -> Float:
    """Return the bound on every steered token's error and the error that it had: (2, poles, efforts, tokens, m).

    Both are absolute and after control, NaN where control did not act. Steered are the completion and the token before
    it, as when the text is generated.
    """
    controller = loop.controller
    rows = torch.arange(len(text.tokens)) >= text.completion_start - 1
    plain = run_steered(model, controller, controller.command(0.0), text.tokens, torch.zeros_like(rows))
    errors = np.empty((2, len(SIGNS), len(EFFORTS), int(rows.sum()), len(controller.blocks)))
    for pole, sign in enumerate(SIGNS):
        for number, effort in enumerate(EFFORTS):
            command = controller.command(sign * strength)._replace(effort=effort)
            run = run_steered(model, controller, command, text.tokens, rows) if effort else plain
            errors[:, pole, number] = token_errors(loop, command, plain, run, rows)
    return errors


def token_errors(
    loop: LinearizedLoop, command: Command, plain: SteeredRun, steered: SteeredRun, rows: torch.Tensor
) -> Float:
    """Return the bound on the error of each steered row and the error it had: (2, tokens, m); NaN without control."""
    controller = loop.controller
    setpoint = controller.rest.astype(np.float64) + command.level * controller.span.astype(np.float64)
    free, before = (setpoint - run.before[:, rows].double().numpy().T for run in (plain, steered))
    acted = {"hold": np.ones_like(before, dtype=bool), "floor": before > 0, "ceiling": before < 0}[command.mode]
    deviation = (steered.stream - plain.stream)[:, rows].double().numpy()
    arriving = deviation.copy()
    for block, control, gain in zip(controller.blocks, steered.control[:, rows].double(), controller.gain, strict=True):
        arriving[block + 1] -= np.outer(control, gain)
    residuals = reading_residuals(loop.sensitivity, arriving, deviation, loop.boundaries)
    bound = tracking_error_bound(loop.response, command.effort * acted, free, residuals).total
    measured = np.abs(before * (1 - command.effort * acted * np.diag(loop.response)))
    return np.where(acted, (bound, measured), np.nan)
