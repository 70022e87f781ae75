"""edgesteer inspect."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgesteer.cli.inspect import facts
from edgesteer.control_vector import import_control_vector
from edgesteer.inspection import describe_controller


def test_sidecar_is_shown_for_a_person(edgesteer: Any, tiny_sidecar: Any) -> None:
    file = tiny_sidecar("warm")
    result = edgesteer("inspect", file)
    lines = result.out.splitlines()
    assert (result.code, result.err) == (0, "")
    assert lines[0].startswith(f"{file}: sidecar, ")
    assert lines[1] == "for Tiny (llama, 4 blocks, width 32)"
    assert "warm: warm (+) against cold (-)" in lines
    for label, text in {
        "law": "lqr, mode one-sided",
        "blocks": "1,3",
        "default strength": "1",
        "safe range": "-1.5 to 2",
        "sensor": "block 2, target 0.75 above neutral, memory 8 tokens",
    }.items():
        assert f"  {label:<17} {text}" in lines
    assert lines[-4:] == [
        "0      -          1.00        1.00 ± 1.00  0.00 ± 1.00  0.25 ± 1.00",
        "1      2          2.00        1.00 ± 1.00  0.00 ± 1.00  0.25 ± 1.00",
        "2      -          4.00        1.00 ± 1.00  0.00 ± 1.00  0.25 ± 1.00",
        "3      4          3.00        1.00 ± 1.00  0.00 ± 1.00  0.25 ± 1.00",
    ]


@pytest.mark.parametrize(
    ("law", "shown"), [("lqr", "lqr, mode one-sided"), ("pid", "pid, mode one-sided"), ("scheduled", "scheduled")]
)
def test_a_mode_is_shown_where_there_is_a_setpoint(make_controller: Any, law: str, shown: str) -> None:
    assert facts(describe_controller(make_controller(4, 32, law=law, mode="one-sided")))["law"] == shown


def test_a_fixed_target_is_shown_as_a_share_of_the_way(make_controller: Any) -> None:
    controller = make_controller(4, 32)
    fixed = replace(controller, sensor=replace(controller.sensor, reference="fixed", target=0.6))
    assert "target 0.60 of the way from neutral to the pole" in facts(describe_controller(fixed))["sensor"]


def test_json_is_the_description_with_file_and_size(edgesteer: Any, tiny_sidecar: Any) -> None:
    file = tiny_sidecar("warm", "formal")
    shown = json.loads(edgesteer("inspect", file, "--json").out)
    assert list(shown) == ["file", "bytes", "kind", "model", "controllers"]
    assert (shown["file"], shown["bytes"], shown["kind"]) == (str(file), file.stat().st_size, "sidecar")
    assert [each["name"] for each in shown["controllers"]] == ["warm", "formal"]


def test_name_after_the_file_shows_one_controller(edgesteer: Any, tiny_sidecar: Any) -> None:
    shown = json.loads(edgesteer("inspect", f"{tiny_sidecar('warm', 'formal')}#formal", "--json").out)
    assert [each["name"] for each in shown["controllers"]] == ["formal"]


def test_control_vector_is_written_and_shown(edgesteer: Any, tiny_sidecar: Any, tmp_path: Path) -> None:
    vector = tmp_path / "vector.gguf"
    assert edgesteer("inspect", tiny_sidecar("warm"), "--control-vector", vector).code == 0
    # (setpoint 1 - neutral mean 0.25) times the gain's norm
    np.testing.assert_allclose(np.linalg.norm(import_control_vector(vector).gain, axis=1), [1.5, 3.0])
    shown = edgesteer("inspect", vector).out
    assert shown.startswith(f"{vector}: control vector, ")
    assert "separation" not in shown


@pytest.mark.parametrize("kind", ["png", "svg"])
def test_plot_is_drawn_in_the_format_of_its_suffix(
    kind: str, edgesteer: Any, tiny_sidecar: Any, tmp_path: Path
) -> None:
    plot = tmp_path / f"plot.{kind}"
    assert edgesteer("inspect", tiny_sidecar("warm"), "--plot", plot).code == 0
    assert plot.read_bytes().startswith({"png": b"\x89PNG", "svg": b"<?xml"}[kind])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.gguf"], "none.gguf: no such file. Check the path."),
        (["text.gguf"], "text.gguf: not a GGUF file. "),
        (["cut.gguf"], "cut.gguf: file is truncated or corrupt"),
        (["hand.gguf#cold"], "hand.gguf: no such controller; expected warm or formal; found cold."),
        (["hand.gguf", "--control-vector", "a.gguf"], "hand.gguf: holds several controllers; expected warm or formal."),
        (["hand.gguf", "--control-vector", "hand.gguf"], "hand.gguf: would overwrite the file that is read."),
        (["hand.gguf", "--plot", "hand.gguf"], "hand.gguf: would overwrite the file that is read."),
        (["hand.gguf", "--plot", "a.xyz"], "a.xyz: unknown kind of picture; expected "),
        (["hand.gguf", "--plot", "no/a.png"], "no/a.png: cannot be written: its folder does not exist."),
    ],
)
def test_errors(
    arguments: list[str], message: str, edgesteer: Any, tiny_sidecar: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    whole = tiny_sidecar("warm", "formal").read_bytes()
    monkeypatch.chdir(tmp_path)
    Path("text.gguf").write_text("hello")
    Path("cut.gguf").write_bytes(whole[: len(whole) // 2])
    result = edgesteer("inspect", *arguments)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"Error: {message}")
    assert result.err.count("\n") == 1
    assert Path("hand.gguf").read_bytes() == whole
