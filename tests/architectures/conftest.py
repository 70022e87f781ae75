"""Fixtures of the architectures' tests: each tiny model once a session, on both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """For tensors as small as here, threads cost up to ten times what they do."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


ARCHITECTURES = (
    "llama", "llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "granite", "smollm3", "qwen3moe",
    "mixtral", "command-r", "gptneox", "falcon", "gpt2",
)  # fmt: skip


@pytest.fixture(params=ARCHITECTURES)
def architecture(request: pytest.FixtureRequest) -> str:
    """The name of each architecture of tests/tiny.py."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def tiny_of(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """A function from an architecture's name to its TinyModel."""
    folder = tmp_path_factory.mktemp("architectures")

    @cache
    def make(architecture: str) -> Any:
        return tiny.make_model(architecture, folder / architecture)

    return make


@pytest.fixture(scope="session")
def torch_of(tiny_of: Callable[[str], Any]) -> Callable[[str], LoadedModel]:
    """A function from an architecture's name to the LoadedModel of its folder."""
    from edgesteer.export.weights import load_model

    @cache
    def load(architecture: str) -> LoadedModel:
        return load_model(tiny_of(architecture).folder)

    return load
