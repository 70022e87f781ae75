"""`edgesteer learn`: on the tiny model, in an environment without PyTorch, and what it refuses."""

from __future__ import annotations

import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesteer.concept import load_neutral
from edgesteer.controller import LAWS
from edgesteer.dynamics import DynamicsSidecar, read_dynamics, write_dynamics
from edgesteer.sidecar import read_sidecar

pytestmark = pytest.mark.torch

CONCEPT = """
name = "{name}"
positive = "loud"
negative = "quiet"
[lists]
positive = ["what a bang", "the drums roar", "he shouts"]
negative = ["a whisper", "the night is still", "she hums"]
"""

WITHOUT_TORCH = """
import importlib.abc
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'transformers', 'accelerate'):
            raise ModuleNotFoundError('No module named ' + name, name=name)
sys.meta_path.insert(0, Absent())
"""


@pytest.fixture
def concept(tmp_path: Path) -> Path:
    (tmp_path / "noise.toml").write_text(CONCEPT.format(name="noise"))
    return tmp_path / "noise.toml"


@pytest.fixture(scope="module")
def dynamics(tiny_torch: Any, no_progress: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from edgesteer.export.linearize import LinearizeOptions, linearize

    made = linearize(tiny_torch, load_neutral()[:4], LinearizeOptions(rank=8, jacobian_prompts=1), no_progress)
    path = tmp_path_factory.mktemp("dynamics") / "tiny.dynamics.gguf"
    write_dynamics(path, DynamicsSidecar(tiny_torch.fingerprint, made))
    return path


@pytest.fixture
def command(tiny_model: Any, dynamics: Path, concept: Path, tmp_path: Path) -> tuple[object, ...]:
    """Everything that the command line needs."""
    output = tmp_path / "noise.gguf"
    return ("learn", tiny_model.gguf, "--dynamics", dynamics, "--concept", concept, "-o", output, "--threads", 1)


def test_learns_without_pytorch(start: Any, command: tuple[object, ...], tmp_path: Path, tiny_model: Any) -> None:
    with start(*command, prelude=f"exec({WITHOUT_TORCH!r})") as process:
        out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert [line.split(" (")[0] for line in err.splitlines()] == [
        "activations", "separation on held-out texts", "Riccati recursion", "calibration",
    ]  # fmt: skip
    made, hint = out.splitlines()
    assert made.startswith(f"{tmp_path / 'noise.gguf'}: ")
    assert ", lqr at blocks 0-3, loud (+) against quiet (-), sensor at block " in made
    assert hint.startswith(f"Try: edgesteer generate {tiny_model.gguf} --steer ")


def test_learned_sidecar_steers_the_model(
    edgesteer: Any, command: tuple[object, ...], tiny_model: Any, tmp_path: Path
) -> None:
    result = edgesteer(*command, "--law", "lqr,add", "--blocks", "1-3", "-q")
    assert result == (0, "", "")
    sidecar = read_sidecar(tmp_path / "noise.gguf")
    assert list(sidecar.controllers) == ["noise", "noise-add"]
    assert sidecar.controllers["noise"].blocks == (1, 2, 3)
    steer = f"{tmp_path / 'noise.gguf'}#noise"
    steered = edgesteer("generate", tiny_model.gguf, "-p", "the", "--steer", steer, "-n", 4, "-t", 1, "-v")
    assert steered.code == 0, steered.err
    assert "noise at 1: alpha mean" in steered.err


def test_dynamics_of_another_model_are_refused(
    edgesteer: Any, command: tuple[object, ...], dynamics: Path, tmp_path: Path
) -> None:
    content = read_dynamics(dynamics)
    other = tmp_path / "other.dynamics.gguf"
    fingerprint = replace(content.fingerprint, tokenizer_sha256="0" * 64, model_name="Other")
    write_dynamics(other, DynamicsSidecar(fingerprint, content.dynamics))
    result = edgesteer(*(other if each == dynamics else each for each in command), "-q")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {other}: dynamics belong to another model; expected Other (tokenizer_sha256 ")
    assert not (tmp_path / "noise.gguf").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--law", "lqg"], f"unknown law; expected {' or '.join(LAWS)}; found lqg"),
        (["--input-cost", "0"], "input_cost is out of range; expected above 0; found 0.0"),
        (["--blocks", "3-4"], "steered blocks are outside the model; expected 0 to 3; found (3, 4)"),
        (["--dynamics", "nope.gguf"], "nope.gguf: "),
        (["--concept", "nope"], "nope: no such concept; expected a file or one of "),
        (["--concept", "spaced.toml"], "the concept's name cannot be stored; expected letters"),
        (["-o", "no/a.gguf"], "no/a.gguf: cannot be written: its folder does not exist"),
    ],
)
def test_errors_are_lines_and_leave_no_file(
    arguments: list[str], message: str, edgesteer: Any, command: tuple[object, ...], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("spaced.toml").write_text(CONCEPT.format(name="much noise"))
    before = sorted(tmp_path.iterdir())
    result = edgesteer(*command, "-q", *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_the_dynamics_are_not_overwritten(
    edgesteer: Any, command: tuple[object, ...], dynamics: Path
) -> None:
    before = dynamics.read_bytes()
    result = edgesteer(*command, "-o", dynamics)
    assert result.err == f"Error: {dynamics}: would overwrite the file that is read. Give another path.\n"
    assert dynamics.read_bytes() == before


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for one process")
def test_ctrl_c_leaves_no_file(start: Any, command: tuple[object, ...], tmp_path: Path) -> None:
    before = sorted(tmp_path.iterdir())
    with start(*command) as process:
        assert process.stderr.readline().startswith("activations (")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert process.stderr.read().endswith("Interrupted.\n")
        assert process.stdout.read() == ""
    assert sorted(tmp_path.iterdir()) == before
