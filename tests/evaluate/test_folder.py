"""The files of an experiment: what a kill, another experiment or a foreign file may leave there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.evaluate.folder import RESULTS, ResultsFolder, read_records

SETTINGS = {"model": "abc", "samples": 2, "threads": 1}


@pytest.fixture
def records(make_record: Any) -> list[Any]:
    return [make_record(prompt=prompt, text=f"Of {prompt}, “quoted”.", dogs=0.5) for prompt in "abc"]


@pytest.fixture
def folder(tmp_path: Path, records: list[Any]) -> Path:
    """A folder with two of three records."""
    with ResultsFolder(tmp_path / "run", SETTINGS) as made:
        for record in records[:2]:
            made.append(record)
    return tmp_path / "run"


def test_a_resumed_folder_has_its_records(folder: Path, records: list[Any]) -> None:
    with ResultsFolder(folder, SETTINGS) as resumed:
        assert resumed.records == records[:2]
        resumed.append(records[2])
    assert read_records(folder) == records


def test_a_torn_last_line_is_dropped(folder: Path, records: list[Any]) -> None:
    with (folder / RESULTS).open("a") as file:
        file.write(records[2].to_line()[:-7])
    with ResultsFolder(folder, SETTINGS) as resumed:
        assert resumed.records == records[:2]
        resumed.append(records[2])
    assert read_records(folder) == records


def test_of_a_text_that_stands_twice_one_is_kept(folder: Path, records: list[Any]) -> None:
    with ResultsFolder(folder, SETTINGS) as resumed:
        resumed.append(records[0])
        resumed.finish(records)
    assert (folder / RESULTS).read_text("utf-8").splitlines() == [record.to_line() for record in records]


def test_another_experiment_is_refused_with_what_differs(folder: Path) -> None:
    with pytest.raises(EdgeSteerError, match=r"another experiment; expected samples 3; found samples 2.*--force"):
        ResultsFolder(folder, {**SETTINGS, "samples": 3})
    assert len(read_records(folder)) == 2


def test_force_starts_anew(folder: Path) -> None:
    assert ResultsFolder(folder, {**SETTINGS, "samples": 3}, force=True).records == []
    assert read_records(folder) == []


def test_results_of_somebody_else_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text("mine\n")
    with pytest.raises(EdgeSteerError, match="not the header of an experiment"):
        ResultsFolder(tmp_path, SETTINGS)
    assert (tmp_path / RESULTS).read_text() == "mine\n"


def test_a_line_that_is_no_record_is_named(folder: Path) -> None:
    with (folder / RESULTS).open("a") as file:
        file.write('{"arm": 1}\n')
    with pytest.raises(EdgeSteerError, match=r"results\.jsonl, line 3: not a record"):
        ResultsFolder(folder, SETTINGS)


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeSteerError, match="cannot be made"):
        ResultsFolder(tmp_path / "file" / "run", SETTINGS)
