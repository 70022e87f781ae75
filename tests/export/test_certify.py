"""Certification of the tiny model: what is measured, the promise it makes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from edgesteer.concept import ConceptSet, Example
from edgesteer.control.bound import ErrorBound
from edgesteer.controller import Certificate, Controller, Provenance
from edgesteer.errors import ConceptError, SteeringError
from edgesteer.export import certify
from edgesteer.export.certify import (
    EFFORTS,
    CertifyOptions,
    certify_controllers,
    errors_on_text,
    held_out_examples,
    linearize,
)
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.simulate import run_steered
from edgesteer.export.weights import LoadedModel, TokenizedText

pytestmark = pytest.mark.torch

OPTIONS = CertifyOptions(texts=9, jacobian_prompts=2)
NOUNS = ("boat", "tree", "pot", "hat", "cup", "door", "cat", "stone", "bell", "lamp", "rope")
HELD_OUT = [Example(f"Tell me of the {noun}.", f"The {noun} is by the gate of a friend.") for noun in NOUNS]
TEXT = TokenizedText(torch.arange(40, 64), 10)


@pytest.fixture
def controller(make_controller: Callable[..., Controller]) -> Controller:
    return make_controller(4, 32, blocks=(0, 1, 3), mode="one-sided", size=0.2)


@pytest.fixture(scope="module")
def jacobians(tiny_torch: LoadedModel) -> Any:
    return mean_jacobians(tiny_torch, [TEXT.tokens])


@pytest.fixture
def certificate(tiny_torch: LoadedModel, controller: Controller, no_progress: Any) -> Certificate:
    made = certify_controllers(tiny_torch, {"concept": controller}, HELD_OUT, OPTIONS, no_progress)["concept"]
    assert made.certificate is not None
    return made.certificate


@pytest.mark.parametrize("law", ["lqr", "a-lqr"])
@pytest.mark.parametrize("mode", ["one-sided", "hold"])
def test_no_token_of_a_transformer_exceeds_its_own_bound(
    tiny_torch: LoadedModel, controller: Controller, jacobians: Any, law: str, mode: str
) -> None:
    loop = linearize(replace(controller, law=law, mode=mode), jacobians)
    bound, measured = errors_on_text(tiny_torch, loop, TEXT, 1.0)
    acted = np.isfinite(measured)
    assert acted.any()
    assert (measured[acted] <= bound[acted] + 1e-4).all()
    assert (measured[acted] < 0.99 * bound[acted]).any()


def test_linear_prediction_and_residuals_add_up_to_the_error(
    tiny_torch: LoadedModel, controller: Controller, jacobians: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the residuals' signs kept, the bound's decomposition is an identity, transformer or not."""
    signed: list[np.ndarray[Any, Any]] = []

    def keep(response: Any, effort: Any, free_error: Any, residuals: Any) -> ErrorBound:
        loop = np.eye(3) + np.tril(response, -1) * effort[:, None, :]
        solved = np.linalg.solve(loop, (free_error - residuals.sum(axis=-1))[..., None])[..., 0]
        signed.append((1 - effort * np.diag(response)) * solved)
        return ErrorBound(free_error, free_error)

    monkeypatch.setattr(certify, "tracking_error_bound", keep)
    _, measured = errors_on_text(tiny_torch, linearize(replace(controller, mode="hold"), jacobians), TEXT, 1.0)
    found = np.array(signed).reshape(2, len(EFFORTS), *measured.shape[-2:])
    np.testing.assert_allclose(np.abs(found), measured, atol=1e-4)


def test_measured_error_is_the_one_that_the_steered_run_shows(
    tiny_torch: LoadedModel, controller: Controller, jacobians: Any
) -> None:
    hold = replace(controller, mode="hold")
    measured = errors_on_text(tiny_torch, linearize(hold, jacobians), TEXT, 1.0)[1]
    rows = torch.arange(len(TEXT.tokens)) >= TEXT.completion_start - 1
    run = run_steered(tiny_torch, hold, hold.command(1.0), TEXT.tokens, rows)
    assert hold.probe is not None
    for k, block in enumerate(hold.blocks):
        alpha = run.stream[block + 1, rows].numpy() @ hold.probe[k] - hold.offset[k]
        error = np.abs(hold.rest[k] + hold.span[k] - alpha)
        np.testing.assert_allclose(measured[0, -1, :, k], error, atol=1e-4)


