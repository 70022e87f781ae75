"""Jacobians by the chain rule at the inputs of linear layers, against forward differentiation of the whole block."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.func import jacfwd

from edgesteer.export.block_jacobian import block_jacobian, find_anchors
from edgesteer.export.jacobians import one_token_blocks
from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch

WIDTH = 6


class Block(nn.Module):
    """A block without attention: `wide` layers of 2 * WIDTH read the norm of the stream and are multiplied."""

    def __init__(self, wide: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.wide = nn.ModuleList(nn.Linear(WIDTH, 2 * WIDTH) for _ in range(wide))
        self.down = nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(torch.sin(x))
        normed = self.norm(x)
        product = torch.tanh(torch.stack([layer(normed) for layer in self.wide]).prod(dim=0))
        return x + self.down(product)


def check(block: nn.Module, x: torch.Tensor, inputs: int) -> None:
    run: Any = block.double().requires_grad_(False)
    assert len(find_anchors(block, run, x)) == inputs
    torch.testing.assert_close(block_jacobian(block, run, x), jacfwd(run)(x), rtol=1e-12, atol=1e-12)
    assert not any("forward" in vars(module) for module in block.modules())


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("wide", [1, 2, 3])
def test_layers_that_widen_the_stream_are_cut_at_their_input(wide: int, x: torch.Tensor) -> None:
    check(Block(wide), x, inputs=1)


def test_blocks_in_a_row_are_cut_at_each_input(x: torch.Tensor) -> None:
    check(nn.Sequential(Block(2), Block(1)), x, inputs=2)


def test_a_layer_that_runs_twice_is_not_cut(x: torch.Tensor) -> None:
    class Twice(Block):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(super().forward(x))

    check(Twice(), x, inputs=0)


def test_a_block_with_matrices_of_its_own_is_not_cut(x: torch.Tensor) -> None:
    class Own(Block):
        def __init__(self) -> None:
            super().__init__()
            self.own = nn.Parameter(torch.randn(WIDTH, WIDTH))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x @ self.own)

    check(Own(), x, inputs=0)


def test_layers_run_as_before_after_an_error(x: torch.Tensor) -> None:
    block: Any = Block().double()
    with pytest.raises(RuntimeError):
        find_anchors(block, block, x[:-1])
    assert not any("forward" in vars(module) for module in block.modules())


def test_attention_and_feed_forward_are_cut(
    model: LoadedModel, tokens: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "float32", torch.float64)  # transformers rounds to it in norms and softmax
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    for block, run, x in zip(model.blocks, *one_token_blocks(model, tokens), strict=True):
        assert [len(anchor.outputs) for anchor in find_anchors(block, run, x)] == [3, 2]
        torch.testing.assert_close(block_jacobian(block, run, x), jacfwd(run)(x), rtol=1e-10, atol=1e-10)
