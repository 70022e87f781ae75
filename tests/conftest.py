"""Models that tests share: a tiny one that is made here, and the real ones of the registry.

torch, transformers and llama.cpp are imported by the fixtures that need them, so that the other tests run without.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from edgesteer.concept import load_concept, load_neutral, resolve_concept
from edgesteer.controller import Array, Controller, Pid, Sensor
from edgesteer.registry import resolve_model
from edgesteer.sidecar import Sidecar, write_sidecar

if TYPE_CHECKING:
    from edgesteer.export.weights import LoadedModel
    from edgesteer.runtime.model import LlamaModel


WORKER = "PYTEST_XDIST_WORKER"
"""What names one of several processes, gw0, gw1, ..., in its environment."""


def pytest_configure(config: pytest.Config) -> None:
    """Warnings are errors, but for those that a dependency causes by itself. Ctrl-C works in what tests start.

    Each process of pytest-xdist has one core: threads that share cores take several times as long.
    """
    if (worker := os.environ.get(WORKER)) and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell leaves it to a job in the background
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line("filterwarnings", "ignore:.torch.jit.script. is deprecated:DeprecationWarning")


# ---- modules of this folder, which is not on the import path ----


def helper(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def oracle() -> ModuleType:
    """tests/oracle.py"""
    return helper("oracle")


@pytest.fixture(scope="session")
def parity() -> ModuleType:
    """tests/parity.py"""
    return helper("parity")


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/tiny.py"""
    return helper("tiny")


# ---- the tiny model: the same random weights as a Hugging Face folder and as an F32 GGUF ----


@pytest.fixture(scope="session")
def tiny_model(tiny: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Its .folder and its .gguf: 4 blocks of width 32, 4 heads over 2 key-value heads, byte-level tokens."""
    return tiny.make_model("llama", tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def tiny_torch(tiny_model: Any) -> LoadedModel:
    from edgesteer.export.weights import load_model

    return load_model(tiny_model.folder)


@pytest.fixture(scope="session")
def tiny_llama(tiny_model: Any) -> Iterator[LlamaModel]:
    from edgesteer.runtime.model import LlamaModel

    with LlamaModel(tiny_model.gguf) as model:
        yield model


@pytest.fixture
def exact_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep keys and values in F32. llama.cpp's default rounds them to F16, which costs a relative 1e-3 here."""
    import llama_cpp

    from edgesteer.runtime.engine import Engine

    defaults = llama_cpp.llama_context_default_params

    def parameters() -> Any:
        chosen = defaults()
        chosen.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        return chosen

    monkeypatch.setattr(llama_cpp, "llama_context_default_params", parameters)
    for name in ("cache_type_k", "cache_type_v"):
        monkeypatch.setitem(Engine.__init__.__kwdefaults__, name, "f32")


# ---- controllers and sidecars ----

ControllerMaker = Callable[..., Controller]


def random_controller(
    n_blocks: int,
    width: int,
    *,
    law: str = "lqr",
    name: str = "concept",
    blocks: tuple[int, ...] | None = None,
    mode: str = "hold",
    size: float = 1.0,
    seed: int = 0,
) -> Controller:
    """Return a controller whose control is of order 1 where x has coordinates of this size; with a sensor."""
    steered = tuple(range(n_blocks)) if blocks is None else blocks
    random = np.random.default_rng(seed)

    def draw(*shape: int) -> Array:
        return random.normal(size=shape).astype(np.float32)

    m = len(steered)
    vectors = {"probe": draw(m, width) / np.float32(size * width**0.5), "gain": draw(m, width) * np.float32(size / 4)}
    scalars = {"offset": draw(m), "rest": draw(m), "span": 1 + abs(draw(m))}
    if law in ("add", "ablate", "rotate"):
        scalars["offset"], scalars["rest"] = np.zeros(m, "f4"), np.zeros(m, "f4")
    if law == "add":
        vectors["probe"] = None
    if law in ("ablate", "rotate"):
        gain, axis = np.moveaxis(np.linalg.qr(draw(m, width, 2))[0], -1, 0)
        vectors = {"probe": gain, "gain": gain, "axis": axis if law == "rotate" else None}
    if law == "ablate":
        scalars["span"] = np.zeros(m, "f4")
    sensor = Sensor(
        block=n_blocks // 2, probe=draw(width) / np.float32(size * width**0.5), offset=0.25, target=1.0,
        memory_tokens=8.0, push=draw(m) / 10, prompt_mean=0.0, position_mean=np.zeros(4, dtype=np.float32),
    )  # fmt: skip
    return Controller(
        name=name, positive="up", negative="down", law=law, n_blocks=n_blocks, blocks=steered, mode=mode,
        sensor=sensor, pid=Pid(0.8, 0.2, 0.3) if law == "pid" else None, **vectors, **scalars,
    )  # fmt: skip


@pytest.fixture(scope="session")
def make_controller() -> ControllerMaker:
    return random_controller


class NoProgress:
    """Progress for nobody to see."""

    def stage(self, name: str, total: int) -> Callable[[], None]:
        return lambda: None


@pytest.fixture(scope="session")
def no_progress() -> NoProgress:
    return NoProgress()


# ---- the registry's models ----


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return resolve_model("smollm2")


@pytest.fixture(scope="session")
def gemma3() -> Path:
    return resolve_model("gemma3")


@pytest.fixture(scope="session")
def smollm2_llama(smollm2: Path) -> Iterator[LlamaModel]:
    from edgesteer.runtime.model import LlamaModel

    with LlamaModel(smollm2) as model:
        yield model


@pytest.fixture(scope="session")
def gemma3_llama(gemma3: Path) -> Iterator[LlamaModel]:
    from edgesteer.runtime.model import LlamaModel

    with LlamaModel(gemma3) as model:
        yield model


@pytest.fixture(scope="session")
def smollm2_torch(smollm2: Path) -> LoadedModel:
    """Takes about 20 s."""
    from edgesteer.export.weights import load_model

    return load_model(smollm2)


@pytest.fixture(scope="session")
def smollm2_laws(
    request: pytest.FixtureRequest, no_progress: NoProgress, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The built-in concept `ocean` for SmolLM2, by law, from fewer linearizations than by default. Takes about 50 s.

    The processes of pytest-xdist share it.
    """
    from filelock import FileLock

    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if WORKER in os.environ else folder
    paths = {law: folder / f"ocean-{law}.gguf" for law in ("lqr", "scheduled")}
    with FileLock(folder / "ocean.lock"):
        if not all(path.exists() for path in paths.values()):
            made = exported(request.getfixturevalue("smollm2_torch"), list(paths), no_progress)
            for sidecar, path in zip(made, paths.values(), strict=True):
                write_sidecar(path, sidecar)
    return paths


@pytest.fixture(scope="session")
def smollm2_sidecar(smollm2_laws: dict[str, Path]) -> Path:
    """That of the default law."""
    return smollm2_laws["lqr"]


def exported(model: LoadedModel, laws: Sequence[str], no_progress: NoProgress) -> list[Sidecar]:
    from edgesteer.export.pipeline import ExportOptions, export_controllers

    concept = load_concept(resolve_concept("ocean"))
    options = [ExportOptions(law=law, jacobian_prompts=4) for law in laws]
    made = export_controllers(model, concept, load_neutral(), options, no_progress)
    return [Sidecar(model.fingerprint, {concept.name: replace(each, name=concept.name)}) for each in made.values()]
