"""A judge's table in a suite, checked against the function that makes the judge: its parameters are the fields."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edgesteer.errors import SuiteError


def is_text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())


def is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= 1


def is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(map(is_text, value))


TYPES: dict[str, tuple[str, Callable[[object], bool]]] = {
    "str": ("a text", is_text),
    "Path": ("a path", is_text),
    "float": ("a number above 0, and 1 at most", is_share),
    "Sequence[str]": ("a list of texts", is_texts),
}
"""What a field must be, by the annotation of its parameter."""


def arguments(function: Callable[..., Any], table: Mapping[str, Any], where: str, folder: Path) -> dict[str, Any]:
    """Return a table's fields as arguments of a function; paths begin in folder.

    Raises SuiteError for a field that is unknown, missing or of another type.
    """
    parameters = inspect.signature(function).parameters
    if unknown := table.keys() - parameters.keys():
        raise SuiteError(f"unknown field {min(unknown)!r}", where=where, expected=f"only {', '.join(parameters)}")
    for parameter in parameters.values():
        if parameter.default is parameter.empty and parameter.name not in table:
            raise SuiteError(f"field {parameter.name!r} is missing", where=where)
    return {key: _value(parameters[key], value, where, folder) for key, value in table.items()}


def _value(parameter: inspect.Parameter, value: object, where: str, folder: Path) -> object:
    kind = str(parameter.annotation).removesuffix(" | None")
    expected, fits = TYPES[kind]
    if not fits(value):
        raise SuiteError(f"{parameter.name} cannot be used", where=where, expected=expected, found=repr(value))
    return folder / str(value) if kind == "Path" else value
