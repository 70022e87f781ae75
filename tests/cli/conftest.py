"""Runs the command line: in this process, or in one of its own where signals and exit matter."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from edgesteer.cli import main
from edgesteer.controller import Controller, Sensor, Statistics
from edgesteer.fingerprint import Fingerprint
from edgesteer.sidecar import Sidecar, write_sidecar


class Result(NamedTuple):
    code: int
    out: str
    err: str


Edgesteer = Callable[..., Result]
Process = Callable[..., "subprocess.Popen[str]"]
SidecarWriter = Callable[..., Path]


@pytest.fixture
def edgesteer(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Edgesteer:
    """Return a function that runs a command line with this standard input and returns its Result."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("config")))

    def run(*arguments: object, stdin: bytes = b"") -> Result:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        with pytest.raises(SystemExit) as ending:
            main([str(each) for each in arguments])
        captured = capsys.readouterr()
        assert isinstance(ending.value.code, int)
        return Result(ending.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def start() -> Process:
    """Return a function that starts the command line in a process of its own, with pipes for its output."""

    def start(*arguments: object, prelude: str = "pass", **options: Any) -> subprocess.Popen[str]:
        code = f"import sys; {prelude}; from edgesteer.cli import main; main()"
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        environment = {**os.environ, "TERM": "dumb"}
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(command, text=True, env=environment, **pipes)

    return start


TINY = Fingerprint("llama", 4, 32, "a" * 64, "b" * 64, "Tiny")


@pytest.fixture
def tiny_sidecar(tmp_path: Path) -> SidecarWriter:
    """Return a function that writes a sidecar of hand-made controllers with these names and statistics."""

    def write(*names: str, path: Path = tmp_path / "hand.gguf") -> Path:
        write_sidecar(path, Sidecar(TINY, {name: hand_made_controller(name) for name in names or ("warm",)}))
        return path

    return write


def hand_made_controller(name: str) -> Controller:
    """Steers blocks 1 and 3 of 4 with gains of norm 2 and 4."""

    def per_block(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
        return np.array(values, np.float32)

    gain = np.zeros((2, 32), np.float32)
    gain[0, 5], gain[1, 6] = 2, -4
    zero, one, rising = (per_block(*row) for row in ((0, 0, 0, 0), (1, 1, 1, 1), (1, 2, 4, 3)))
    return Controller(
        name=name,
        positive="warm",
        negative="cold",
        law="lqr",
        n_blocks=4,
        blocks=(1, 3),
        probe=gain / 8,
        offset=per_block(0, 0),
        gain=gain,
        rest=per_block(0, 0),
        span=per_block(1, 1),
        safe_range=(-1.5, 2.0),
        sensor=Sensor(2, np.ones(32, np.float32), 0.5, 0.75, 8.0, per_block(0.1, 0.2), 0.25, per_block(0.5, 0.0)),
        statistics=Statistics(one, one, zero, one, one / 4, one, rising),
    )


# ---- sidecars that steer ----


@pytest.fixture
def tiny_steer(tiny_llama: Any, make_controller: Any, tmp_path: Path) -> SidecarWriter:
    """Return a function that writes a sidecar of the tiny model with one controller."""
    return sidecar_writer(tiny_llama, make_controller, tmp_path, size=1.0)


@pytest.fixture
def smollm2_steer(smollm2_llama: Any, make_controller: Any, tmp_path: Path) -> SidecarWriter:
    """Return a function that writes a sidecar of SmolLM2 with one controller."""
    return sidecar_writer(smollm2_llama, make_controller, tmp_path, size=0.1)


def sidecar_writer(model: Any, make_controller: Any, folder: Path, size: float) -> SidecarWriter:
    def write(name: str = "warm", file: str = "warm.gguf", **options: Any) -> Path:
        controller = make_controller(model.n_blocks, model.width, name=name, size=size, **options)
        write_sidecar(folder / file, Sidecar(model.fingerprint, {name: controller}))
        return folder / file

    return write