def test_at_effort_0_the_bound_is_the_unsteered_error(
    tiny_torch: LoadedModel, controller: Controller, jacobians: Any
) -> None:
    bound, measured = errors_on_text(tiny_torch, linearize(controller, jacobians), TEXT, 1.0)
    np.testing.assert_array_equal(bound[:, 0], measured[:, 0])
    assert np.isnan(bound[:, 0]).any()  # one-sided: where the text is on target already


def test_certificate_covers_no_more_than_the_weaker_side_of_the_dial(
    tiny_torch: LoadedModel, controller: Controller, jacobians: Any
) -> None:
    uneven = replace(controller, negative_scale=controller.scale / 2)
    made = certify.certify(tiny_torch, uneven, jacobians, [TEXT] * 9, CertifyOptions()).certificate
    assert made is not None
    assert made.level == controller.scale / 2
    assert made.covers(uneven.command(-1.0))
    assert not made.covers(uneven.command(1.0))


def test_certificate_says_what_it_covers(certificate: Certificate, controller: Controller) -> None:
    assert (certificate.level, certificate.mode, certificate.risk) == (controller.scale, "one-sided", 0.1)
    assert (certificate.texts, certificate.effort.tolist()) == (9, list(EFFORTS))
    assert certificate.bound.shape == certificate.measured.shape == (2, len(EFFORTS), 3)


def test_bound_is_above_what_was_measured_and_never_grows_with_effort(certificate: Certificate) -> None:
    assert (certificate.bound >= certificate.measured).all()
    assert (np.diff(certificate.bound, axis=1) <= 0).all()


def test_same_arguments_give_the_same_certificate(
    tiny_torch: LoadedModel, controller: Controller, certificate: Certificate, no_progress: Any
) -> None:
    again = certify_controllers(tiny_torch, {"concept": controller}, HELD_OUT, OPTIONS, no_progress)["concept"]
    assert again.certificate is not None
    np.testing.assert_array_equal(again.certificate.bound, certificate.bound)


def test_blocks_are_linearized_at_texts_that_nothing_is_measured_on(tiny_torch: LoadedModel) -> None:
    measured_on, linearized_at = certify.draw_texts(tiny_torch, HELD_OUT, OPTIONS)
    texts = [tuple(text.tokens.tolist()) for text in (*measured_on, *linearized_at)]
    assert (len(measured_on), len(linearized_at), len(set(texts))) == (9, 2, 11)


def test_law_without_a_bound_is_refused(
    tiny_torch: LoadedModel, make_controller: Callable[..., Controller], no_progress: Any
) -> None:
    add = {"static": make_controller(4, 32, law="add", name="static")}
    with pytest.raises(SteeringError, match=r"^static: this law has no bound; expected lqr or a-lqr; found add"):
        certify_controllers(tiny_torch, add, HELD_OUT, OPTIONS, no_progress)


def test_too_few_held_out_texts_are_refused(
    tiny_torch: LoadedModel, controller: Controller, no_progress: Any
) -> None:
    with pytest.raises(ConceptError, match="too few held-out texts; expected 11; found 10"):
        certify_controllers(tiny_torch, {"concept": controller}, HELD_OUT[:10], OPTIONS, no_progress)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"risk": 0.0}, "risk is out of range"),
        ({"risk": 0.1, "texts": 8}, "texts is out of range; expected at least 1 / risk - 1; found 8"),
        ({"strength": float("inf")}, "strength is out of range"),
        ({"jacobian_prompts": 0}, "jacobian_prompts is out of range"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        CertifyOptions(**options)


# What is held out


def concept(name: str, *examples: Example) -> ConceptSet:
    return ConceptSet(name, "yes", "no", examples, (Example("", f"{name}: no"),), sha256=name * 8)


def made_from(controller: Controller, used: ConceptSet) -> dict[str, Controller]:
    return {"it": replace(controller, provenance=Provenance(concept_sha256=used.sha256))}


def test_texts_and_prompts_that_were_used_are_left_out(controller: Controller) -> None:
    used = concept("used", Example("A?", "a"), Example("", "plain"))
    other = concept("other", Example("A?", "b"), Example("B?", "b"), Example("C?", "c"), Example("", "plain"))
    held_out = held_out_examples(made_from(controller, used), [used, other], [Example("B?", "neutral")])
    assert held_out == [Example("C?", "c"), Example("", "other: no")]


def test_nothing_held_out_is_refused(controller: Controller) -> None:
    used = concept("used", Example("A?", "a"))
    with pytest.raises(ConceptError, match="there are no held-out texts"):
        held_out_examples(made_from(controller, used), [used], [])
