"""Optional dependencies: a missing one becomes the pip line that brings it."""

from __future__ import annotations

import importlib.metadata
import re
from collections.abc import Iterator
from contextlib import contextmanager

from edgesteer.errors import MissingExtraError

OF_EXTRA = re.compile(r"""(?P<package>[\w.-]+).*;.*\bextra *== *["'](?P<extra>[\w-]+)["']""")
FOR_DEVELOPERS = ("bench", "dev")


@contextmanager
def needs_extra(extra: str) -> Iterator[None]:
    """Run a body that imports the packages of an extra of edgesteer.

    Raises MissingExtraError when one of them is missing or cannot be loaded.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtraError(
            "this needs an optional Python package", found=error, remedy=f'Run: pip install "edgesteer[{extra}]"'
        ) from error


def missing_packages() -> dict[str, list[str]]:
    """Return, by extra, the packages of it that are not installed; extras for developers are left out.

    Raises importlib.metadata.PackageNotFoundError when edgesteer itself is not installed.
    """
    missing: dict[str, list[str]] = {}
    for requirement in importlib.metadata.requires("edgesteer") or ():
        match = OF_EXTRA.match(requirement)
        if match and match["extra"] not in FOR_DEVELOPERS:
            absent = missing.setdefault(match["extra"], [])
            absent += [] if is_installed(match["package"]) else [match["package"]]
    return missing


def is_installed(package: str) -> bool:
    """Return whether a distribution is there, by its name on PyPI; it is not loaded."""
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
