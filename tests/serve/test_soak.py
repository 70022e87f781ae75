"""Some of bench/soak.py against a server in a process of its own: nothing lost, doubled or kept."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgesteer.controller import Controller
from edgesteer.runtime.model import LlamaModel
from edgesteer.sidecar import Sidecar, write_sidecar

SCRIPT = Path(__file__).parents[2] / "bench" / "soak.py"
SECONDS = 45
LEAK = 8.0
"""MB. One text of a thousand that kept its sampler would show as more."""


@pytest.fixture(scope="module")
def soak() -> Any:
    spec = importlib.util.spec_from_file_location("soak", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # its dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_mixed_load_loses_no_token_and_keeps_nothing(
    soak: Any, tiny_model: Any, tiny_llama: LlamaModel, make_controller: Callable[..., Controller], tmp_path: Path
) -> None:
    for seed, name in enumerate(("tone", "pace")):
        controller = make_controller(4, 32, name=name, seed=seed)
        write_sidecar(tmp_path / f"{name}.gguf", Sidecar(tiny_llama.fingerprint, {name: controller}))
    record = soak.soak(str(tiny_model.gguf), sorted(tmp_path.glob("*.gguf")), SECONDS, 1)
    rise, _ = record.rise()
    assert record.defects == []
    assert set(record.requests) == set(soak.KINDS)
    assert rise < LEAK
