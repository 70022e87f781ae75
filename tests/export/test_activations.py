"""The residual stream at its boundaries, and its summing up into one activation per text."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from edgesteer.control.activations import Activations
from edgesteer.export.activations import collect_activations, residual_stream
from edgesteer.export.sweep import Sweep, batches_of
from edgesteer.export.weights import LoadedModel, TokenizedText

pytestmark = pytest.mark.torch


@pytest.fixture
def three_texts() -> Activations:
    """Texts of 2, 1 and 3 tokens; one boundary of width 2."""
    values = np.array([[1, 10], [3, 30], [5, 50], [0, 0], [6, 60], [9, 90]], dtype=np.float32)
    return Activations.of(values[:, None], np.array([0, 0, 1, 2, 2, 2]), np.array([4, 5, 7, 2, 3, 4]))


def test_mean_pooling_by_hand(three_texts: Activations) -> None:
    np.testing.assert_array_equal(three_texts.pooled("mean")[:, 0], [[2, 20], [5, 50], [5, 50]])


def test_last_pooling_by_hand(three_texts: Activations) -> None:
    np.testing.assert_array_equal(three_texts.pooled("last")[:, 0], [[3, 30], [5, 50], [9, 90]])


def test_selection_keeps_whole_texts_and_numbers_them_anew(three_texts: Activations) -> None:
    kept = three_texts.select(np.array([True, False, True]))
    np.testing.assert_array_equal(kept.tokens[:, 0, 0], [1, 3, 0, 6, 9])
    np.testing.assert_array_equal(kept.text, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(kept.position, [4, 5, 2, 3, 4])


def test_first_boundary_is_what_the_first_block_takes_in(model: LoadedModel, tokens: torch.Tensor) -> None:
    embedded = model.network.get_input_embeddings()(tokens)  # Gemma's module scales it
    torch.testing.assert_close(residual_stream(model, tokens)[0], embedded)


def test_last_boundary_gives_the_logits(model: LoadedModel, tokens: torch.Tensor) -> None:
    network = model.network
    last = network.lm_head(network.model.norm(residual_stream(model, tokens)[-1]))
    torch.testing.assert_close(last, network(input_ids=tokens[None]).logits[0])


def test_sequences_of_different_lengths_share_a_sweep(model: LoadedModel, tokens: torch.Tensor) -> None:
    sequences = [tokens, tokens[:5], tokens[3:4], tokens.flip(0)]
    sweep = Sweep(model, sequences)
    for boundary in range(1, model.n_blocks + 1):
        sweep.advance()
        for index, sequence in enumerate(sequences):
            torch.testing.assert_close(sweep[index], residual_stream(model, sequence)[boundary])


@pytest.mark.parametrize(
    ("lengths", "batches"),
    [
        ([], []),
        ([4], [[0]]),
        ([4, 2, 4, 2], [[1, 3], [0, 2]]),
        ([4, 4, 4, 4], [[0, 1, 2], [3]]),  # 12 tokens at once
        ([20, 20], [[0], [1]]),
    ],
)
def test_batches_are_of_one_length_and_not_too_long(
    lengths: list[int], batches: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesteer.export.sweep.TOKENS_AT_ONCE", 12)
    assert batches_of(lengths) == batches


def test_what_is_set_takes_the_place_of_the_stream(model: LoadedModel, tokens: torch.Tensor) -> None:
    other = residual_stream(model, tokens.flip(0))
    sweep = Sweep(model, [tokens])
    sweep.advance()
    sweep[0] = other[1]
    while sweep.boundary < model.n_blocks:
        sweep.advance()
    torch.testing.assert_close(next(sweep.logits()), model.network(input_ids=tokens.flip(0)[None]).logits[0])


def test_network_is_left_as_it_was_after_an_error(model: LoadedModel, tokens: torch.Tensor) -> None:
    with pytest.raises(IndexError):
        Sweep(model, [tokens + 1000])
    assert not any("forward" in vars(block) for block in model.blocks)


def test_collection_keeps_the_completions_only(model: LoadedModel, tokens: torch.Tensor) -> None:
    texts = [TokenizedText(tokens, completion_start=9), TokenizedText(tokens[:4], completion_start=3)]
    steps: list[int] = []
    collected = collect_activations(model, texts, lambda: steps.append(1))
    np.testing.assert_array_equal(collected.text, [0, 0, 0, 1])
    np.testing.assert_array_equal(collected.position, [9, 10, 11, 3])
    np.testing.assert_array_equal(collected.tokens[:3], residual_stream(model, tokens)[:, 9:].transpose(0, 1))
    np.testing.assert_array_equal(collected.tokens[3], residual_stream(model, tokens[:4])[:, 3])
    assert len(steps) == 2 * model.n_blocks


def test_collection_can_keep_other_rows(model: LoadedModel, tokens: torch.Tensor) -> None:
    collected = collect_activations(
        model, [TokenizedText(tokens, 9)], rows=lambda text: slice(2, text.completion_start)
    )
    np.testing.assert_array_equal(collected.position, range(2, 9))


def test_where_keeps_single_tokens(three_texts: Activations) -> None:
    kept = three_texts.where(three_texts.position >= 4)
    np.testing.assert_array_equal(kept.tokens[:, 0, 0], [1, 3, 5, 9])
    np.testing.assert_array_equal(kept.text, [0, 0, 1, 2])
