"""Optional dependencies: a missing one becomes the pip line that brings it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from edgesteer.errors import MissingExtraError


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
