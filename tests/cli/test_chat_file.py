"""Conversations as files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgesteer.cli.chat_file import load, save
from edgesteer.cli.conversation import Turn
from edgesteer.errors import EdgeSteerError


def steered_turn() -> Turn:
    steering = [SimpleNamespace(controller="warm", strength=0.5), SimpleNamespace(controller="formal", strength=0.0)]
    answer: Any = SimpleNamespace(request=SimpleNamespace(steering=steering), result=None)
    return Turn("one", "eins", answer)


def test_json_is_read_back_as_it_was(tmp_path: Path) -> None:
    turns = [Turn("one", "eins\n"), Turn("two é", "zwei")]
    save(tmp_path / "a.json", "tiny", "brief", turns)
    assert load(tmp_path / "a.json") == ("brief", turns)
    save(tmp_path / "a.json", "tiny", "", turns[:1])
    assert load(tmp_path / "a.json") == ("", turns[:1])


def test_markdown_shows_who_said_what_under_which_strengths(tmp_path: Path) -> None:
    save(tmp_path / "a.md", "tiny", "brief", [steered_turn(), Turn("two", "zwei")])
    assert (tmp_path / "a.md").read_text("utf-8") == (
        "# Conversation with tiny\n\n*System:* brief\n\n**You:** one\n\n**tiny (warm 0.5):** eins\n\n"
        "**You:** two\n\n**tiny:** zwei\n"
    )


@pytest.mark.parametrize("name", ["a", "a.txt", "a.json.gz"])
def test_other_kinds_of_files_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match=r"unknown kind of file; expected \.json or \.md"):
        save(tmp_path / name, "tiny", "", [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "not valid JSON; found "),
        (b"\xff", "not valid JSON; found "),
        (b"[" * 100_000, "not valid JSON; found "),
        (b"[]", "messages: wrong value; expected a list of messages; found null"),
        (b'{"messages": 3}', "messages: wrong value; expected a list of messages; found 3"),
        (b'{"messages": [3]}', r"messages\[0\]: wrong value; expected an object with role "),
        (b'{"messages": [{"role": "user"}]}', r"messages\[0\]: wrong value; expected an object with role "),
        (b'{"messages": [{"role": "user", "content": "x"}]}', "expected messages of user and assistant in turn"),
        (b'{"messages": [{"role": "assistant", "content": "x"}]}', "expected messages of user and assistant in turn"),
    ],
)
def test_what_is_no_conversation_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(EdgeSteerError, match=rf"a\.json: .*{message}"):
        load(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(EdgeSteerError, match=r"none\.json: cannot be read; found No such file"):
        load(tmp_path / "none.json")


def test_json_records_steering_and_telemetry(tmp_path: Path) -> None:
    turn = steered_turn()
    report = SimpleNamespace(
        controller="warm", alpha=[0.5, 1.0], running_mean=[0.25], effort=[1.0], error_before=0.5, error_after=0.25,
        error_bound=0.75, violations=[1, 0], checks=[2, 2],
    )  # fmt: skip
    turn.answer.result = SimpleNamespace(stop_reason="end", steering=[report])  # type: ignore[union-attr,assignment]
    turn.answer.request.steering = [{"controller": "warm", "strength": 0.5}]  # type: ignore[union-attr,misc]
    save(tmp_path / "a.json", "tiny", "", [turn])
    content = json.loads((tmp_path / "a.json").read_bytes())
    assert content["model"] == "tiny"
    assert content["messages"][1] == {
        "role": "assistant",
        "content": "eins",
        "stop_reason": "end",
        "steering": [{"controller": "warm", "strength": 0.5}],
        "telemetry": {
            "warm": {
                "alpha": 0.75,
                "running_mean": 0.25,
                "error_before": 0.5,
                "error_after": 0.25,
                "effort": 1.0,
                "error_bound": 0.75,
                "violations": 1,
                "checks": 4,
            }
        },
    }
