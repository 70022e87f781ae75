"""docs/python.md: each example runs in a Python of its own, on SmolLM2."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edgesteer.sidecar import read_sidecar, write_sidecar

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
EXAMPLES = re.findall(r"^## (.+?)$.*?^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
OUTPUT = {
    "3. A conversation": r"0 of \d+ tokens were there already: .*\n[1-9]\d* of",
    "4. Turning a dial": r"(?s)-1 .*\n0 .*\n1 ",
    "6. What the loop measured": r"tracking error \d\.\d\d before control, \d\.\d\d after",
    "9. Sampling, and text that must parse": r"^(good|bad)$",
    "10. Controllers that come and go": r"no such controller",
}
"""What some examples must print; the others must print something."""


@pytest.fixture(scope="module")
def folder(smollm2_sidecar: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sidecars that the page speaks of; here both hold `ocean`, under their names."""
    folder = tmp_path_factory.mktemp("examples")
    content = read_sidecar(smollm2_sidecar)
    (controller,) = content.controllers.values()
    for file, name in (("warm.gguf", "warmth"), ("formal.gguf", "formality")):
        write_sidecar(folder / file, replace(content, controllers={name: replace(controller, name=name)}))
    return folder


def test_there_are_ten() -> None:
    assert [title.split(".")[0] for title, _ in EXAMPLES] == [str(number) for number in range(1, 11)]
    assert set(OUTPUT) <= {title for title, _ in EXAMPLES}


@pytest.mark.llama
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize(("title", "code"), EXAMPLES, ids=[title for title, _ in EXAMPLES])
def test_example_runs(title: str, code: str, folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert re.search(OUTPUT.get(title, r"\w"), done.stdout), done.stdout
