"""Lines that are read ahead."""

from __future__ import annotations

import io
import threading
from pathlib import Path
from typing import Any

import pytest

from edgesteer.cli import bulk_lines
from edgesteer.cli.bulk_lines import Line, Lines, split_lines
from edgesteer.errors import EdgeSteerError


def test_lines_have_their_numbers_and_sizes_and_blank_ones_are_left_out() -> None:
    assert list(split_lines(io.BytesIO(b"a\n\n  \r\nbc"))) == [Line(1, 2, b"a\n"), Line(4, 2, b"bc")]


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert list(split_lines(io.BytesIO(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"))) == [
        Line(1, 5, b"a\n"),
        Line(2, 5, b"\xef\xbb\xbfb\n"),
    ]


@pytest.mark.parametrize("size", [8, 9, 16, 17])
def test_a_line_that_is_too_long_is_not_kept_and_the_next_one_is(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_lines, "LINE_BYTES", 8)
    long = b"x" * (size - 1) + b"\n"
    kept = long if size == 8 else None
    assert list(split_lines(io.BytesIO(long + b"y\n"))) == [Line(1, size, kept), Line(2, 2, b"y\n")]
    assert list(split_lines(io.BytesIO(b"x" * size))) == [Line(1, size, b"x" * 8 if size == 8 else None)]


class Endless(io.RawIOBase):
    """Lines without an end; counts those that were read."""

    def __init__(self) -> None:
        self.count = 0
        self.enough = threading.Event()

    def readable(self) -> bool:
        return True

    def readline(self, size: int | None = -1, /) -> bytes:
        self.count += 1
        if self.count > 4:
            self.enough.set()
        return b"x\n"


def test_no_more_lines_are_read_than_may_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Endless()
    monkeypatch.setattr(bulk_lines, "open_input", lambda path: (stream, "endless", None))
    lines = Lines(tmp_path, ahead=3)
    assert lines.take(wait=True) == Line(1, 2, b"x\n")
    assert stream.enough.wait(60)  # 3 are held, one was taken, and one waits for a place
    assert stream.count == 5


def test_nothing_is_waited_for_unless_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Endless):
        def readline(self, size: int | None = -1, /) -> bytes:
            self.enough.wait(60)
            return b""

    stream = Slow()
    monkeypatch.setattr(bulk_lines, "open_input", lambda path: (stream, "slow", None))
    lines = Lines(tmp_path, ahead=3)
    assert lines.take(wait=False) is None
    assert not lines.ended
    stream.enough.set()
    assert lines.take(wait=True) is None
    assert lines.ended
    assert lines.take(wait=True) is None


def test_what_goes_wrong_while_reading_reaches_who_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(Endless):
        def readline(self, size: int | None = -1, /) -> bytes:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(bulk_lines, "open_input", lambda path: (Broken(), "broken", None))
    with pytest.raises(OSError, match="Input/output error"):
        Lines(tmp_path, ahead=1).take(wait=True)


def test_a_file_has_a_name_and_a_size(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_bytes(b"abc\n")
    lines: Any = Lines(tmp_path / "in.jsonl", ahead=1)
    assert (lines.name, lines.size) == (str(tmp_path / "in.jsonl"), 4)
    assert lines.take(wait=True) == Line(1, 4, b"abc\n")


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match=r"none\.jsonl: the input cannot be read; found No such file"):
        Lines(tmp_path / "none.jsonl", ahead=1)
