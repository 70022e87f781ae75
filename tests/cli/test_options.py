"""Options that come from the library: that what is read from its sources is what it does."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest

from edgesteer.cli import options
from edgesteer.cli.declared import constant, fields_of, keyword_default
from edgesteer.cli.options import (
    KINDS,
    check_output,
    device_options,
    format_blocks,
    options_from,
    parse_blocks,
    parse_shares,
)
from edgesteer.errors import EdgeSteerError, SteeringError

CLASSES = [("edgesteer.export.pipeline", "ExportOptions"), ("edgesteer.runtime.sampling", "Sampling")]
OPTION_CLASSES = [
    pytest.param(*CLASSES[0], marks=pytest.mark.torch),
    pytest.param("edgesteer.export.weights", "LoadOptions", marks=pytest.mark.torch),
    CLASSES[1],
]
SAMPLE = '''
CHOICES = ("a", "b")

class Options:
    """Some."""

    size: int = 3
    """How
    large."""
    ratio: float = -0.5
    table: dict[str, float] | None = None
    needed: str

    def __init__(self, *, depth: int = 7, required: int) -> None:
        self.size = depth
'''


@pytest.fixture
def sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "declared_sample.py").write_text(SAMPLE)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "declared_sample"


def test_fields_are_read_with_their_docstrings(sample: str) -> None:
    assert fields_of(sample, "Options") == [
        ("size", "int", 3, "How large."),
        ("ratio", "float", -0.5, ""),
        ("table", "dict[str, float] | None", None, ""),
    ]


def test_keyword_default_and_constant_are_read(sample: str) -> None:
    assert keyword_default(sample, "Options", "depth") == 7
    assert constant(sample, "CHOICES") == ("a", "b")


@pytest.mark.parametrize(("module", "name"), OPTION_CLASSES)
def test_declared_fields_are_the_dataclasses(module: str, name: str) -> None:
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    assert [(each.name, each.default) for each in fields] == [(f.name, f.default) for f in fields_of(module, name)]


@pytest.mark.parametrize(("module", "name"), OPTION_CLASSES)
def test_every_option_has_a_docstring(module: str, name: str) -> None:
    assert [each.name for each in fields_of(module, name) if not each.doc] == []


def test_only_what_fits_no_option_is_left_out() -> None:
    fields = {f.name: f.annotation for module, name in CLASSES for f in fields_of(module, name)}
    assert [name for name, annotation in fields.items() if annotation not in KINDS] == ["logit_bias"]


def test_defaults_of_generate_are_the_librarys() -> None:
    from edgesteer.runtime.engine import Engine
    from edgesteer.runtime.model import LlamaModel
    from edgesteer.runtime.request import Steering

    engine, model = (inspect.signature(each).parameters for each in (Engine, LlamaModel))
    assert engine["batch_tokens"].default == options.BATCH_TOKENS
    assert model["n_gpu_layers"].default == options.GPU_LAYERS
    assert Steering("any", 1.0).rows == options.ROWS


def test_options_from_passes_the_values_as_one_argument(sample: str) -> None:
    seen: dict[str, Any] = {}

    @options_from(sample, "Options", argument="chosen", panel="Panel", flags={"size": ("-z",)})
    def command(own: int, chosen: dict[str, Any]) -> None:
        seen.update(chosen, own=own)

    assert list(inspect.signature(command).parameters) == ["own", "size", "ratio"]
    command(own=1, size=2, ratio=0.25)
    assert seen == {"own": 1, "size": 2, "ratio": 0.25}


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        ({}, {}),
        ({"rpc": ["a:1,b:2", "c:3", "a:1"]}, {"rpc": ("a:1", "b:2", "c:3")}),
        ({"device": ["CUDA1, RPC0"]}, {"device": ("CUDA1", "RPC0")}),
        ({"tensor_split": "3,1"}, {"tensor_split": (3.0, 1.0)}),
        ({"rpc": ["a:1"], "tensor_split": "0.5, 1e1"}, {"rpc": ("a:1",), "tensor_split": (0.5, 10.0)}),
    ],
)
def test_devices_are_passed_as_arguments_of_the_model(given: dict[str, Any], devices: dict[str, Any]) -> None:
    seen: list[Any] = []

    @device_options
    def command(own: int, devices: dict[str, Any], last: int = 0) -> None:
        seen.append((own, devices, last))

    assert list(inspect.signature(command).parameters) == ["own", "last", "rpc", "device", "tensor_split"]
    command(own=1, last=2, **{"rpc": None, "device": None, "tensor_split": None, **given})
    assert seen == [(1, devices, 2)]


@pytest.mark.parametrize("text", ["", "a", "3,,1", "3;1", "3,1,"])
def test_shares_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(EdgeSteerError, match=r"--tensor-split: not a list of numbers; expected as in 3,1; found '"):
        parse_shares(text)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [("7", (7,)), ("4-6", (4, 5, 6)), ("4-6,25", (4, 5, 6, 25)), (" 3, 1-2 ,2 ", (1, 2, 3)), ("0-0", (0,))],
)
def test_blocks_are_numbers_and_ranges(text: str, blocks: tuple[int, ...]) -> None:
    assert parse_blocks(text) == blocks
    assert parse_blocks(format_blocks(blocks)) == blocks


@pytest.mark.parametrize("text", ["", "a", "6-4", "1,,2", "-1", "1-2-3", "1.5", "²"])
def test_blocks_that_cannot_be_read_are_refused(text: str) -> None:
    with pytest.raises(SteeringError, match="steered blocks cannot be read; expected numbers and ranges"):
        parse_blocks(text)


def test_blocks_are_shown_as_ranges() -> None:
    assert format_blocks((0, 1, 2, 5, 7, 8)) == "0-2,5,7-8"


def test_output_may_not_take_the_place_of_an_input(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    (tmp_path / "link.gguf").symlink_to("model.gguf")
    with pytest.raises(EdgeSteerError, match=r"link\.gguf: would overwrite the file that is read\. Give another path"):
        check_output(tmp_path / "link.gguf", tmp_path / "model.gguf")


def test_output_that_could_not_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match="cannot be written: its folder does not exist"):
        check_output(tmp_path / "nowhere" / "a.gguf")
    with pytest.raises(EdgeSteerError, match="cannot be written: it is a folder"):
        check_output(tmp_path)
    check_output(tmp_path / "a.gguf")
    assert list(tmp_path.iterdir()) == []
