"""What the library declares, read from its source: defaults, the docstrings of fields, and choices.

Importing those modules would load torch or llama.cpp, which `--help` must not do; and nothing is written down twice.
"""

from __future__ import annotations

import ast
import importlib.util
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple


class Field(NamedTuple):
    """One field of a dataclass; its annotation is the source text, its doc the string below it."""

    name: str
    annotation: str
    default: Any
    doc: str


def fields_of(module: str, dataclass: str) -> list[Field]:
    """Return the fields of a dataclass that have a literal default, in order, those that it inherits first."""
    found = _class(module, dataclass)
    body = found.body
    inherited = [
        field
        for base in found.bases
        if isinstance(base, ast.Name)
        for field in fields_of(_origin(module, base.id), base.id)
    ]
    return inherited + [
        Field(each.target.id, ast.unparse(each.annotation), ast.literal_eval(each.value or ""), _string(following))
        for each, following in zip(body, [*body[1:], None], strict=True)
        if isinstance(each, ast.AnnAssign) and isinstance(each.target, ast.Name) and _is_literal(each.value)
    ]


def field_default(module: str, dataclass: str, field: str) -> Any:
    """Return the default of one field."""
    return next(each.default for each in fields_of(module, dataclass) if each.name == field)


def keyword_default(module: str, class_name: str, parameter: str) -> Any:
    """Return the default of a keyword-only parameter of a class's __init__."""
    functions = (each for each in _class(module, class_name).body if isinstance(each, ast.FunctionDef))
    arguments = next(each for each in functions if each.name == "__init__").args
    defaults = {each.arg: value for each, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)}
    return ast.literal_eval(defaults[parameter] or "")


def constant(module: str, name: str) -> Any:
    """Return the value of a literal that a module assigns to a name."""
    return next(
        ast.literal_eval(each.value)
        for each in _tree(module).body
        if isinstance(each, ast.Assign) and ast.unparse(each.targets[0]) == name
    )


@cache
def _tree(module: str) -> ast.Module:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.parse(Path(spec.origin).read_text(encoding="utf-8"))


def _origin(module: str, name: str) -> str:
    """Return the module that a name of a module comes from."""
    imports = (each for each in _tree(module).body if isinstance(each, ast.ImportFrom))
    return next((str(each.module) for each in imports if name in [alias.name for alias in each.names]), module)


def _class(module: str, name: str) -> ast.ClassDef:
    return next(each for each in _tree(module).body if isinstance(each, ast.ClassDef) and each.name == name)


def _is_literal(value: ast.expr | None) -> bool:
    try:
        return value is not None and ast.literal_eval(value) is not ...
    except ValueError:
        return False


def _string(statement: ast.stmt | None) -> str:
    """Return the text of a statement that is a string, as one line, or ""."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return " ".join(str(statement.value.value).split())
    return ""
