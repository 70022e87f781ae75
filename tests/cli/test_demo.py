"""edgesteer demo, with the tiny model in place of the real one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesteer.cli import demo
from edgesteer.concept import load_concept, resolve_concept
from edgesteer.controller import Controller
from edgesteer.fingerprint import fingerprint_of_gguf
from edgesteer.sidecar import Sidecar, write_sidecar

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "edgesteer" / "sidecars"


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgesteer.runtime.engine.default_threads", lambda: 1)


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch, make_controller: Any) -> list[Path]:
    """Replaces the exporter by one that writes a random controller; returns the list of what it wrote."""
    written: list[Path] = []

    def make(model: Path, concept: Any, output: Path, making: Any, progress: Any) -> Controller:
        controller: Controller = make_controller(4, 32, name=concept.name)
        write_sidecar(output, Sidecar(fingerprint_of_gguf(model), {concept.name: controller}))
        written.append(output)
        return controller

    monkeypatch.setattr(demo, "make_sidecar", make)
    return written


def test_three_answers_are_printed_with_speed_and_measurements(
    edgesteer: Any, tiny_model: Any, exported: list[Path]
) -> None:
    result = edgesteer("demo", "--model", tiny_model.gguf, "-n", 5)
    assert (result.code, result.err) == (0, "")
    titles = [line for line in result.out.splitlines() if line.startswith("--- ")]
    assert [title.rpartition(",")[0] for title in titles] == [
        "--- unsteered, strength 0",
        "--- towards up, strength 1",
        "--- towards down, strength -1",
    ]
    assert all(title.endswith(" tokens/s") for title in titles)
    assert result.out.count("tracking error") == 2
    assert "\x1b" not in result.out


def test_sidecar_is_made_once_and_reused(edgesteer: Any, tiny_model: Any, exported: list[Path], cache: Path) -> None:
    command = ("demo", "--model", tiny_model.gguf, "-n", 2)
    assert f"Making {cache}" in edgesteer(*command).out
    again = edgesteer(*command).out
    assert len(exported) == 1
    assert f"Using {exported[0]}, made before" in again
    edgesteer(*command, "--concept", "dogs")
    assert len(exported) == 2


def test_copy_is_kept_where_it_is_asked_for(
    edgesteer: Any, tiny_model: Any, exported: list[Path], tmp_path: Path
) -> None:
    kept = tmp_path / "kept.gguf"
    result = edgesteer("demo", "--model", tiny_model.gguf, "-n", 2, "--keep", kept)
    assert result.code == 0
    assert kept.read_bytes() == exported[0].read_bytes()
    assert f"--steer {kept}=1" in result.out


def test_name_in_the_cache_changes_with_model_concept_version_and_defaults(
    tiny_model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ocean, dogs = (load_concept(resolve_concept(name)) for name in ("ocean", "dogs"))
    longer = tmp_path / "longer.gguf"
    longer.write_bytes(tiny_model.gguf.read_bytes() + b"\0")
    names = [demo.cached_sidecar(tiny_model.gguf, ocean), demo.cached_sidecar(tiny_model.gguf, dogs)]
    names.append(demo.cached_sidecar(longer, ocean))
    monkeypatch.setattr(demo, "__version__", "9.9")
    names.append(demo.cached_sidecar(tiny_model.gguf, ocean))
    monkeypatch.setattr(demo, "fields_of", lambda *_: [])
    names.append(demo.cached_sidecar(tiny_model.gguf, ocean))
    assert len(set(names)) == 5


def test_terminal_gets_panels(
    capsys: pytest.CaptureFixture[str], edgesteer: Any, tiny_model: Any, exported: list[Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    shown = edgesteer("demo", "--model", tiny_model.gguf, "-n", 2).out
    assert "towards up, strength 1" in shown
    assert shown.count("╭") == shown.count("╯") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "nope"], "nope: unknown model"),
        (["--concept", "nope"], "nope: no such concept"),
        (["--keep", "no/a.gguf"], "no/a.gguf: cannot be written: its folder does not exist."),
        (["--model", "."], ".: file cannot be read; found Is a directory"),
    ],
)
def test_errors(arguments: list[str], message: str, edgesteer: Any, tiny_model: Any, tmp_path: Path,
                monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = edgesteer("demo", "--model", tiny_model.gguf, *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1
