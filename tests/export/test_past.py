"""What one token's attention sees of the others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import softmax

from edgesteer.errors import ModelError
from edgesteer.export.past import ATTENTION_NAME, KeyValueTape, SeparatePast, make_past
from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_attention_is_that_over_past_and_own_token() -> None:
    """Two tokens, four query heads on two heads, in NumPy one by one."""
    past = SeparatePast(randn(2, 2, 5, 8), randn(2, 2, 5, 8) * 2, None)
    query, keys, values, mask = randn(2, 4, 1, 8), randn(2, 2, 1, 8), randn(2, 2, 1, 8) + 1, randn(2, 1, 1, 6)
    made, _ = past.attention(torch.nn.Identity(), query, keys, values, mask, scaling=0.7, softcap=2.0)
    assert made.shape == (2, 1, 4, 8)
    for token in range(2):
        for head in range(4):
            all_keys = np.concatenate([past.keys[token, head // 2], keys[token, head // 2]])
            all_values = np.concatenate([past.values[token, head // 2], values[token, head // 2]])
            scores = 2 * np.tanh(0.7 * all_keys @ query[token, head, 0].numpy() / 2) + mask[token, 0, 0].numpy()
            np.testing.assert_allclose(made[token, 0, head], softmax(scores) @ all_values, rtol=1e-5, atol=1e-6)


def test_attention_sinks_are_refused() -> None:
    past = SeparatePast(randn(1, 2, 5, 8), randn(1, 2, 5, 8), None)
    own = randn(1, 2, 1, 8)
    with pytest.raises(ModelError, match="Identity has attention sinks"):
        past.attention(torch.nn.Identity(), own, own, own, None, s_aux=randn(2))


def test_the_network_attends_as_before_afterwards(model: LoadedModel) -> None:
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    past = make_past(model.network, [(randn(2, 3, 4), randn(2, 3, 4))])
    with past.attended():
        assert model.network.config._attn_implementation == ATTENTION_NAME
    assert model.network.config._attn_implementation == "eager"
    assert ATTENTION_NAME not in ALL_ATTENTION_FUNCTIONS


def test_shorter_pasts_are_filled_up_at_the_front(model: LoadedModel) -> None:
    long, short = (randn(2, 5, 4), randn(2, 5, 4) + 1), (randn(2, 3, 4), randn(2, 3, 4) + 1)
    past = make_past(model.network, [long, short])
    for kept, of_long, of_short in zip((past.keys, past.values), long, short, strict=True):
        torch.testing.assert_close(kept[0], of_long)
        torch.testing.assert_close(kept[1, :, 2:], of_short)
        assert not kept[1, :, :2].any()


@pytest.mark.parametrize("on_disk", [False, True])
def test_tape_reads_back_what_it_was_told(on_disk: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    tape = KeyValueTape(10, on_disk)
    parts = [(randn(2, 3, 4, 5), randn(2, 3, 4, 6)), (randn(1, 3, 2, 5), randn(1, 3, 2, 6))]
    for keys, values in parts:
        assert tape.update(keys, values, 0) == (keys, values)
    tape.release()
    for rows, (batch, index) in zip((slice(0, 4), slice(4, 8), slice(8, 10)), ((0, 0), (0, 1), (1, 0)), strict=True):
        for read, told in zip(tape.read(rows), parts[batch], strict=True):
            torch.testing.assert_close(read, told[index])
