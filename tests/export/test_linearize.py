"""The dynamics of small models: factors against exact Jacobians, statistics against activations taken one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch.func import jacfwd

from edgesteer.concept import Example, load_neutral
from edgesteer.dynamics import Dynamics
from edgesteer.errors import SteeringError
from edgesteer.export.activations import residual_stream
from edgesteer.export.jacobians import LinearizationPoints, alone, jacobians_at, mean_jacobians
from edgesteer.export.linearize import LinearizeOptions, factors_at, linearize
from edgesteer.export.pipeline import tokenize_all
from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch

NEUTRAL = load_neutral()[:6]
QUICK = LinearizeOptions(rank=8, covariance_rank=5, jacobian_prompts=3)


@pytest.fixture(scope="module")
def dynamics(tiny_torch: LoadedModel, no_progress: Any) -> Dynamics:
    return linearize(tiny_torch, NEUTRAL, QUICK, no_progress)


def completions(model: LoadedModel, neutral: Sequence[Example]) -> list[np.ndarray[Any, np.dtype[np.float32]]]:
    """Return the residual stream over each completion: (T+1, length, n)."""
    texts = tokenize_all(model, neutral)
    return [residual_stream(model, text.tokens)[:, text.completion_start :].numpy() for text in texts]


def test_full_rank_factors_are_the_mean_jacobians(model: LoadedModel, tokens: torch.Tensor) -> None:
    sequences = [tokens, tokens[:5]]
    expected = mean_jacobians(model, sequences)
    points = LinearizationPoints(model, sequences)
    for number in range(model.n_blocks):
        left, right, energy = factors_at(points, number, LinearizeOptions(rank=model.width))
        np.testing.assert_allclose(np.eye(model.width) + left @ right, expected[number], rtol=1e-5, atol=1e-5)
        assert energy == pytest.approx(1)


def test_low_rank_factors_are_nearly_the_best(model: LoadedModel, tokens: torch.Tensor) -> None:
    points = LinearizationPoints(model, [tokens])
    for number, jacobian in enumerate(jacobians_at(points)):
        change = jacobian - np.eye(model.width)
        left, right, energy = factors_at(points, number, LinearizeOptions(rank=3, passes=2))
        sizes = np.linalg.svd(change, compute_uv=False)
        best = np.sqrt(np.sum(sizes[3:] ** 2))
        assert 0.999 * best <= np.linalg.norm(change - left @ right) <= 1.05 * best
        assert energy == pytest.approx(np.sum(sizes[:3] ** 2) / np.sum(sizes**2), rel=0.4)


@pytest.mark.parametrize("number", [3, 20])
def test_blocks_of_a_real_model_lose_what_the_exact_spectrum_says(smollm2_torch: LoadedModel, number: int) -> None:
    text = tokenize_all(smollm2_torch, NEUTRAL[:1])[0]
    points = LinearizationPoints(smollm2_torch, [text.tokens])
    exact = points.mean("exact", number, lambda run, x: jacfwd(alone(run))(x[0])[None])
    change = exact.numpy() - np.eye(smollm2_torch.width)
    left, right, energy = factors_at(points, number, LinearizeOptions(rank=96))
    sizes = np.linalg.svd(change, compute_uv=False)
    best = np.sqrt(np.sum(sizes[96:] ** 2))
    assert best <= np.linalg.norm(change - left @ right) <= 1.08 * best  # measured: 1.06
    np.testing.assert_allclose(np.sum(right**2, axis=1)[:32], sizes[:32], rtol=0.05)
    assert energy == pytest.approx(np.sum(sizes[:96] ** 2) / np.sum(sizes**2), rel=0.1)


def test_energy_gives_each_block_its_own_rank(tiny_torch: LoadedModel, no_progress: Any) -> None:
    options = LinearizeOptions(rank=32, energy=0.5, covariance_rank=2, jacobian_prompts=1)
    dynamics = linearize(tiny_torch, NEUTRAL[:1], options, no_progress)
    assert all(1 <= rank < 32 for rank in dynamics.ranks)
    assert np.all(dynamics.energy >= 0.5)
    assert len(dynamics.blocks) == tiny_torch.n_blocks
    assert {block.left.shape[1] for block in dynamics.blocks} == set(dynamics.ranks)


def test_mean_and_spread_are_over_the_tokens_of_completions(dynamics: Dynamics, tiny_torch: LoadedModel) -> None:
    tokens = np.concatenate(completions(tiny_torch, NEUTRAL), axis=1)
    np.testing.assert_allclose(dynamics.mean, tokens.mean(axis=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dynamics.spread, tokens.std(axis=1), rtol=1e-4, atol=1e-5)
    assert (dynamics.token_count, dynamics.text_count, dynamics.jacobian_count) == (tokens.shape[1], 6, 3)


def test_positions_have_means_of_their_own(dynamics: Dynamics, tiny_torch: LoadedModel) -> None:
    texts = completions(tiny_torch, NEUTRAL)
    for position in (0, 5):
        expected = np.mean([text[:, position] for text in texts], axis=0)
        np.testing.assert_allclose(dynamics.position_mean[position], expected, rtol=1e-4, atol=1e-5)
    settled = np.concatenate([text[:, 23:] for text in texts], axis=1).mean(axis=1)
    np.testing.assert_allclose(dynamics.position_mean[-1], settled, rtol=1e-4, atol=1e-5)
    assert len(dynamics.position_mean) == 24


def test_prompt_mean_is_over_the_users_words(dynamics: Dynamics, tiny_torch: LoadedModel) -> None:
    texts = tokenize_all(tiny_torch, NEUTRAL)
    words = [residual_stream(tiny_torch, text.tokens)[:, text.words].numpy() for text in texts]
    expected = np.concatenate(words, axis=1).mean(axis=1)
    np.testing.assert_allclose(dynamics.prompt_mean, expected, rtol=1e-4, atol=1e-5)


def test_factors_are_the_main_correlations(dynamics: Dynamics, tiny_torch: LoadedModel) -> None:
    tokens = np.concatenate(completions(tiny_torch, NEUTRAL), axis=1)[2].astype(np.float64)
    values, vectors = np.linalg.eigh(np.corrcoef(tokens.T))
    expected = (vectors[:, -5:] * values[-5:]) @ vectors[:, -5:].T
    np.testing.assert_allclose(dynamics.factors[2].T @ dynamics.factors[2], expected, atol=1e-3)


def test_same_arguments_give_the_same_dynamics_up_to_rounding(
    dynamics: Dynamics, tiny_torch: LoadedModel, no_progress: Any
) -> None:
    again = linearize(tiny_torch, NEUTRAL, QUICK, no_progress)
    for name, value in vars(dynamics).items():
        np.testing.assert_allclose(getattr(again, name), value, rtol=1e-4, atol=1e-4)


def test_progress_counts_every_step(tiny_torch: LoadedModel) -> None:
    class Counting:
        def __init__(self) -> None:
            self.left: dict[str, int] = {}

        def stage(self, name: str, total: int) -> Any:
            self.left[name] = total
            return lambda: self.left.update({name: self.left[name] - 1})

    counting = Counting()
    linearize(tiny_torch, NEUTRAL[:2], QUICK, counting)
    assert counting.left == {"neutral text": 0, "Jacobian factors": 0}


@pytest.mark.parametrize(
    "wrong", [{"rank": 0}, {"energy": 0.0}, {"energy": 1.1}, {"passes": -1}, {"covariance_rank": 0}, {"seed": -1}]
)
def test_option_out_of_range_is_named(wrong: dict[str, Any]) -> None:
    with pytest.raises(SteeringError, match=f"{next(iter(wrong))} is out of range"):
        LinearizeOptions(**wrong)
