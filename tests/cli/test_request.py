"""What --steer and the prompt's options mean."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from edgesteer.cli.request import load_steering, parse_steer, read_prompt, require_utf8
from edgesteer.errors import EdgeSteerError, FingerprintError, SteeringError
from edgesteer.fingerprint import Fingerprint

TINY = Fingerprint("llama", 4, 32, "a" * 64, "", "Tiny")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("warm.gguf", ("warm.gguf", None, None)),
        ("warm.gguf=0.8", ("warm.gguf", None, 0.8)),
        ("warm.gguf=-2", ("warm.gguf", None, -2.0)),
        ("a/b.gguf#warm", ("a/b.gguf", "warm", None)),
        ("a/b.gguf#warm=1e-1", ("a/b.gguf", "warm", 0.1)),
        ("a=b.gguf=1", ("a=b.gguf", None, 1.0)),
    ],
)
def test_steer_is_a_file_a_name_and_a_strength(text: str, value: tuple[str, str | None, float | None]) -> None:
    file, name, strength = value
    assert parse_steer(text) == (Path(file), name, strength)


@pytest.mark.parametrize("name", ["a=1", "a#b", "a#b=1"])
def test_name_of_a_file_may_hold_both_signs(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.touch()
    assert parse_steer(str(file)) == (file, None, None)
    assert parse_steer(f"{file}=2") == (file, None, 2.0)
    assert parse_steer(f"{file}#warm=2") == (file, "warm", 2.0)


@pytest.mark.parametrize("number", ["", "much", "nan", "inf", "0,5"])
def test_strength_that_is_no_number_is_refused(number: str) -> None:
    with pytest.raises(SteeringError, match=rf"strength is not a number; expected .*; found '{number}'"):
        parse_steer(f"warm.gguf={number}")


def test_file_alone_asks_for_the_default_strength(tiny_sidecar: Any) -> None:
    controllers, [asked] = load_steering([parse_steer(str(tiny_sidecar()))], TINY, rows="all")
    assert (asked.controller, asked.strength, asked.rows) == ("warm", controllers[0].default_strength, "all")


def test_controllers_of_the_same_name_are_told_apart(tiny_sidecar: Any, tmp_path: Path) -> None:
    files = [tiny_sidecar("warm", path=tmp_path / f"{n}.gguf") for n in range(3)]
    controllers, asked = load_steering([parse_steer(f"{file}={n}") for n, file in enumerate(files)], TINY)
    assert [each.name for each in controllers] == ["warm", "warm-2", "warm-3"]
    assert [(each.controller, each.strength) for each in asked] == [("warm", 0), ("warm-2", 1), ("warm-3", 2)]


def test_sidecar_of_another_model_is_refused(tiny_sidecar: Any) -> None:
    other = Fingerprint("gemma3", 4, 32, "a" * 64, "", "Other")
    with pytest.raises(FingerprintError, match=r"expected Tiny \(architecture llama\); found Other"):
        load_steering([parse_steer(str(tiny_sidecar()))], other)


def test_one_of_several_controllers_is_picked_by_name(tiny_sidecar: Any) -> None:
    file = tiny_sidecar("warm", "formal")
    [controller], _ = load_steering([parse_steer(f"{file}#formal=1")], TINY)
    assert controller.name == "formal"
    with pytest.raises(SteeringError, match=r"holds several controllers; expected warm or formal\. Name one: .*#warm"):
        load_steering([parse_steer(str(file))], TINY)
    with pytest.raises(SteeringError, match=r"no such controller; expected warm or formal; found cold"):
        load_steering([parse_steer(f"{file}#cold")], TINY)


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"hello\n", "hello"), (b"hello\n\n", "hello\n"), (b"\xef\xbb\xbfhello", "hello"), ("é".encode(), "é")],
)
def test_prompt_file_loses_one_newline_and_its_byte_order_mark(data: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(data)
    assert read_prompt(None, tmp_path / "prompt.txt") == text


def test_prompt_comes_from_standard_input_where_nothing_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"hello\n")))
    assert read_prompt(None, None) == "hello"


def test_terminal_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdin", terminal)
    with pytest.raises(EdgeSteerError, match=r"there is no prompt\. Give one with --prompt or --file"):
        read_prompt(None, None)


@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_prompt_is_refused(text: str) -> None:
    with pytest.raises(EdgeSteerError, match=r"--prompt: the prompt is empty"):
        read_prompt(text, None)


def test_broken_utf8_is_refused_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "prompt.txt").write_bytes(b"ab\xffc")
    with pytest.raises(EdgeSteerError, match=r"prompt\.txt: the text is not UTF-8; found a broken character at 2"):
        read_prompt(None, tmp_path / "prompt.txt")
    with pytest.raises(EdgeSteerError, match=r"--prompt: the text is not UTF-8; found a broken character at 0"):
        read_prompt("\udcff", None)
    with pytest.raises(EdgeSteerError, match=r"here: the text is not UTF-8"):
        require_utf8("\ud800", "here")


def test_prompt_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match=r"none\.txt: the prompt cannot be read; found No such file"):
        read_prompt(None, tmp_path / "none.txt")
