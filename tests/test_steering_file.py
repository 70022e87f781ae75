"""What `--steer` may name, and when it is refused for the loaded model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.control_vector import export_control_vector
from edgesteer.controller import Controller
from edgesteer.errors import FingerprintError, SidecarError
from edgesteer.fingerprint import Fingerprint
from edgesteer.gguf_file import write_gguf
from edgesteer.sidecar import Sidecar, write_sidecar
from edgesteer.steering_file import pick_controller, read_steering

MODEL = Fingerprint("llama", 4, 3, "a" * 64, "b" * 64, "Tiny")

CONTROLLER = Controller(
    name="warm", positive="warm", negative="cold", law="add", n_blocks=4, blocks=(1, 2), probe=None,
    offset=np.zeros(2, np.float32), gain=np.ones((2, 3), np.float32),
    rest=np.zeros(2, np.float32), span=np.ones(2, np.float32),
)


@pytest.fixture
def sidecar(tmp_path: Path) -> Path:
    write_sidecar(tmp_path / "sidecar.gguf", Sidecar(MODEL, {"warm": CONTROLLER}))
    return tmp_path / "sidecar.gguf"


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    export_control_vector(tmp_path / "vector.gguf", CONTROLLER)
    return tmp_path / "vector.gguf"


def test_sidecar_is_read_with_its_fingerprint(sidecar: Path) -> None:
    steering = read_steering(sidecar, MODEL)
    assert list(steering.controllers) == ["warm"]
    assert steering.fingerprint == MODEL


def test_control_vector_is_read_for_the_models_number_of_blocks(vector: Path) -> None:
    steering = read_steering(vector, MODEL)
    assert list(steering.controllers) == ["vector"]
    assert steering.controllers["vector"].n_blocks == 4
    assert steering.fingerprint is None


def test_sidecar_of_another_model_is_refused(sidecar: Path) -> None:
    with pytest.raises(FingerprintError, match=r"sidecar\.gguf: sidecar belongs to another model"):
        read_steering(sidecar, replace(MODEL, tokenizer_sha256="c" * 64))


def test_control_vector_of_another_width_is_refused(vector: Path) -> None:
    with pytest.raises(FingerprintError, match=r"vector\.gguf: .*expected width 5 \(Tiny\); found width 3"):
        read_steering(vector, replace(MODEL, width=5))


def test_control_vector_beyond_the_models_blocks_is_refused(vector: Path) -> None:
    with pytest.raises(SidecarError, match="expected ascending numbers below 2"):
        read_steering(vector, replace(MODEL, n_blocks=2))


def test_both_can_be_read_without_a_model(sidecar: Path, vector: Path) -> None:
    assert read_steering(sidecar).controllers["warm"].blocks == (1, 2)
    assert read_steering(vector).controllers["vector"].blocks == (1, 2)


def test_gguf_of_another_kind_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", "llama", {}, {})
    with pytest.raises(SidecarError, match="not a sidecar; expected architecture edgesteer; found llama"):
        read_steering(tmp_path / "a.gguf", MODEL)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SidecarError, match="no such file"):
        read_steering(tmp_path / "none.gguf", MODEL)


def test_only_controller_needs_no_name() -> None:
    only: Any = object()
    assert pick_controller({"a": only}, None, Path("x")) is only
