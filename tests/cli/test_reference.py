"""docs/cli.md."""

from __future__ import annotations

from pathlib import Path

from edgesteer.cli.reference import reference
from edgesteer.controller import LAWS

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"


def test_page_is_current() -> None:
    assert PAGE.read_text("utf-8") == reference(), "run `make docs`"


def test_page_shows_defaults_of_the_library_and_choices() -> None:
    page = reference()
    assert f"- `--law` `{'|'.join(LAWS)}[,...]`: " in page
    assert "- `--seed`, `-s`: " in page
    assert "Default: 0.95." in page
    assert "Default: the controller's." in page
