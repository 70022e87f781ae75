"""docs/serve.md: its examples, run against a server of the tiny model."""

from __future__ import annotations

import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgesteer.sidecar import read_sidecar, write_sidecar

pytestmark = pytest.mark.torch

PAGE = (Path(__file__).parents[2] / "docs" / "serve.md").read_text("utf-8")
ADDRESS = "http://127.0.0.1:8080"
PYTHON = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
CURL = re.findall(r"^curl (.+)$", PAGE, re.MULTILINE)


@pytest.fixture
def documented(start_server: Any, make_controller: Any, folder: Path) -> Any:
    """A server with the controllers of the page."""
    content = read_sidecar(folder / "warm.gguf")
    mood = replace(content.controllers["warm"], name="mood")
    write_sidecar(folder / "warm.gguf", replace(content, controllers={"mood": mood}))
    controllers = [make_controller(4, 32, name=name) for name in ("warmth", "formality")]
    return start_server(controllers, sidecars=folder)


@pytest.mark.parametrize("code", PYTHON)
def test_python_examples_print_an_answer(code: str, documented: Any, capsys: pytest.CaptureFixture[str]) -> None:
    code = code.replace(ADDRESS, documented.url).replace("smollm2", "tiny")
    exec(code, {})
    assert capsys.readouterr().out.strip()


def test_the_page_has_examples() -> None:
    assert (len(PYTHON), len(CURL)) == (2, 3)


@pytest.mark.parametrize("line", CURL)
def test_curl_examples_are_answered(line: str, documented: Any) -> None:
    words = iter(shlex.split(line.replace(ADDRESS, documented.url).replace("smollm2", "tiny")))
    url, method, data, headers = "", "GET", None, {}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-d":
            method, data = "POST", next(words)
        elif word == "-H":
            name, _, value = next(words).partition(": ")
            headers[name] = value
        else:
            url = word
    with documented.http as client:
        response = client.request(method, url, content=data, headers=headers)
    assert response.status_code in (200, 201, 204), response.text


def test_every_path_is_in_the_table(documented: Any) -> None:
    paths = documented.get("/openapi.json").json()["paths"]
    for path in paths:
        assert path.partition("/{")[0] in PAGE
