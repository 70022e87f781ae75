"""The document's files, and that every document fits the schema that is shipped with them."""

from __future__ import annotations

import copy
import csv
import importlib.resources
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from edgesteer.errors import EdgeSteerError
from edgesteer.profile.document import FORMAT, VERSION, read_document, write_csv, write_json
from edgesteer.profile.sweep import Cell, Settings, Sweep

Make = Callable[..., Any]
SCHEMA = json.loads((importlib.resources.files("edgesteer.profile") / "profile.schema.json").read_text("utf-8"))
TRACE = {
    "by_kind": [{"name": "attention", "calls": 3, "ms": 1.5, "share": 0.5}],
    "by_block": [{"name": "block 0", "calls": 3, "ms": 1.5, "share": 0.5}],
    "overhead": "None.",
}


def validate(document: dict[str, Any]) -> None:
    jsonschema_rs.validator_for(SCHEMA).validate(document)


@pytest.fixture
def document(make_sweep: Make, document_of: Make) -> dict[str, Any]:
    made: dict[str, Any] = document_of(make_sweep(), trace=TRACE)
    return made


# ---- the schema ----


def test_the_schema_is_one(document: dict[str, Any]) -> None:
    jsonschema_rs.meta.validate(SCHEMA)


def test_a_document_fits_the_schema(document: dict[str, Any]) -> None:
    validate(document)


@pytest.mark.parametrize(
    "options", [{"n": 1}, {"n": 12, "steered": False}, {"n": 2, "energy": False}], ids=["once", "plain", "no meter"]
)
def test_other_documents_fit_the_schema(options: dict[str, Any], make_sweep: Make, document_of: Make) -> None:
    energy = options.get("energy", True)
    validate(document_of(make_sweep(options.pop("n"), **options), energy=energy))


def test_a_run_that_ended_before_it_began_fits_the_schema(document_of: Make) -> None:
    sweep = Sweep(Path("tiny.gguf"), Settings(), stopped="the time is up")
    validate(document_of(sweep))


def test_devices_are_told_where_they_were_chosen(make_sweep: Make, document_of: Make) -> None:
    sweep, devices = make_sweep(), {"rpc": ("a:1",), "device": ("RPC0",), "tensor_split": (1.0,)}
    chosen = document_of(replace(sweep, settings=replace(sweep.settings, devices=devices)))
    validate(chosen)
    assert chosen["settings"]["devices"] == {"rpc": ["a:1"], "device": ["RPC0"], "tensor_split": [1.0]}
    assert "devices" not in document_of(sweep)["settings"]


def test_the_schema_has_the_version_of_the_document(document: dict[str, Any]) -> None:
    assert SCHEMA["$defs"]["profile"]["properties"]["version"] == {"const": VERSION}
    assert (document["format"], document["version"]) == (FORMAT, VERSION)


@pytest.mark.parametrize(
    "change",
    [
        lambda document: document.update(version=VERSION + 1),
        lambda document: document.update(more=1),
        lambda document: document.pop("machine"),
        lambda document: document["series"][0].pop("batch"),
        lambda document: document["series"][0]["samples"][0].update(ttft_ms=["fast"]),
        lambda document: document["series"][0]["energy"]["package"].update(volts=1.0),
    ],
)
def test_the_schema_refuses_other_documents(change: Callable[[Any], Any], document: dict[str, Any]) -> None:
    changed = copy.deepcopy(document)
    change(changed)
    with pytest.raises(jsonschema_rs.ValidationError):
        validate(changed)


# ---- files ----


def test_a_document_is_read_back_as_it_was(document: dict[str, Any], tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", document)
    assert read_document(tmp_path / "a.json") == document


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not a JSON file"),
        (b"\xff\xfe{}", "not a JSON file"),
        (b"[]", "not a profile"),
        (b"{}", "not a profile"),
        (b'{"format": "edgesteer quantizations", "version": 1}', "not a profile"),
        (b'{"format": "edgesteer profile", "version": 999}', "another version; expected 1; found 999"),
    ],
)
def test_other_files_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    path.write_bytes(content)
    with pytest.raises(EdgeSteerError, match=message):
        read_document(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="cannot be read"):
        read_document(tmp_path / "none.json")


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_line_for_every_request(document: dict[str, Any], tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", document)
    rows = rows_of(tmp_path / "a.csv")
    assert len(rows) == 2 * 12 * 2
    assert rows[1] == {
        "model": str(Path("models") / "tiny.gguf"), "variant": "unsteered", "prompt_len": "100", "gen_len": "11",
        "batch": "2", "threads": "1", "n_gpu_layers": "0", "repeat": "0", "request": "1", "started_s": "1.0",
        "megahertz": "3000.0", "ttft_ms": "1000.0", "tpot_ms": "50.0", "ttlt_ms": "1500.0",
        "prefill_joules[package]": "10.0", "prefill_joules[GPU 0]": "20.0",
        "decode_joules[package]": "5.0", "decode_joules[GPU 0]": "10.0",
    }  # fmt: skip


def test_csv_of_texts_of_one_token_leaves_their_time_per_token_out(
    make_sweep: Make, document_of: Make, tmp_path: Path
) -> None:
    document = document_of(make_sweep(1, Cell(100, 1, 2, 1, 0), steered=False, energy=False), energy=False)
    document["series"][0]["samples"][0]["tpot_ms"] = []
    write_csv(tmp_path / "a.csv", document)
    assert [(row["ttft_ms"], row["tpot_ms"]) for row in rows_of(tmp_path / "a.csv")] == [("800.0", ""), ("1000.0", "")]


def test_csv_of_nothing_is_a_header(document_of: Make, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", document_of(Sweep(Path("tiny.gguf"), Settings())))
    assert rows_of(tmp_path / "a.csv") == []
