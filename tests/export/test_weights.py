"""Loading: a GGUF and a Hugging Face folder of one model come out the same, and what cannot be loaded says why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from edgesteer.concept import Example
from edgesteer.errors import ModelError
from edgesteer.export.weights import LoadedModel, load_model

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def from_gguf(tiny_model: Any) -> LoadedModel:
    return load_model(tiny_model.gguf)


def test_gguf_has_the_weights_of_the_folder(tiny_torch: LoadedModel, from_gguf: LoadedModel) -> None:
    ours, theirs = from_gguf.network.state_dict(), tiny_torch.network.state_dict()
    assert ours.keys() == theirs.keys()
    for name, weight in theirs.items():
        assert torch.equal(ours[name], weight), name


def test_gguf_gives_the_logits_of_the_folder(tiny_torch: LoadedModel, from_gguf: LoadedModel) -> None:
    tokens = torch.arange(30, 50)[None]
    ours, theirs = (m.network(input_ids=tokens).logits for m in (from_gguf, tiny_torch))
    torch.testing.assert_close(ours, theirs)


def test_gguf_and_folder_have_one_fingerprint(tiny_torch: LoadedModel, from_gguf: LoadedModel) -> None:
    assert from_gguf.fingerprint.mismatch(tiny_torch.fingerprint) == []
    assert (from_gguf.fingerprint.architecture, from_gguf.n_blocks, from_gguf.width) == ("llama", 4, 32)


def test_fingerprint_of_a_folder_covers_its_weights(tiny_model: Any, tiny_torch: LoadedModel, tmp_path: Path) -> None:
    changed = shutil.copytree(tiny_model.folder, tmp_path / "changed")
    weights = changed / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert load_model(changed).fingerprint.model_sha256 != tiny_torch.fingerprint.model_sha256


def test_gguf_and_folder_have_one_chat_template(tiny_torch: LoadedModel, from_gguf: LoadedModel) -> None:
    assert from_gguf.chat == tiny_torch.chat


def test_weights_are_frozen(tiny_torch: LoadedModel) -> None:
    assert not any(weight.requires_grad for weight in tiny_torch.network.parameters())
    assert not tiny_torch.network.training


def spelled(model: LoadedModel, tokens: torch.Tensor) -> str:
    text: str = model.tokenizer.decode(tokens)
    return text


def test_chat_turn_is_rendered_and_its_parts_are_found(tiny_torch: LoadedModel) -> None:
    text = tiny_torch.tokenize(Example("What is rain?", "Water.", system="Be brief."))
    assert spelled(tiny_torch, text.tokens) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is rain?<|im_end|>\n"
        "<|im_start|>assistant\nWater."
    )
    assert spelled(tiny_torch, text.tokens[text.completion_start :]) == "Water."
    assert spelled(tiny_torch, text.tokens[text.words]) == "What is rain?"


def test_users_words_are_found_even_when_the_template_has_them_too(tiny_torch: LoadedModel) -> None:
    text = tiny_torch.tokenize(Example("assistant", "Yes?"))
    assert spelled(tiny_torch, text.tokens[text.words]) == "assistant"
    assert spelled(tiny_torch, text.tokens[text.words.stop :]).startswith("<|im_end|>")


def test_special_tokens_of_the_template_are_single_tokens(tiny_torch: LoadedModel) -> None:
    tokens = tiny_torch.tokenize(Example("Why?", "So.")).tokens
    assert tokens[0] == tiny_torch.tokenizer.bos_token_id
    assert (tokens == tiny_torch.tokenizer.eos_token_id).sum() == 1


def test_empty_prompt_gives_plain_text_whose_first_token_does_not_count(tiny_torch: LoadedModel) -> None:
    text = tiny_torch.tokenize(Example("", "The sea."))
    assert spelled(tiny_torch, text.tokens) == "The sea."
    assert text.completion_start == 1
    assert len(text.tokens[text.words]) == 0


def test_model_without_a_template_gets_the_prompt_as_text(tiny_model: Any, tmp_path: Path) -> None:
    bare = shutil.copytree(tiny_model.folder, tmp_path / "bare")
    (bare / "chat_template.jinja").unlink()
    model = load_model(bare)
    text = model.tokenize(Example("Once upon", "a time"))
    assert spelled(model, text.tokens) == "Once upon a time"
    assert spelled(model, text.tokens[text.completion_start :]) == " a time"
    assert spelled(model, text.tokens[text.words]) == "Once upon"


def test_bos_token_is_put_first_where_the_model_wants_one(tiny_model: Any, tmp_path: Path) -> None:
    """As Gemma's tokenizer does; a BOS that the template prints as well must not make two."""
    wanting = shutil.copytree(tiny_model.folder, tmp_path / "wanting")
    file = wanting / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    bos = {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}
    tokenizer["post_processor"] = {
        "type": "TemplateProcessing", "single": [bos, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}},
    }  # fmt: skip
    file.write_text(json.dumps(tokenizer), "utf-8")
    model = load_model(wanting)
    assert model.chat.adds_bos
    assert model.tokenize(Example("", "the sea")).tokens.tolist()[0] == 1
    assert model.tokenize(Example("Why?", "So.")).tokens.tolist()[:2] != [1, 1]
    assert model.tokenize(Example("Why?", "So.")).tokens.tolist()[0] == 1


@pytest.mark.parametrize("content", [None, {}, {"model_type": "no-such-model"}])
def test_folder_that_is_no_model_is_refused(tmp_path: Path, content: dict[str, str] | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match=r"transformers cannot load this model") as caught:
        load_model(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 3_000, 60_000])
def test_truncated_gguf_is_refused(tiny_model: Any, tmp_path: Path, kept: int) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(tiny_model.gguf.read_bytes()[:kept])
    with pytest.raises(ModelError, match=r"truncated|not a GGUF"):
        load_model(damaged)


def test_folder_with_truncated_weights_is_refused(tiny_model: Any, tmp_path: Path) -> None:
    damaged = shutil.copytree(tiny_model.folder, tmp_path / "damaged")
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="cannot load this model"):
        load_model(damaged)
