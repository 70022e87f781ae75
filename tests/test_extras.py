"""A missing optional package becomes a pip line."""

from __future__ import annotations

import importlib.metadata

import pytest

from edgesteer.errors import MissingExtraError
from edgesteer.extras import missing_packages, needs_extra

REQUIREMENTS = [
    "numpy>=1.26",
    "tomli>=2; python_version < '3.11'",
    "no-such-package>=1; extra == 'plot'",
    'no.other_package[more]<2,>=1 ; extra == "plot"',
    "pytest; extra == 'plot'",
    'pytest>=8; python_version >= "3.10" and extra == "eval"',
    'pytest>=8; extra == "hub"',
    "no-such-package; extra == 'dev'",
    "no-such-package; extra == 'bench'",
]


def test_missing_package_is_named_with_its_pip_line() -> None:
    line = r"""optional Python package; found No module named 'no_such_package'. Run: pip install "edgesteer\[hub\]"$"""
    with pytest.raises(MissingExtraError, match=line), needs_extra("hub"):
        import no_such_package  # type: ignore[import-not-found]  # noqa: F401


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), needs_extra("hub"):
        raise ZeroDivisionError


def test_packages_that_are_not_installed_are_told_by_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: REQUIREMENTS)
    expected = {"plot": ["no-such-package", "no.other_package"], "eval": [], "hub": []}
    assert missing_packages() == expected


def test_every_extra_for_users_is_looked_at() -> None:
    extras = set(importlib.metadata.metadata("edgesteer").get_all("Provides-Extra") or ())
    assert missing_packages().keys() == extras - {"bench", "dev"}
