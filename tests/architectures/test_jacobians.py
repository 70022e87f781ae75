"""One-token Jacobians of every architecture, against differentiating the whole sequence."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import torch

    from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch

LENGTH = 12


def whole_sequence_products(
    model: LoadedModel, tokens: torch.Tensor, block: int, cotangents: torch.Tensor
) -> torch.Tensor:
    """Return cotangents' A of a block's last token by autograd through the network; cotangents: (k, width)."""
    import torch

    seen: dict[str, torch.Tensor] = {}

    def take_input(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        seen["x"] = args[0][0, -1].detach().requires_grad_()
        return (torch.cat((args[0][:, :-1], seen["x"][None, None]), dim=1), *args[1:])

    def take_output(_module: Any, _args: Any, output: Any) -> None:
        seen["y"] = (output[0] if isinstance(output, tuple) else output)[0, -1]

    module = model.blocks[block]
    handles = [module.register_forward_pre_hook(take_input), module.register_forward_hook(take_output)]
    model.network(input_ids=tokens[None], use_cache=False)
    for handle in handles:
        handle.remove()
    rows = [torch.autograd.grad(seen["y"], seen["x"], c, retain_graph=True)[0] for c in cotangents]
    return torch.stack(rows)


def test_one_token_equals_differentiating_the_whole_sequence(
    architecture: str, torch_of: Callable[[str], LoadedModel]
) -> None:
    """The text is longer than the sliding window."""
    import torch

    from edgesteer.export.jacobians import mean_jacobians

    model = torch_of(architecture)
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(3, 260, (LENGTH,), generator=generator)
    cotangents = torch.randn(3, model.width, generator=generator)
    jacobians = torch.from_numpy(mean_jacobians(model, [tokens]))
    for block in range(model.n_blocks):
        expected = whole_sequence_products(model, tokens, block, cotangents)
        torch.testing.assert_close(cotangents @ jacobians[block], expected, rtol=1e-4, atol=1e-4)


def test_products_are_those_with_the_jacobians(architecture: str, torch_of: Callable[[str], LoadedModel]) -> None:
    """Prompts of different lengths, one of them longer than the sliding window, share the products."""
    import numpy as np
    import torch

    from edgesteer.control.bound import sensitivities
    from edgesteer.export.jacobians import LinearizationPoints, mean_jacobians, sensitivities_at

    model = torch_of(architecture)
    tokens = torch.randint(3, 260, (LENGTH,), generator=torch.Generator().manual_seed(1))
    sequences = [tokens, tokens[:5], tokens[2:], tokens[:1]]
    probes = np.random.default_rng(0).normal(size=(model.n_blocks + 1, model.width))
    rows = sensitivities_at(LinearizationPoints(model, sequences), probes)
    expected = sensitivities(mean_jacobians(model, sequences), probes, range(model.n_blocks + 1))
    np.testing.assert_allclose(rows, expected, rtol=1e-4, atol=1e-4)
