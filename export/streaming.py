"""Weights that stay on the disk: one part of the network at a time is read, dequantized to float32 and dropped again.

Two kinds of files hold the tensors, those of a GGUF and the safetensors shards of a Hugging Face folder; the values
are those that transformers gives the whole model. This file knows no prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from gguf import GGUFReader, ReaderTensor, dequantize
from torch import nn

from edgesteer.errors import ModelError
from edgesteer.gguf_file import tensors_of

Tensors = dict[str, torch.Tensor]

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
WHOLE = "Load it whole, with --stream never."
AGAIN = "Download the model again."


class WeightFiles(Protocol):
    """Where tensors are read from, by the names that transformers gives them."""

    def names(self) -> set[str]:
        """Return the names of all tensors."""
        ...

    def read(self, prefix: str) -> Tensors:
        """Return the tensors whose names begin so, in float32, by their names. Raises ModelError when it cannot."""
        ...

    def rows(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        """Return some rows of a matrix, in float32."""
        ...


class GgufFiles:
    """The tensors of a GGUF, split or not, in transformers' names and layout."""

    def __init__(self, path: Path, network: Any) -> None:
        from transformers.modeling_gguf_pytorch_utils import (
            TENSOR_PROCESSORS,
            TensorProcessor,
            get_gguf_hf_weights_map,
            load_gguf_checkpoint,
        )

        reader = GGUFReader(path)
        architecture = str(reader.fields["general.architecture"].contents())
        config = load_gguf_checkpoint(str(path))["config"]  # type: ignore[no-untyped-call]
        processor: Any = TENSOR_PROCESSORS.get(architecture, TensorProcessor)
        self._processor: Any = processor(config=config)
        self._names: dict[str, str] = get_gguf_hf_weights_map(network, self._processor)
        tensors = tensors_of(path, reader, ModelError, AGAIN)
        self._tensors = [(file, tensor) for file, tensor in tensors if self._name(tensor) is not None]
        for file, kind in {tensor.tensor_type: (file, tensor) for file, tensor in self._tensors}.values():
            self._dequantize(file, kind, kind.data.reshape(-1, kind.data.shape[-1])[:1])  # after hours it is too late

    def names(self) -> set[str]:
        return {str(self._name(tensor)) for _, tensor in self._tensors}

    def read(self, prefix: str) -> Tensors:
        found: Tensors = {}
        for file, tensor in self._tensors:
            if str(self._name(tensor)).startswith(prefix):
                # Read and not mapped: pages of a mapping would count as resident as long as the file is open.
                raw = np.fromfile(file, tensor.data.dtype, tensor.data.size, offset=tensor.data_offset)
                if raw.size < tensor.data.size:
                    found_end = f"no end of {tensor.name}"
                    raise ModelError("file is truncated", where=file, found=found_end, remedy=AGAIN)
                self._process(tensor, self._dequantize(file, tensor, raw.reshape(tensor.data.shape)), found)
        return found

    def rows(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        file, tensor = next((file, each) for file, each in self._tensors if self._name(each) == name)
        found: Tensors = {}
        self._process(tensor, self._dequantize(file, tensor, tensor.data[indices.numpy()]), found)
        return found[name]

    def _name(self, tensor: ReaderTensor) -> str | None:
        """Return transformers' name of a tensor; experts are mapped without their suffix."""
        return self._names.get(tensor.name) or self._names.get(tensor.name.removesuffix(".weight"))

    def _dequantize(self, file: Path, tensor: ReaderTensor, data: np.ndarray) -> np.ndarray:
        try:
            return dequantize(data, tensor.tensor_type)
        except NotImplementedError as error:
            raise ModelError(
                "unknown quantization type",
                where=file,
                found=f"{tensor.tensor_type.name} of {tensor.name}",
                remedy="Use another quantization of this model.",
            ) from error

    def _process(self, tensor: ReaderTensor, weights: np.ndarray, found: Tensors) -> None:
        """Add a tensor as transformers lays it out; its processors add those that they merge by themselves."""
        result = self._processor.process(
            weights=weights,
            name=tensor.name,
            tensor_key_mapping=self._names,
            parsed_parameters={"tensors": found},
        )
        if result.name in self._names:
            found[self._names[result.name]] = torch.from_numpy(np.ascontiguousarray(result.weights))


class SafetensorsFolder:
    """The tensors of a folder's safetensors shards, in transformers' names and layout, which are not always the file's.

    Raises ModelError when a shard is missing or damaged.
    """

    def __init__(self, folder: Path, network: Any) -> None:
        from safetensors import safe_open
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, dot_natural_key, rename_source_key

        self._folder, self._network = folder, network
        self._shards: dict[str, Path] = {}
        shapes: dict[str, list[int]] = {}
        for shard in self._files():
            try:
                with safe_open(shard, framework="pt") as file:
                    keys = file.keys()
                    self._shards |= dict.fromkeys(keys, shard)
                    shapes |= {key: file.get_slice(key).get_shape() for key in keys}
            except Exception as error:  # SafetensorError is no subclass of any error that it is like
                raise ModelError(
                    "shard is truncated or corrupt", where=shard, found=str(error), remedy=AGAIN
                ) from error
        changes = get_model_conversion_mapping(network)
        renamings = [each for each in changes if isinstance(each, WeightRenaming)]
        converters = [each for each in changes if isinstance(each, WeightConverter)]
        self._converters = {pattern: each for each in converters for pattern in each.source_patterns}
        self._parts: dict[str, list[tuple[str | None, str]]] = {}
        """Of each tensor, the tensors in the files that it is made of, with the converter's pattern that takes them."""
        expected = network.state_dict()
        for key in sorted(self._shards, key=dot_natural_key):
            prefix = network.base_model_prefix
            name, pattern = rename_source_key(key, renamings, converters, prefix, expected)
            self._parts.setdefault(name, []).append((pattern, key))
        for name, parts in self._parts.items():
            if name in expected and len(parts) > 1:  # now, on the meta device: after hours it is too late
                self._check(name, [(pattern, torch.empty(shapes[key], device="meta")) for pattern, key in parts])

    def _check(self, name: str, parts: list[tuple[str | None, torch.Tensor]]) -> None:
        """Raise ModelError when a tensor cannot be made of these parts."""
        expected = tuple(self._network.get_parameter(name).shape)
        found: object
        try:
            found = tuple(self._converted(name, parts)[name].shape)
        except RuntimeError as error:  # parts that do not go together
            found = error
        if found != expected:
            wanted = f"{name}, {expected}"
            raise ModelError(
                "parts of a tensor are missing", where=self._folder, expected=wanted, found=found, remedy=AGAIN
            )

    def _files(self) -> list[Path]:
        index = self._folder / INDEX
        if not index.exists():
            files = [self._folder / SINGLE]
        else:
            try:
                names = json.loads(index.read_text("utf-8"))["weight_map"].values()
                files = sorted({self._folder / name for name in names})
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise ModelError("not an index of shards", where=index, found=str(error), remedy=AGAIN) from error
        for file in files:
            if not file.is_file():
                raise ModelError("a shard is missing", where=self._folder, expected=file.name, remedy=AGAIN)
        return files

    def names(self) -> set[str]:
        return set(self._parts)

    def read(self, prefix: str) -> Tensors:
        from safetensors import safe_open

        names = [name for name in self._parts if name.startswith(prefix)]
        shards = {self._shards[key] for name in names for _, key in self._parts[name]}
        with ExitStack() as opened:
            files = {shard: opened.enter_context(safe_open(shard, framework="pt")) for shard in shards}

            def tensor(key: str) -> torch.Tensor:
                found: torch.Tensor = files[self._shards[key]].get_tensor(key).to(torch.float32)
                return found

            found: Tensors = {}
            for name in names:
                found |= self._converted(name, [(pattern, tensor(key)) for pattern, key in self._parts[name]])
        return found

    def _converted(self, name: str, parts: list[tuple[str | None, torch.Tensor]]) -> Tensors:
        """Return a tensor as transformers makes it of those in the files, such as all experts' in one."""
        pattern, tensor = parts[0]
        if pattern is None:
            return {name: tensor}
        converter: Any = deepcopy(self._converters[pattern])
        for each, tensor in parts:
            converter.collected_tensors[each].append(tensor)
        return dict(converter.convert(name, model=self._network, config=self._network.config))

    def rows(self, name: str, indices: torch.Tensor) -> torch.Tensor:
        from safetensors import safe_open

        _, key = self._parts[name][0]
        with safe_open(self._shards[key], framework="pt") as file:
            matrix = file.get_slice(key)
            return torch.stack([matrix[index] for index in indices.tolist()]).to(torch.float32)


@dataclass(frozen=True)
class StreamedWeights:
    """The weights of a network of which only the small parts are in memory: those of no block, embedding or head."""

    network: Any
    """Its parameters are on torch's meta device where they are not in memory."""
    files: WeightFiles
    path: Path
    device: torch.device

    @contextmanager
    def loaded(self, module: nn.Module) -> Iterator[None]:
        """Give a module its weights for the time of the body. Raises ModelError when they cannot be read."""
        empty = dict(module.named_parameters())
        try:
            module.load_state_dict(self._of(module), strict=False, assign=True)
        except RuntimeError as error:
            found = str(error).split("\n")[-1].strip()
            raise ModelError("a tensor does not fit its module", where=self.path, found=found, remedy=WHOLE) from error
        try:
            yield
        finally:
            module.load_state_dict(empty, strict=False, assign=True)

    @contextmanager
    def embedding(self, tokens: torch.Tensor) -> Iterator[torch.Tensor]:
        """Give the embedding the rows of some tokens alone; the body gets the numbers that they have there.

        tokens: (length,). Returns (length,).
        """
        module = self.network.get_input_embeddings()
        empty = module.weight
        used, numbers = torch.unique(tokens, return_inverse=True)
        rows = self.files.rows(f"{name_of(self.network, module)}.weight", used)
        module.weight = nn.Parameter(rows.to(self.device), requires_grad=False)
        try:
            yield numbers.to(self.device)
        finally:
            module.weight = empty

    def load_all(self, blocks: nn.ModuleList) -> None:
        """Read all that is not in memory, for good. Raises ModelError when it cannot be read."""
        for module in (*blocks, self.network.get_input_embeddings(), self.network.get_output_embeddings()):
            module.load_state_dict(self._of(module), strict=False, assign=True)

    def _of(self, module: nn.Module) -> Tensors:
        """Return a module's tensors by their names in it."""
        network = self.network
        tied = module is network.get_output_embeddings() and network.config.get_text_config().tie_word_embeddings
        prefix = f"{name_of(network, network.get_input_embeddings() if tied else module)}."
        return {
            name.removeprefix(prefix): tensor.to(self.device) for name, tensor in self.files.read(prefix).items()
        }


def name_of(network: Any, module: nn.Module) -> str:
    """Return the name of one of a network's modules."""
    return next(str(name) for name, each in network.named_modules() if each is module)


def stream_weights(
    network: Any, blocks: nn.ModuleList, files: WeightFiles, path: Path, device: torch.device
) -> StreamedWeights:
    """Read the small parts of a network on the meta device, and return what reads the others when they are needed.

    Raises ModelError when a tensor is missing, before anything is computed.
    """
    embedding, head = network.get_input_embeddings(), network.get_output_embeddings()
    embedding.padding_idx = None  # numbers of rows are no token ids; it matters in training alone
    prefixes = {each: f"{name_of(network, each)}." for each in (blocks, embedding, head)}
    names, expected = files.names(), {name for name, _ in network.named_parameters()}
    if network.config.get_text_config().tie_word_embeddings:
        expected = {name for name in expected if not name.startswith(prefixes[head])}
    if missing := sorted(expected - names):
        raise ModelError("a tensor is missing", where=path, expected=missing[0], remedy=WHOLE)
    small = {name for name in expected if not name.startswith(tuple(prefixes.values()))}
    tensors = {name: files.read(name)[name].to(device) for name in sorted(small)}
    network.load_state_dict(tensors, strict=False, assign=True)
    for name, buffer in network.named_buffers():
        module, _, own = name.rpartition(".")
        setattr(network.get_submodule(module), own, buffer.to(device))
    return StreamedWeights(network, files, path, device)
