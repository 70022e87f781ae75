"""The PyTorch-hooked model against llama.cpp with the native hook: one controller, the same residual stream.

This is what makes a controller that was exported from one an exact law on the other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edgesteer.chat import conversation
from edgesteer.concept import Example, builtin_concepts, load_concept, load_neutral
from edgesteer.controller import LAWS, Command, Controller
from edgesteer.runtime.model import LlamaModel
from edgesteer.sidecar import read_sidecar

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel

pytestmark = pytest.mark.torch

TEXT = "<|im_start|>user\nIn the morning, the boats went on.<|im_end|>\n<|im_start|>assistant\n"


# ---- the tiny model in F32 ----


@pytest.mark.usefixtures("exact_attention")
@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("mode", ["hold", "floor", "ceiling"])
@pytest.mark.parametrize("only_last", [True, False], ids=["last", "all"])
def test_steered_streams_agree_at_every_boundary(
    parity: ModuleType,
    tiny_torch: LoadedModel,
    tiny_llama: LlamaModel,
    make_controller: Callable[..., Controller],
    law: str,
    mode: str,
    only_last: bool,
) -> None:
    tokens = tiny_llama.tokenize(TEXT)
    rows = [not only_last or row == len(tokens) - 1 for row in range(len(tokens))]
    controller = make_controller(4, 32, law=law)
    command = Command(-0.7 if mode == "ceiling" else 0.7, 0.9, mode)
    ours = parity.in_pytorch(tiny_torch, controller, command, tokens, rows)
    theirs = parity.Captured(tiny_llama, controller, command, tokens, rows)
    assert (parity.relative_errors(ours, theirs) < 1e-5).all()
    np.testing.assert_allclose(theirs.logits, ours.logits, rtol=1e-3, atol=1e-4)
    assert ours.control.abs().max() > 0.1
    steered = np.array(rows)
    np.testing.assert_allclose(theirs.before[:4, steered], ours.before[:, steered], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(theirs.control[:4, steered], ours.control[:, steered], rtol=1e-3, atol=1e-4)


@pytest.mark.usefixtures("exact_attention")
def test_sensor_reads_the_same(
    parity: ModuleType, tiny_torch: LoadedModel, tiny_llama: LlamaModel, make_controller: Callable[..., Controller]
) -> None:
    tokens = tiny_llama.tokenize(TEXT)
    rows = [True] * len(tokens)
    controller = make_controller(4, 32)
    ours = parity.in_pytorch(tiny_torch, controller, Command(0.7, 0.9, "hold"), tokens, rows)
    theirs = parity.Captured(tiny_llama, controller, Command(0.7, 0.9, "hold"), tokens, rows)
    np.testing.assert_allclose(theirs.before[4], ours.sensor, rtol=1e-3, atol=1e-4)


def test_rounding_of_keys_and_values_stays_small(
    parity: ModuleType, tiny_torch: LoadedModel, tiny_llama: LlamaModel, make_controller: Callable[..., Controller]
) -> None:
    """With llama.cpp's default F16 cache. Measured: up to 1.1e-3, the same with and without steering."""
    tokens = tiny_llama.tokenize(TEXT)
    rows = [True] * len(tokens)
    controller = make_controller(4, 32)
    command = Command(0.7, 0.9, "hold")
    ours = parity.in_pytorch(tiny_torch, controller, command, tokens, rows)
    theirs = parity.Captured(tiny_llama, controller, command, tokens, rows)
    assert (parity.relative_errors(ours, theirs) < 3e-3).all()


# ---- SmolLM2, quantized ----


