"""Each architecture, made small: the exporter's PyTorch model and llama.cpp under one controller, block by block."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgesteer.controller import Command, Controller
from edgesteer.runtime.model import LlamaModel

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch

TEXT = "<|im_start|>user\nIn the morning, the boats went on.<|im_end|>\n<|im_start|>assistant\n"


@pytest.mark.usefixtures("exact_attention")
def test_steered_streams_agree_at_every_boundary(
    architecture: str,
    tiny: ModuleType,
    parity: ModuleType,
    tiny_of: Callable[[str], Any],
    torch_of: Callable[[str], LoadedModel],
    make_controller: Callable[..., Controller],
) -> None:
    """Measured: at most 7e-7, but 4e-4 (gemma3: 9e-4) with GELU, which llama.cpp looks up in a table of F16."""
    theirs, command = torch_of(architecture), Command(0.7, 0.9, "hold")
    controller = make_controller(theirs.n_blocks, theirs.width)
    with LlamaModel(tiny_of(architecture).gguf) as model:
        tokens = model.tokenize(TEXT)
        rows = [True] * len(tokens)
        captured = parity.Captured(model, controller, command, tokens, rows)
    run = parity.in_pytorch(theirs, controller, command, tokens, rows)
    assert len(tokens) > 2 * tiny.WINDOW
    assert run.control.abs().max() > 0.1
    assert (parity.relative_errors(run, captured) < 1e-3).all()
    wrong = np.linalg.norm(captured.logits - run.logits.numpy())
    assert wrong < 2e-3 * np.linalg.norm(captured.logits)


def test_folder_and_gguf_are_one_model(
    architecture: str, tiny_of: Callable[[str], Any], torch_of: Callable[[str], LoadedModel]
) -> None:
    """A sidecar that was exported from the one belongs to the other."""
    with LlamaModel(tiny_of(architecture).gguf) as model:
        assert torch_of(architecture).fingerprint.mismatch(model.fingerprint) == []
