"""edgesteer retune: from one sidecar to another without PyTorch and without the model, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.controller import Controller, Provenance
from edgesteer.dynamics import Dynamics, DynamicsSidecar, write_dynamics
from edgesteer.sidecar import read_sidecar, write_sidecar

COSTS = Provenance(state_cost=1.0, input_cost=10.0, terminal_cost=1.0)


@pytest.fixture
def sidecar(tiny_sidecar: Any) -> Path:
    """Controllers `warm` and `other` at blocks 1 and 3 of 4, with costs."""
    path: Path = tiny_sidecar("warm", "other")
    content = read_sidecar(path)
    controllers = {name: replace(each, provenance=COSTS) for name, each in content.controllers.items()}
    write_sidecar(path, replace(content, controllers=controllers))
    return path


@pytest.fixture
def dynamics(sidecar: Path, tmp_path: Path) -> Path:
    """Those of the sidecar's model: random factors of rank 2."""
    random = np.random.default_rng(0)

    def draw(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return (random.normal(size=shape) / 8).astype(np.float32)

    made = Dynamics(
        n_blocks=4, ranks=(2, 2, 2, 2), left=draw(8, 32), right=draw(8, 32), energy=np.ones(4, np.float32),
        mean=draw(5, 32), spread=abs(draw(5, 32)), factors=draw(5, 2, 32) / 8, position_mean=draw(3, 5, 32),
        prompt_mean=draw(5, 32), text_count=1, token_count=9, jacobian_count=1, seed=0,
    )  # fmt: skip
    path = tmp_path / "tiny.dynamics.gguf"
    write_dynamics(path, DynamicsSidecar(read_sidecar(sidecar).fingerprint, made))
    return path


def controllers(path: Path) -> dict[str, Controller]:
    return dict(read_sidecar(path).controllers)


def test_all_controllers_get_other_gains(edgesteer: Any, sidecar: Path, dynamics: Path, tmp_path: Path) -> None:
    result = edgesteer("retune", sidecar, "--dynamics", dynamics, "-o", tmp_path / "b.gguf", "--input-cost", 2.5)
    assert result.code == 0, result.err
    assert [line.split(":")[0] for line in result.out.splitlines()] == ["warm", "other"]
    assert "scale 1 -> 0." in result.out
    for name, made in controllers(tmp_path / "b.gguf").items():
        before = controllers(sidecar)[name]
        assert made.provenance == replace(COSTS, input_cost=2.5)
        assert np.linalg.norm(made.gain) > 1.5 * np.linalg.norm(before.gain)
        assert 0.2 < made.scale < 1 == before.scale
        assert np.array_equal(made.probe, before.probe)  # type: ignore[arg-type]


def test_one_controller_is_retuned_and_the_others_stay(
    edgesteer: Any, sidecar: Path, dynamics: Path, tmp_path: Path
) -> None:
    arguments = ("--controller", "other", "--blocks", "1", "--state-cost", 2, "--terminal-cost", 3, "-q")
    output = tmp_path / "b.gguf"
    assert edgesteer("retune", sidecar, "--dynamics", dynamics, "-o", output, *arguments) == (0, "", "")
    made, before = controllers(output), controllers(sidecar)
    assert made["other"].blocks == (1,)
    assert made["other"].provenance == replace(COSTS, state_cost=2.0, terminal_cost=3.0)
    assert made["warm"].blocks == before["warm"].blocks == (1, 3)
    assert np.array_equal(made["warm"].gain, before["warm"].gain)


def test_sidecar_itself_may_be_the_output(edgesteer: Any, sidecar: Path, dynamics: Path) -> None:
    assert edgesteer("retune", sidecar, "--dynamics", dynamics, "-o", sidecar, "--input-cost", 1, "-q").code == 0
    assert controllers(sidecar)["warm"].provenance.input_cost == 1


def test_torch_is_not_needed(start: Any, sidecar: Path, dynamics: Path, tmp_path: Path) -> None:
    arguments = ("retune", sidecar, "--dynamics", dynamics, "-o", tmp_path / "b.gguf", "--input-cost", 2)
    without = "sys.modules.update(dict.fromkeys(['torch', 'transformers', 'llama_cpp']))"
    with start(*arguments, prelude=without) as process:
        assert process.wait(timeout=60) == 0
        assert process.stdout.read().startswith("warm: ")
        process.stderr.close()


def test_dynamics_of_another_model_are_refused(edgesteer: Any, sidecar: Path, dynamics: Path, tmp_path: Path) -> None:
    content = read_sidecar(sidecar)
    write_sidecar(sidecar, replace(content, fingerprint=replace(content.fingerprint, tokenizer_sha256="e" * 64)))
    result = edgesteer("retune", sidecar, "--dynamics", dynamics, "-o", tmp_path / "b.gguf")
    assert result.code == 1
    assert result.err.startswith(f"Error: {dynamics}: dynamics are of another model than the sidecar; expected Tiny")
    assert not (tmp_path / "b.gguf").exists()


def test_files_in_each_others_place_are_named(edgesteer: Any, sidecar: Path, dynamics: Path, tmp_path: Path) -> None:
    result = edgesteer("retune", dynamics, "--dynamics", sidecar, "-o", tmp_path / "b.gguf")
    assert (result.code, result.out) == (1, "")
    assert "not a sidecar; expected architecture edgesteer; found edgesteer-dynamics" in result.err


def test_truncated_dynamics_are_an_error_and_nothing_is_written(
    edgesteer: Any, sidecar: Path, dynamics: Path, tmp_path: Path
) -> None:
    dynamics.write_bytes(dynamics.read_bytes()[:3000])
    result = edgesteer("retune", sidecar, "--dynamics", dynamics, "-o", tmp_path / "b.gguf")
    assert result.code == 1
    assert result.err.startswith(f"Error: {dynamics}: file is truncated or corrupt")
    assert not (tmp_path / "b.gguf").exists()


def test_dynamics_are_not_overwritten(edgesteer: Any, sidecar: Path, dynamics: Path) -> None:
    result = edgesteer("retune", sidecar, "--dynamics", dynamics, "-o", dynamics)
    assert result.code == 1
    assert "would overwrite the file that is read" in result.err


def test_unknown_controller_is_an_error(edgesteer: Any, sidecar: Path, dynamics: Path, tmp_path: Path) -> None:
    result = edgesteer("retune", sidecar, "--dynamics", dynamics, "-o", tmp_path / "b.gguf", "--controller", "none")
    assert result.code == 1
    assert "none" in result.err
