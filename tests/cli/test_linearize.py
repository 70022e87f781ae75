"""edgesteer linearize: from the tiny model to its dynamics sidecar, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesteer.dynamics import read_dynamics

QUICK = ("--rank", 4, "--covariance-rank", 3, "--jacobian-prompts", 2, "--seed", 7)


@pytest.mark.torch
@pytest.mark.parametrize("form", ["folder", "gguf"])
def test_dynamics_of_a_model_are_written(edgesteer: Any, tiny_model: Any, tmp_path: Path, form: str) -> None:
    output = tmp_path / "tiny.dynamics.gguf"
    result = edgesteer("linearize", getattr(tiny_model, form), "-o", output, *QUICK)
    assert result.code == 0, result.err
    assert result.out.startswith(f"{output}: ")
    assert "4 blocks, rank 4 to 4, " in result.out
    content = read_dynamics(output)
    assert (content.fingerprint.n_blocks, content.fingerprint.width) == (4, 32)
    dynamics = content.dynamics
    assert (dynamics.ranks, dynamics.jacobian_count, dynamics.seed) == ((4, 4, 4, 4), 2, 7)
    assert dynamics.factors.shape == (5, 3, 32)


@pytest.mark.torch
def test_quiet_prints_nothing(edgesteer: Any, tiny_model: Any, tmp_path: Path) -> None:
    assert edgesteer("linearize", tiny_model.folder, "-o", tmp_path / "a.gguf", "-q", *QUICK) == (0, "", "")


@pytest.mark.torch
def test_rank_out_of_range_is_an_error_before_the_model_is_loaded(
    edgesteer: Any, tiny_model: Any, tmp_path: Path
) -> None:
    result = edgesteer("linearize", tiny_model.folder, "-o", tmp_path / "a.gguf", "--rank", 0)
    assert result == (1, "", "Error: rank is out of range; expected at least 1; found 0\n")
    assert list(tmp_path.iterdir()) == []


def test_output_that_cannot_be_written_is_an_error_at_once(edgesteer: Any, tiny_model: Any, tmp_path: Path) -> None:
    result = edgesteer("linearize", tiny_model.folder, "-o", tmp_path / "none" / "a.gguf")
    assert result.code == 1
    assert "its folder does not exist" in result.err


def test_missing_torch_names_the_pip_line(start: Any, tiny_model: Any, tmp_path: Path) -> None:
    arguments = ("linearize", tiny_model.folder, "-o", tmp_path / "a.gguf")
    with start(*arguments, prelude="sys.modules['torch'] = None") as process:
        assert process.wait(timeout=60) == 1
        assert process.stderr.read().endswith('Run: pip install "edgesteer[export]"\n')
