"""One-token Jacobians in float64: against finite differences and against differentiating the whole sequence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.func import jacfwd

from edgesteer.control.bound import sensitivities
from edgesteer.export.activations import residual_stream
from edgesteer.export.block_jacobian import BlockFunction
from edgesteer.export.jacobians import LinearizationPoints, alone, mean_jacobians, one_token_blocks, sensitivities_at
from edgesteer.export.weights import LoadedModel
from edgesteer.export.workers import Workers

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def no_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers rounds to float32 inside norms and softmax, which would drown a difference quotient."""
    monkeypatch.setattr(torch, "float32", torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)


def last_token_jacobians(model: LoadedModel, tokens: torch.Tensor) -> torch.Tensor:
    """(T, width, width) of one sequence, not rounded to float32 as the mean is."""
    points = LinearizationPoints(model, [tokens])

    def part(run: BlockFunction, x: torch.Tensor) -> torch.Tensor:
        return jacfwd(alone(run))(x[0])[None]

    return torch.stack([points.mean("jacobian", number, part) for number in range(model.n_blocks)])


def through_the_whole_model(model: LoadedModel, tokens: torch.Tensor, block: int, x: torch.Tensor) -> torch.Tensor:
    """Run the whole sequence with x in the last token's place at the block's input; return the block's output there."""
    outputs: list[torch.Tensor] = []

    def put(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (torch.cat((args[0][:, :-1], x[None, None]), dim=1), *args[1:])

    handles = [
        model.blocks[block].register_forward_pre_hook(put),
        model.blocks[block].register_forward_hook(lambda _module, _args, output: outputs.append(output[0, -1])),
    ]
    model.network(input_ids=tokens[None], use_cache=False)
    for handle in handles:
        handle.remove()
    return outputs[0]


def test_block_functions_reproduce_the_forward_pass(model: LoadedModel, tokens: torch.Tensor) -> None:
    stream = residual_stream(model, tokens)
    functions, inputs = one_token_blocks(model, tokens)
    torch.testing.assert_close(inputs, stream[:-1, -1], rtol=1e-12, atol=1e-12)
    for block, run in enumerate(functions):
        torch.testing.assert_close(run(inputs[block]), stream[block + 1, -1], rtol=1e-10, atol=1e-10)


def test_jacobians_agree_with_finite_differences(model: LoadedModel, tokens: torch.Tensor) -> None:
    functions, inputs = one_token_blocks(model, tokens)
    jacobians = last_token_jacobians(model, tokens)
    steps = 1e-6 * torch.eye(model.width, dtype=torch.float64)
    for run, x, jacobian in zip(functions, inputs, jacobians, strict=True):
        columns = [(run(x + step) - run(x - step)) / 2e-6 for step in steps]
        torch.testing.assert_close(jacobian, torch.stack(columns, dim=1), rtol=1e-6, atol=1e-7)


def test_one_token_equals_differentiating_the_whole_sequence(model: LoadedModel, tokens: torch.Tensor) -> None:
    stream = residual_stream(model, tokens)
    jacobians = last_token_jacobians(model, tokens)
    for block in range(model.n_blocks):
        whole = torch.autograd.functional.jacobian(
            lambda x, block=block: through_the_whole_model(model, tokens, block, x), stream[block, -1]
        )
        torch.testing.assert_close(jacobians[block], whole, rtol=1e-9, atol=1e-10)


def test_jacobians_depend_on_the_tokens_before(model: LoadedModel, tokens: torch.Tensor) -> None:
    """Otherwise nothing above would show that keys and values of the past take part."""
    alone = last_token_jacobians(model, tokens[-1:])
    assert (last_token_jacobians(model, tokens) - alone).abs().max() > 1e-3


def test_single_token_has_jacobians(model: LoadedModel) -> None:
    assert last_token_jacobians(model, torch.tensor([3])).isfinite().all()


def test_mean_is_the_average_over_the_sequences(model: LoadedModel, tokens: torch.Tensor) -> None:
    sequences = [tokens, tokens[:5], tokens[3:]]
    expected = sum(last_token_jacobians(model, each) for each in sequences) / 3
    mean = mean_jacobians(model, sequences)
    assert mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-5, atol=1e-6)


def test_progress_counts_the_sequences_at_each_block(model: LoadedModel, tokens: torch.Tensor) -> None:
    steps: list[int] = []
    mean_jacobians(model, [tokens, tokens], lambda: steps.append(1))
    assert len(steps) == 2 * model.n_blocks


def test_mean_of_no_sequences_is_refused(model: LoadedModel) -> None:
    with pytest.raises(ValueError, match="at least one prompt"):
        mean_jacobians(model, [])


def test_a_process_without_a_prompt_has_no_points(model: LoadedModel, tokens: torch.Tensor) -> None:
    points = LinearizationPoints(model, [tokens], Workers(rank=1, size=2))
    assert points.inputs([], 0).shape == (0, model.width)


def test_model_is_left_as_it_was(model: LoadedModel, tokens: torch.Tensor) -> None:
    last_token_jacobians(model, tokens)
    assert not any("forward" in vars(block) for block in model.blocks)


# ---- vector-Jacobian products ----


def some_probes(model: LoadedModel) -> NDArray[np.float64]:
    return np.random.default_rng(0).normal(size=(model.n_blocks + 1, model.width))


def test_products_are_those_with_the_mean_jacobians(model: LoadedModel, tokens: torch.Tensor) -> None:
    sequences, probes = [tokens, tokens[:5]], some_probes(model)
    rows = sensitivities_at(LinearizationPoints(model, sequences), probes)
    jacobians = sum(last_token_jacobians(model, each) for each in sequences) / 2
    expected = sensitivities(jacobians.numpy(), probes, range(model.n_blocks + 1))
    np.testing.assert_allclose(rows, expected, rtol=1e-9, atol=1e-10)


def test_progress_counts_the_products_of_each_block(model: LoadedModel, tokens: torch.Tensor) -> None:
    steps: list[int] = []
    points = LinearizationPoints(model, [tokens, tokens])
    sensitivities_at(points, some_probes(model), lambda: steps.append(1))
    assert len(steps) == 2 * model.n_blocks
