"""What the documents show can be run: commands parse, targets and links exist, example concepts load."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from edgesteer.cli import app
from edgesteer.concept import load_concept

ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
UsageError: type[Exception] = typer.BadParameter.__mro__[1]
"""What the parser raises; typer exports only one of its kinds."""


def fences(page: Path, *languages: str) -> list[tuple[str, str]]:
    """The language and text of every fenced block in some languages."""
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return [(language, text) for language, text in blocks if language in languages]


def commands(program: str) -> list[tuple[str, str]]:
    """Page and arguments of every command line of a program in the pages' sh blocks; pipes are taken apart."""
    lines = [
        (page.name, part.strip())
        for page in PAGES
        for _, text in fences(page, "sh")
        for line in text.replace("\\\n", " ").splitlines()
        for part in line.split("|")
    ]
    return [(page, line.removeprefix(f"{program} ")) for page, line in lines if line.startswith(f"{program} ")]


def parse(line: str) -> None:
    """Parse a command line without running it. Raises KeyError for an unknown command, else the parser's UsageError."""
    command: Any = typer.main.get_command(app)
    arguments = shlex.split(line)
    while hasattr(command, "commands") and not is_command(command, arguments):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)


def is_command(group: Any, arguments: list[str]) -> bool:
    """Whether the first word is an argument of the group itself, as in `profile MODEL`, and names no subcommand."""
    takes_arguments = any(each.param_type_name == "argument" for each in group.params)
    return takes_arguments and arguments[0] not in group.commands


@pytest.mark.parametrize(("page", "line"), commands("edgesteer"))
def test_commands_shown_are_commands_that_exist(page: str, line: str) -> None:
    parse(line)


@pytest.mark.parametrize("line", ["generat smollm2", "generate x --stear a.gguf", "generate x -n few", "generate"])
def test_a_command_that_does_not_exist_is_found_out(line: str) -> None:
    with pytest.raises((KeyError, UsageError)):
        parse(line)


@pytest.mark.parametrize(("page", "line"), commands("make"))
def test_targets_shown_are_targets_that_exist(page: str, line: str) -> None:
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert shlex.split(line)[0] in targets


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_readme_shows_both_commands(target: str) -> None:
    assert ("README.md", target) in commands("make")


def test_ci_runs_the_documented_command() -> None:
    assert "make test" in (ROOT / ".ci" / "run").read_text("utf-8").splitlines()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text("utf-8"))
    assert not [link for link in links if not (page.parent / link).exists()]


@pytest.mark.parametrize("number", range(len(fences(ROOT / "docs" / "concepts.md", "toml", "jsonl"))))
def test_example_concepts_load(number: int, tmp_path: Path) -> None:
    kind, text = fences(ROOT / "docs" / "concepts.md", "toml", "jsonl")[number]
    path = tmp_path / f"concept.{kind}"
    path.write_text(text, "utf-8")
    assert load_concept(path).positive_examples


@pytest.mark.parametrize("picture", sorted((ROOT / "docs").glob("*.png")), ids=lambda path: path.name)
def test_pictures_are_small(picture: Path) -> None:
    assert picture.stat().st_size < 200_000
