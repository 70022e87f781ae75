"""A missing optional package becomes a pip line."""

from __future__ import annotations

import pytest

from edgesteer.errors import MissingExtraError
from edgesteer.extras import needs_extra


def test_missing_package_is_named_with_its_pip_line() -> None:
    line = r"""optional Python package; found No module named 'no_such_package'. Run: pip install "edgesteer\[hub\]"$"""
    with pytest.raises(MissingExtraError, match=line), needs_extra("hub"):
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), needs_extra("hub"):
        raise ZeroDivisionError
