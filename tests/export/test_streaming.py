"""Streaming: one part of the network in memory at a time gives what the whole model gives, bit for bit in float32."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType

from edgesteer import scratch
from edgesteer.concept import ConceptSet, Example
from edgesteer.controller import Command, Controller
from edgesteer.errors import EdgeSteerError, ModelError, SteeringError
from edgesteer.export import weights
from edgesteer.export.activations import collect_activations, residual_stream
from edgesteer.export.jacobians import mean_jacobians
from edgesteer.export.pipeline import ExportOptions, export_controller
from edgesteer.export.simulate import run_steered
from edgesteer.export.streaming import INDEX
from edgesteer.export.weights import LoadedModel, LoadOptions, TokenizedText, load_model
from edgesteer.sidecar import Sidecar, write_sidecar

pytestmark = pytest.mark.torch

STREAM = LoadOptions(stream="always", device="cpu")
TOKENS = torch.arange(30, 50)
KINDS = ("F32", "split", "Q8_0", "experts", "folder", "shards", "bfloat16", "gemma3")


@pytest.fixture(scope="module")
def sources(
    tiny: ModuleType, tiny_model: Any, tiny_torch: LoadedModel, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Models by the kind of their files; the last has a tied, scaled embedding and windows."""
    folder = tmp_path_factory.mktemp("sources")
    return {
        "F32": tiny_model.gguf,
        "split": split(tiny, tiny_torch.network, folder / "split.gguf"),
        "Q8_0": quantized(tiny_model.gguf, folder / "q8_0.gguf"),
        "experts": tiny.make_model("qwen3moe", folder / "experts").gguf,
        "folder": tiny_model.folder,
        "shards": saved(tiny_model, folder / "shards", tiny_torch.network, max_shard_size="20KB"),
        "bfloat16": saved(tiny_model, folder / "half", half_of(tiny_model)),
        "gemma3": saved(tiny_model, folder / "gemma3", tied_network(tiny_torch.network.config.vocab_size)),
    }


def split(tiny: ModuleType, network: Any, path: Path) -> Path:
    """Write a GGUF in several files and return the first."""
    tiny.write_gguf(path, network, tiny.ARCHITECTURES["llama"], split_max_tensors=15)
    return min(path.parent.glob(f"{path.stem}-*.gguf"))


def quantized(model: Path, output: Path) -> Path:
    from edgesteer.runtime.quantize import quantize

    quantize(model, output, "Q8_0", threads=1)
    return output


def saved(tiny_model: Any, folder: Path, network: Any, **options: Any) -> Path:
    """Save a network beside the tiny model's tokenizer."""
    shutil.copytree(tiny_model.folder, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    network.save_pretrained(folder, **options)
    return folder


def half_of(tiny_model: Any) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_model.folder, dtype=torch.bfloat16)


def tied_network(vocabulary: int) -> Any:
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    torch.manual_seed(0)
    kinds = ["sliding_attention", "full_attention"]
    return Gemma3ForCausalLM(
        Gemma3TextConfig(
            vocab_size=vocabulary, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
            num_key_value_heads=1, head_dim=8, sliding_window=4, layer_types=kinds, tie_word_embeddings=True,
            max_position_embeddings=64, pad_token_id=0,
        )
    )  # fmt: skip


def in_memory(model: LoadedModel) -> set[str]:
    """The names of the weights that are not on the meta device."""
    return {name for name, weight in model.network.named_parameters() if not weight.is_meta}


@pytest.fixture(scope="module")
def streamed(sources: dict[str, Path]) -> LoadedModel:
    return load_model(sources["F32"], STREAM)


# ---- equal to the whole model ----


@pytest.mark.llama
@pytest.mark.parametrize("kind", KINDS)
def test_streamed_model_equals_the_whole_one(sources: dict[str, Path], kind: str) -> None:
    whole, streamed = load_model(sources[kind]), load_model(sources[kind], STREAM)
    assert streamed.fingerprint == whole.fingerprint
    assert torch.equal(residual_stream(streamed, TOKENS), residual_stream(whole, TOKENS))
    for block in range(whole.n_blocks):
        with streamed.block(block):
            ours, theirs = (model.blocks[block].state_dict() for model in (streamed, whole))
            assert ours.keys() == theirs.keys()
            assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    with streamed.head():
        assert torch.equal(streamed.network.lm_head.weight, whole.network.lm_head.weight)


def test_steered_run_equals_that_of_the_whole_model(
    streamed: LoadedModel, tiny_torch: LoadedModel, make_controller: Callable[..., Controller]
) -> None:
    controller = make_controller(4, 32)
    rows = torch.arange(len(TOKENS)) >= 5
    ours, theirs = (
        run_steered(model, controller, Command(1.0, 1.0, "hold"), TOKENS, rows) for model in (streamed, tiny_torch)
    )
    assert torch.equal(ours.stream, theirs.stream)
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.sensor, theirs.sensor)


