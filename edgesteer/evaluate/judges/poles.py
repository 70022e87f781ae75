"""Which side a judge looks for: checked in one place for all judges that have sides."""

from __future__ import annotations

from collections.abc import Sequence

from edgesteer.errors import SuiteError


def check_pole(judge: str, wanted: str, poles: Sequence[str]) -> None:
    """Raise SuiteError unless what is wanted is one of the judge's poles."""
    if wanted not in poles:
        raise SuiteError("no such choice", where=f"judge {judge}", expected=f"one of {', '.join(poles)}", found=wanted)
