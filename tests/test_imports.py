"""Who may import whom. Read from the sources, so that an import inside a function counts as well."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("edgesteer", "export", "runtime", "models")

TIERS = (
    ("errors",),
    (
        "chat", "concept", "control", "controller", "extras", "files", "fingerprint", "gguf_fields", "gguf_file",
        "progress", "scratch", "tokens", "trial",
    ),
    ("control_vector", "dynamics", "inspection", "plot", "registry", "sidecar", "steering_file"),
    ("export", "runtime"),
    ("doctor", "evaluate", "learn", "profile", "serve", "tune"),
    ("__main__", "cli"),
)
"""A part of edgesteer may import its own tier and those before it. `models` is data and imports nothing."""


def python_files() -> list[Path]:
    return sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))


def module_name(path: Path) -> str:
    """edgesteer.export.weights of export/weights.py."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "edgesteer" else ("edgesteer", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): ast.parse(path.read_text("utf-8")) for path in python_files()}


def imports(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of everything that a module imports: modules, and names out of modules."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: relative ones must not cross the folder map"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_modules(module: str) -> set[str]:
    """The modules of edgesteer that a module imports."""
    names = imports(MODULES[module])
    found = {name if name in MODULES else name.rpartition(".")[0] for name in names}
    return (found & MODULES.keys()) - {"edgesteer", module}


def foreign_packages(module: str) -> set[str]:
    return {name.split(".")[0] for name in imports(MODULES[module])}


def part_of(module: str) -> str:
    """`export` of edgesteer.export.weights, but `__main__` of edgesteer.export.__main__."""
    parts = module.split(".")
    return parts[-1] if parts[-1] == "__main__" else "".join(parts[1:2])


def tier_of(module: str) -> int:
    return next((number for number, parts in enumerate(TIERS) if part_of(module) in parts), -1)


def loaded_after(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter has loaded after a statement."""
    code = f"import sys; {statement}; sys.stdout.write(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    return {name.split(".")[0] for name in done.stdout.split()}


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_only_export_imports_pytorch(package: str) -> None:
    importers = {part_of(module) for module in MODULES if package in foreign_packages(module)}
    assert importers == {"export"}


def test_only_runtime_imports_llama_cpp() -> None:
    importers = {part_of(module) for module in MODULES if "llama_cpp" in foreign_packages(module)}
    assert importers == {"runtime"}


@pytest.mark.parametrize(("importer", "imported"), [("export", "runtime"), ("runtime", "export")])
def test_export_and_runtime_meet_only_in_the_sidecar(importer: str, imported: str) -> None:
    importers = [module for module in MODULES if part_of(module) == importer]
    reached = {part_of(found) for module in importers for found in imported_modules(module)}
    assert importer in reached
    assert imported not in reached


def test_every_part_has_a_tier() -> None:
    parts = {part_of(module) for module in MODULES} - {"", "models"}
    assert parts == {part for tier in TIERS for part in tier}


@pytest.mark.parametrize("module", [m for m in MODULES if part_of(m) not in ("", "models")])
def test_a_module_imports_only_its_own_tier_and_those_before(module: str) -> None:
    upwards = {name for name in imported_modules(module) if tier_of(name) > tier_of(module)}
    assert not upwards


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert list(TopologicalSorter({module: imported_modules(module) for module in MODULES}).static_order())


@pytest.mark.parametrize("module", ["edgesteer", "edgesteer.registry", "edgesteer.steering_file", "edgesteer.cli"])
def test_no_engine_is_loaded_before_it_is_used(module: str) -> None:
    heavy = {"torch", "transformers", "llama_cpp", "matplotlib", "fastapi", "prompt_toolkit"}
    assert not heavy & loaded_after(f"import {module}")


@pytest.mark.parametrize("module", [module for module in MODULES if part_of(module) != "cli"])
def test_only_the_command_line_prints(module: str) -> None:
    uses = [node for node in ast.walk(MODULES[module]) if isinstance(node, ast.Name) and node.id == "print"]
    assert not [use.lineno for use in uses]