def test_jacobians_equal_those_of_the_whole_model(streamed: LoadedModel, tiny_torch: LoadedModel) -> None:
    ours, theirs = (mean_jacobians(model, [TOKENS, TOKENS[:7]]) for model in (streamed, tiny_torch))
    np.testing.assert_array_equal(ours, theirs)


def test_sidecar_equals_that_of_the_whole_model(
    sources: dict[str, Path], streamed: LoadedModel, no_progress: Any, tmp_path: Path
) -> None:
    """On the feature-cost route, from the texts to the calibrated controller."""
    poles = [tuple(Example("", f"The {noun} is {end}") for noun in ("cat", "dog", "sea", "sky", "hat"))
             for end in ("high up!", "low.")]  # fmt: skip
    concept = ConceptSet("height", "high", "low", *poles, "ab" * 32)
    neutral, options = (Example("", "A friend is in the house."),), ExportOptions(cost="feature", jacobian_prompts=2)
    for name, model in (("streamed", streamed), ("whole", load_model(sources["F32"]))):
        controller = export_controller(model, concept, neutral, options, no_progress)
        write_sidecar(tmp_path / name, Sidecar(model.fingerprint, {"height": controller}))
    assert (tmp_path / "streamed").read_bytes() == (tmp_path / "whole").read_bytes()


# ---- what is in memory, and where the rest is ----


def test_one_block_is_in_memory_at_a_time(streamed: LoadedModel) -> None:
    assert in_memory(streamed) == {"model.norm.weight"}
    with streamed.block(2):
        names = in_memory(streamed) - {"model.norm.weight"}
        assert len(names) == 9
        assert all(name.startswith("model.layers.2.") for name in names)
    assert in_memory(streamed) == {"model.norm.weight"}


def test_embedding_has_the_rows_of_the_tokens_alone(streamed: LoadedModel) -> None:
    with streamed.embedding(torch.tensor([7, 3, 7])) as numbers:
        assert streamed.network.get_input_embeddings().weight.shape == (2, 32)
        assert numbers.tolist() == [1, 0, 1]


def test_weights_are_dropped_after_an_error(streamed: LoadedModel) -> None:
    with pytest.raises(RuntimeError, match="planned"), streamed.block(0):
        raise RuntimeError("planned")
    assert in_memory(streamed) == {"model.norm.weight"}


def test_activations_lie_in_files_without_a_name(
    streamed: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    collected = collect_activations(streamed, [TokenizedText(TOKENS, 8)])
    assert isinstance(collected.read(2).base, np.memmap)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("memory", "streams"), [(1e4, True), (1e12, False)])
def test_a_model_that_would_fill_the_memory_streams(
    sources: dict[str, Path], monkeypatch: pytest.MonkeyPatch, memory: float, streams: bool
) -> None:
    monkeypatch.setattr(weights.os, "sysconf", {"SC_PAGE_SIZE": 1, "SC_PHYS_PAGES": memory}.__getitem__)
    loaded = load_model(sources["F32"], LoadOptions(device="cpu"))
    assert (loaded.streamed is not None) == streams


def test_unknown_way_to_stream_is_refused() -> None:
    with pytest.raises(SteeringError, match="unknown way to stream; expected auto or always or never; found maybe"):
        LoadOptions(stream="maybe")


# ---- what cannot be read ----


@pytest.fixture
def shards(sources: dict[str, Path], tmp_path: Path) -> Path:
    """A copy of the folder with several shards."""
    return shutil.copytree(sources["shards"], tmp_path / "shards")


def a_shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[1]


def test_missing_shard_is_refused(shards: Path) -> None:
    gone = a_shard(shards)
    gone.unlink()
    with pytest.raises(ModelError, match=f"a shard is missing; expected {gone.name}"):
        load_model(shards, STREAM)


def test_truncated_shard_is_refused(shards: Path) -> None:
    damaged = a_shard(shards)
    damaged.write_bytes(damaged.read_bytes()[:-100])
    with pytest.raises(ModelError, match=f"{damaged.name}: shard is truncated or corrupt"):
        load_model(shards, STREAM)


@pytest.mark.parametrize("content", ["{", "{}", '{"weight_map": 3}', "[]"])
def test_damaged_index_of_shards_is_refused(shards: Path, content: str) -> None:
    (shards / INDEX).write_text(content, "utf-8")
    with pytest.raises(ModelError, match="not an index of shards"):
        load_model(shards, STREAM)


def test_missing_tensor_is_refused_before_anything_is_computed(shards: Path) -> None:
    index = json.loads((shards / INDEX).read_text("utf-8"))
    dropped = index["weight_map"]["model.layers.3.mlp.up_proj.weight"]
    index["weight_map"] = {name: shard for name, shard in index["weight_map"].items() if shard != dropped}
    (shards / INDEX).write_text(json.dumps(index), "utf-8")
    with pytest.raises(ModelError, match=r"a tensor is missing; expected model\.layers\.3"):
        load_model(shards, STREAM)


