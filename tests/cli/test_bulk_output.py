"""The order in which records are written. What is read back from an output is tested in test_bulk.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgesteer.cli.bulk_output import Outbox, Output, difference


class Written(list[Any]):
    """Stands for an Output; keeps what is written."""

    def write(self, record: Any) -> None:
        self.append(record)


@pytest.fixture
def written() -> Any:
    return Written()


def test_in_order_a_record_waits_for_those_before_it(written: Any) -> None:
    outbox = Outbox(written, ordered=True)
    first, second, third = (outbox.place() for _ in range(3))
    outbox.put(third, "c")
    outbox.put(second, "b")
    assert (written, outbox.open) == ([], 3)
    outbox.put(first, "a")
    assert (written, outbox.open) == (["a", "b", "c"], 0)


def test_as_finished_a_record_is_written_at_once(written: Any) -> None:
    outbox = Outbox(written, ordered=False)
    first, second = outbox.place(), outbox.place()
    outbox.put(second, "b")
    assert (written, outbox.open) == (["b"], 1)
    outbox.put(first, "a")
    assert (written, outbox.open) == (["b", "a"], 0)


def test_what_is_held_back_can_be_written_without_what_is_missing(written: Any) -> None:
    outbox = Outbox(written, ordered=True)
    places = [outbox.place() for _ in range(4)]
    outbox.put(places[3], "d")
    outbox.put(places[1], "b")
    outbox.flush()
    assert (written, outbox.open) == (["b", "d"], 2)


def test_a_record_is_a_line_that_is_flushed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with Output(path, {"model": "m"}) as output:
        output.write({"id": "é\u2028", "sample": 0, "alpha": float("nan")})
        lines = path.read_bytes().decode("ascii").split("\n")
        assert [json.loads(line) for line in lines[:-1]] == [
            {"id": "é\u2028", "sample": 0, "alpha": None, "settings": {"model": "m"}}
        ]
        assert lines[-1] == ""


def test_an_error_has_no_settings(tmp_path: Path) -> None:
    with Output(tmp_path / "out.jsonl", {"model": "m"}) as output:
        output.write({"id": None, "error": "e"})
    assert json.loads((tmp_path / "out.jsonl").read_bytes()) == {"id": None, "error": "e"}


def test_difference_names_what_changed_came_and_went() -> None:
    old, new = {"a": 1, "b": "x", "c": [2]}, {"a": 1, "b": "y", "d": True}
    assert difference(old, new) == 'b "x", now "y", c [2], now as by default, d as by default, now true'
