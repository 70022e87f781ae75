"""edgesteer certify: from a sidecar to one with bounds, on the tiny model, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.cli.inspect import tracking_error
from edgesteer.concept import load_concept, resolve_concept
from edgesteer.controller import Provenance
from edgesteer.sidecar import Sidecar, read_sidecar, write_sidecar

QUICK = ("--texts", 4, "--risk", 0.2, "--jacobian-prompts", 1)


@pytest.fixture
def certified(edgesteer: Any, tiny_model: Any, tiny_steer: Any, tmp_path: Path) -> Path:
    sidecar = tiny_steer(mode="one-sided")
    output = tmp_path / "certified.gguf"
    result = edgesteer("certify", tiny_model.folder, sidecar, "-o", output, "-q", *QUICK)
    assert (result.code, result.out, result.err) == (0, "", "")
    assert read_sidecar(sidecar).controllers["warm"].certificate is None
    return output


@pytest.mark.torch
def test_bound_goes_into_the_sidecar_and_changes_nothing_else(certified: Path) -> None:
    controller = read_sidecar(certified).controllers["warm"]
    uncertified = read_sidecar(certified.with_name("warm.gguf")).controllers["warm"]
    assert controller.certificate is not None
    assert (controller.certificate.texts, controller.certificate.risk) == (4, 0.2)
    assert np.array_equal(controller.gain, uncertified.gain)
    assert controller.blocks == uncertified.blocks


@pytest.mark.torch
def test_run_prints_the_bound_beside_its_error(edgesteer: Any, tiny_model: Any, certified: Path) -> None:
    result = edgesteer("generate", tiny_model.gguf, "-p", "the", "--steer", f"{certified}=1", "-n", 4, "-t", 1, "-v")
    assert result.code == 0, result.err
    assert " -> " in result.err
    assert " exceeded " in result.err


@pytest.mark.torch
def test_json_counts_by_block(edgesteer: Any, tiny_model: Any, certified: Path) -> None:
    command = ("generate", tiny_model.gguf, "-p", "the", "--steer", f"{certified}=1", "-n", 4, "-t", 1, "--json")
    report = json.loads(edgesteer(*command).out)["telemetry"][0]
    assert len(report["violations"]) == len(report["checks"]) == len(report["blocks"])
    assert all(0 <= v <= c <= 4 for v, c in zip(report["violations"], report["checks"], strict=True))
    assert sum(report["checks"]) > 0


@pytest.mark.torch
def test_sidecar_itself_is_the_output_by_default(edgesteer: Any, tiny_model: Any, tiny_steer: Any) -> None:
    sidecar = tiny_steer()
    result = edgesteer("certify", tiny_model.folder, sidecar, *QUICK)
    assert result.code == 0, result.err
    assert read_sidecar(sidecar).controllers["warm"].certificate is not None
    first, headers, *rows = result.out.splitlines()
    assert first.startswith("warm: tracking error after control, up: ")
    assert headers.split() == ["block", "unsteered", "(up)", "measured", "bound", "unsteered", "(down)", "measured",
                               "bound"]  # fmt: skip
    assert [row.split()[0] for row in rows] == ["0", "1", "2", "3"]


@pytest.mark.torch
def test_other_controllers_of_the_file_are_kept(
    edgesteer: Any, tiny_model: Any, tiny_llama: Any, make_controller: Any, tmp_path: Path
) -> None:
    controllers = {name: make_controller(4, 32, name=name, law=law) for name, law in (("a", "lqr"), ("b", "add"))}
    write_sidecar(tmp_path / "two.gguf", Sidecar(tiny_llama.fingerprint, controllers))
    result = edgesteer("certify", tiny_model.folder, tmp_path / "two.gguf", "--controller", "a", "-q", *QUICK)
    assert result.code == 0, result.err
    read = read_sidecar(tmp_path / "two.gguf").controllers
    assert (read["a"].certificate is not None, read["b"].certificate) == (True, None)


@pytest.mark.torch
def test_sidecar_of_another_model_is_refused(edgesteer: Any, tiny_model: Any, tiny_sidecar: Any) -> None:
    before = tiny_sidecar().read_bytes()
    result = edgesteer("certify", tiny_model.folder, tiny_sidecar(), *QUICK)
    assert result.code == 1
    assert "hand.gguf" in result.err
    assert result.err.splitlines()[-1].startswith("Error: ")
    assert tiny_sidecar().read_bytes() == before


@pytest.mark.torch
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--controller", "cold"], "no such controller; expected warm; found cold"),
        (["--texts", "4"], "texts is out of range; expected at least 1 / risk - 1; found 4"),
        (["--concept", "nope"], "nope: no such concept"),
        (["-o", "no/a.gguf"], "no/a.gguf: cannot be written: its folder does not exist"),
    ],
)
def test_errors_are_lines(
    arguments: list[str], message: str, edgesteer: Any, tiny_model: Any, tiny_steer: Any
) -> None:
    result = edgesteer("certify", tiny_model.folder, tiny_steer(), *arguments)
    assert (result.code, result.out) == (1, "")
    assert message in result.err
    assert result.err.count("\n") == 1


@pytest.mark.torch
def test_law_without_a_bound_is_refused_before_the_model_is_loaded(
    edgesteer: Any, tiny_model: Any, tiny_steer: Any
) -> None:
    result = edgesteer("certify", tiny_model.folder, tiny_steer(law="add"))
    assert result == (1, "", "Error: warm: this law has no bound; expected lqr or a-lqr; found add\n")


def test_texts_that_the_controller_was_made_from_are_refused(
    edgesteer: Any, tiny_model: Any, tiny_llama: Any, make_controller: Any, tmp_path: Path
) -> None:
    used = load_concept(resolve_concept("warmth"))
    made = replace(make_controller(4, 32, name="warm"), provenance=Provenance(concept_sha256=used.sha256))
    write_sidecar(tmp_path / "warm.gguf", Sidecar(tiny_llama.fingerprint, {"warm": made}))
    result = edgesteer("certify", tiny_model.folder, tmp_path / "warm.gguf", "--concept", "warmth")
    assert result.code == 1
    assert result.err.startswith("Error: warmth: the texts are not held out; found warm was made from them.")


def test_missing_torch_names_the_pip_line(start: Any, tiny_model: Any, tiny_steer: Any) -> None:
    with start("certify", tiny_model.folder, tiny_steer(), prelude="sys.modules['torch'] = None") as process:
        assert process.wait(timeout=60) == 1
        assert process.stderr.read().endswith('Run: pip install "edgesteer[export]"\n')


def test_inspection_says_what_the_bound_covers() -> None:
    shown = {
        "positive": "warm", "negative": "cold", "scale": 0.5,
        "certificate": {
            "level": 1.0, "mode": "hold", "risk": 0.05, "bound": [[[5, 5], [3, 4]], [[9, 9], [6, 8]]],
            "measured": [[[5, 5], [0, 1]], [[9, 9], [1, 1]]],
        },
    }  # fmt: skip
    assert tracking_error(shown) == (
        "warm: 5.00 -> 0.71, bound 3.54; cold: 9.00 -> 1.00, bound 7.07; for 95% of a text's tokens, up to strength 2 "
        "in mode hold"
    )