@pytest.mark.llama
@pytest.mark.slow
@pytest.mark.parametrize("law", ["lqr", "add"])
def test_quantized_model_stays_close_and_steering_brings_it_no_further(
    parity: ModuleType, smollm2_torch: LoadedModel, smollm2_llama: LlamaModel, smollm2_sidecar: Path, law: str
) -> None:
    """Q4_1: llama.cpp also rounds activations to 8 bits in its products; PyTorch on the dequantized weights does not.

    Measured: 0 at the embedding, 1.2 % after block 0, rising to 3.0 % before and 4.0 % after the last block; under
    steering (feedback or a static vector, up or down) the same, at most 4.1 %.
    """
    (controller,) = read_sidecar(smollm2_sidecar).controllers.values()
    if law == "add":
        zero = np.zeros_like(controller.offset)
        controller = replace(controller, law="add", probe=None, offset=zero, rest=zero, span=zero + 1, scale=1.0)
    tokens = smollm2_llama.tokenize(smollm2_llama.chat.render(conversation("What should I do this weekend?")))
    tokens += smollm2_llama.tokenize("You could walk to the market and cook something new.", add_special=False)
    rows = [True] * len(tokens)
    errors = {}
    for strength in (0.0, 1.0, -1.0):
        command = controller.command(strength, "hold")
        ours = parity.in_pytorch(smollm2_torch, controller, command, tokens, rows)
        theirs = parity.Captured(smollm2_llama, controller, command, tokens, rows)
        errors[strength] = parity.relative_errors(ours, theirs)
        assert (ours.control.abs().mean() > 0.1) == (strength != 0)
    assert errors[0.0][0] == 0.0
    assert (errors[0.0] < 0.06).all()
    for strength in (1.0, -1.0):
        assert (errors[strength] < 1.5 * errors[0.0] + 1e-6).all()


# ---- tokens ----


def all_texts() -> list[Example]:
    concepts = [load_concept(path) for path in builtin_concepts().values()]
    poles = [examples for c in concepts for examples in (c.positive_examples, c.negative_examples)]
    return [example for examples in (*poles, load_neutral()) for example in examples]


def mismatches(theirs: LoadedModel, ours: LlamaModel) -> list[Example]:
    """Return the built-in texts that the exporter and llama.cpp turn into different tokens."""
    found = []
    for example in all_texts():
        in_chat = example.prompt and ours.chat.source is not None
        turn = "".join(ours.chat.render_turn(example.prompt, example.system)) if in_chat else example.prompt
        answer = example.completion if in_chat or not example.prompt else f" {example.completion}"
        if ours.tokenize(turn) + ours.tokenize(answer, add_special=False) != theirs.tokenize(example).tokens.tolist():
            found.append(example)
    return found


def test_tiny_models_tokens_agree(tiny_torch: LoadedModel, tiny_llama: LlamaModel) -> None:
    assert tiny_torch.chat == tiny_llama.chat
    assert mismatches(tiny_torch, tiny_llama) == []


@pytest.mark.llama
@pytest.mark.slow
def test_smollm2s_tokens_agree(smollm2_torch: LoadedModel, smollm2_llama: LlamaModel) -> None:
    assert smollm2_torch.chat == smollm2_llama.chat
    assert mismatches(smollm2_torch, smollm2_llama) == []


@pytest.mark.llama
@pytest.mark.slow
def test_gemma3s_tokens_agree(gemma3: Path, gemma3_llama: LlamaModel) -> None:
    """Its weights are not needed here. transformers takes 10 s to derive the merges of its vocabulary."""
    from torch import nn
    from transformers import AutoTokenizer

    from edgesteer.export.weights import LoadedModel, chat_template

    tokenizer = AutoTokenizer.from_pretrained(str(gemma3.parent), gguf_file=gemma3.name)
    theirs = LoadedModel(None, tokenizer, nn.ModuleList(), chat_template(tokenizer), gemma3_llama.fingerprint)
    assert theirs.chat == gemma3_llama.chat
    assert theirs.chat.adds_bos
    assert mismatches(theirs, gemma3_llama) == []


@pytest.mark.llama
@pytest.mark.slow
def test_fingerprints_agree(smollm2_torch: LoadedModel, smollm2_llama: LlamaModel) -> None:
    assert smollm2_torch.fingerprint.mismatch(smollm2_llama.fingerprint) == []


def test_tiny_fingerprints_agree(tiny_torch: LoadedModel, tiny_llama: LlamaModel) -> None:
    assert tiny_torch.fingerprint.mismatch(tiny_llama.fingerprint) == []