@pytest.fixture
def split_gguf(sources: dict[str, Path], tmp_path: Path) -> list[Path]:
    """Copies of the files of a split GGUF."""
    first = sources["split"]
    return [Path(shutil.copy(file, tmp_path)) for file in sorted(first.parent.glob("split-*.gguf"))]


@pytest.mark.parametrize("part", ["up_proj", "down_proj"])
def test_missing_expert_is_refused_before_anything_is_computed(tiny: ModuleType, tmp_path: Path, part: str) -> None:
    from safetensors.torch import load_file, save_file

    folder = tiny.make_model("qwen3moe", tmp_path / "experts").folder
    tensors = load_file(folder / "model.safetensors")
    del tensors[f"model.layers.1.mlp.experts.2.{part}.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"parts of a tensor are missing; expected model\.layers\.1\.mlp\.experts"):
        load_model(folder, STREAM)


@pytest.mark.parametrize("stream", ["always", "never"])
def test_split_gguf_equals_the_one_file(sources: dict[str, Path], stream: str) -> None:
    whole, loaded = load_model(sources["F32"]), load_model(sources["split"], LoadOptions(stream, "cpu"))
    assert (loaded.streamed is not None) == (stream == "always")
    assert not loaded.fingerprint.mismatch(whole.fingerprint)
    assert torch.equal(residual_stream(loaded, TOKENS), residual_stream(whole, TOKENS))


@pytest.mark.llama
def test_llama_cpp_takes_a_split_gguf_for_the_same_model(sources: dict[str, Path]) -> None:
    from edgesteer.runtime.model import LlamaModel

    with LlamaModel(sources["split"]) as model:
        assert not load_model(sources["split"]).fingerprint.mismatch(model.fingerprint)


def test_missing_file_of_a_split_gguf_is_refused(split_gguf: list[Path]) -> None:
    assert len(split_gguf) == 3
    split_gguf[1].unlink()
    with pytest.raises(ModelError, match=rf"{split_gguf[0].name}: a shard is missing; expected {split_gguf[1].name}"):
        load_model(split_gguf[0], STREAM)


def test_truncated_file_of_a_split_gguf_is_refused(split_gguf: list[Path]) -> None:
    split_gguf[2].write_bytes(split_gguf[2].read_bytes()[:-100])
    with pytest.raises(ModelError, match=rf"{split_gguf[2].name}: file is truncated or corrupt"):
        load_model(split_gguf[0], STREAM)


@pytest.mark.parametrize("number", [1, 2])
def test_other_files_of_a_split_gguf_are_no_model(split_gguf: list[Path], number: int) -> None:
    with pytest.raises(ModelError, match=r"not the first file of a split GGUF; expected .* ends in -00001-of-"):
        load_model(split_gguf[number], STREAM)


def with_type(gguf: Path, tensor: str, kind: int, output: Path) -> Path:
    """Copy a GGUF, in which a matrix says that it is of another type."""
    data = bytearray(gguf.read_bytes())
    place = data.index(tensor.encode()) + len(tensor) + 4 + 2 * 8  # after the name, the number of sizes and the sizes
    data[place : place + 4] = kind.to_bytes(4, "little")
    output.write_bytes(data)
    return output


def test_unknown_quantization_is_refused_before_anything_is_computed(sources: dict[str, Path], tmp_path: Path) -> None:
    odd = with_type(sources["F32"], "blk.2.ffn_up.weight", GGMLQuantizationType.I8, tmp_path / "odd.gguf")
    with pytest.raises(ModelError, match=r"odd.gguf: unknown quantization type; found I8 of blk.2.ffn_up.weight"):
        load_model(odd, STREAM)


def test_type_that_no_gguf_has_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    odd = with_type(sources["F32"], "blk.2.ffn_up.weight", 999, tmp_path / "odd.gguf")
    with pytest.raises(ModelError, match="999"):
        load_model(odd, STREAM)


def test_truncated_gguf_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(sources["F32"].read_bytes()[:-1000])
    with pytest.raises(ModelError, match="truncated"):
        load_model(short, STREAM)


def test_gguf_that_shrinks_while_it_is_read_is_reported(sources: dict[str, Path], tmp_path: Path) -> None:
    path = Path(shutil.copy(sources["F32"], tmp_path / "shrinks.gguf"))
    model = load_model(path, STREAM)
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size // 3)
    with pytest.raises(ModelError, match=r"shrinks\.gguf: file is truncated"), model.block(3):
        pass


def test_too_little_disk_is_reported_and_leaves_nothing_behind(
    streamed: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(scratch.shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(EdgeSteerError, match=r"cannot be stored; expected .* GB of room; found .*No space"):
        collect_activations(streamed, [TokenizedText(TOKENS, 8)])
    assert list(tmp_path.iterdir()) == []
