"""The public surface: what `import edgesteer` gives."""

from __future__ import annotations

from types import ModuleType

import edgesteer


def test_exported_members_are_what_is_there_sorted() -> None:
    public = sorted(
        name
        for name, value in vars(edgesteer).items()
        if not name.startswith("_") and not isinstance(value, ModuleType) and name not in ("annotations", "version")
    )
    assert edgesteer.__all__ == sorted([*public, "__version__"])


def test_every_error_is_exported() -> None:
    from edgesteer import errors

    classes = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert classes <= set(edgesteer.__all__)
