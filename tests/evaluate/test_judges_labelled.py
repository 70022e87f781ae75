"""Labelled texts, and accuracy on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgesteer.errors import JudgeError
from edgesteer.evaluate.judges.labelled import accuracy_of, read_labelled


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_texts_and_labels_are_read_in_order(tmp_path: Path) -> None:
    found = read_labelled(written(tmp_path / "a.tsv", "warm\t1\ncold\t0\n\nmild\t1\n"))
    assert found.texts == ("warm", "cold", "mild")
    assert found.carries.tolist() == [True, False, True]
    assert found.names == ("0", "1")


def test_a_header_a_byte_order_mark_and_windows_line_ends_are_no_trouble(tmp_path: Path) -> None:
    found = read_labelled(written(tmp_path / "a.tsv", "\ufefftext\tlabel\r\nwarm\t1\r\ncold\t0"))
    assert (found.texts, found.names) == (("warm", "cold"), ("0", "1"))


def test_a_text_that_stands_twice_counts_once_with_its_first_label(tmp_path: Path) -> None:
    found = read_labelled(written(tmp_path / "a.tsv", "warm\t1\ncold\t0\nwarm\t1\ncold\t1\n"))
    assert (found.texts, found.carries.tolist()) == (("warm", "cold"), [True, False])


def test_a_line_may_hold_unusual_line_separators(tmp_path: Path) -> None:
    assert read_labelled(written(tmp_path / "a.tsv", "a\u2028b\t1\nc\x0cd\t0\n")).texts == ("a\u2028b", "c\x0cd")


def test_the_positive_label_is_the_one_that_is_named(tmp_path: Path) -> None:
    path = written(tmp_path / "a.tsv", "warm\tyes\ncold\tno\n")
    assert read_labelled(path, "no").carries.tolist() == [False, True]
    assert read_labelled(path, "no").names == ("yes", "no")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("warm\t1\ncold\n", "line 2: not a labelled text; expected a text, one tab and a label; found 1 column"),
        ("warm\t1\t2\n", "line 1: not a labelled text; expected a text, one tab and a label; found 3 columns"),
        ("warm\t1\n\t0\n", "line 2: not a labelled text; expected a text, one tab and a label; found an empty column"),
        ("", "the texts need two labels; expected two; found no texts"),
        ("warm\t1\nmild\t1\n", "the texts need two labels; expected two; found '1' (2)"),
        ("a\t1\nb\t2\nc\t3\n", "the texts need two labels; expected two; found '1' (1), '2' (1), '3' (1)"),
        ("a\tyes\nb\tno\n", "which label carries the concept is not clear; expected one of 'yes' (1), 'no' (1)"),
        (b"caf\xe9\t1\n", "the file cannot be read; found not UTF-8"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(JudgeError) as error:
        read_labelled(written(tmp_path / "a.tsv", content))
    assert message in str(error.value)
    assert "a.tsv" in str(error.value)


def test_a_label_that_no_text_has_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JudgeError, match=r"expected one of '1' \(1\), '0' \(1\); found yes"):
        read_labelled(written(tmp_path / "a.tsv", "a\t1\nb\t0\n"), "yes")


def test_accuracy_by_hand() -> None:
    verdicts, carries = np.ones(10, dtype=bool), np.array([True] * 8 + [False] * 2)
    accuracy = accuracy_of(verdicts, carries)
    assert (accuracy.value, accuracy.n, accuracy.chance) == (0.8, 10, 0.8)
    assert (accuracy.low, accuracy.high) == pytest.approx((0.490, 0.943), abs=0.001)  # Wilson 1927
    assert str(accuracy) == "0.800 [0.490, 0.943] right of 10 (chance 0.800)"
