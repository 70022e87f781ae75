"""edgesteer doctor."""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgesteer import doctor
from edgesteer.doctor import ABSENT, BROKEN, OK, Finding

FINDINGS = [
    Finding("hook", "library", OK, "can be loaded"),
    Finding("extras", "plot", ABSENT, "lacks matplotlib", "Run: pip install"),
]


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The arguments of each examination, which finds FINDINGS."""
    calls: list[Any] = []
    monkeypatch.setattr(doctor, "examine", lambda rpc: calls.append(rpc) or FINDINGS)
    return calls


def test_findings_are_lines_with_what_to_do(edgesteer: Any, found: list[Any]) -> None:
    assert edgesteer("doctor").out.splitlines() == [
        "part    name     state   detail",
        "hook    library  ok      can be loaded",
        "extras  plot     absent  lacks matplotlib. Run: pip install",
    ]
    assert found == [()]


def test_json_is_one_object(edgesteer: Any, found: list[Any]) -> None:
    result = edgesteer("doctor", "--json", "--rpc", "a:1,b:2", "--rpc", "c:3")
    assert json.loads(result.out) == {
        "usable": True,
        "findings": [
            {"part": "hook", "name": "library", "state": "ok", "detail": "can be loaded", "remedy": None},
            {
                "part": "extras", "name": "plot", "state": "absent", "detail": "lacks matplotlib",
                "remedy": "Run: pip install",
            },
        ],
    }  # fmt: skip
    assert found == [("a:1", "b:2", "c:3")]


@pytest.mark.parametrize(("part", "code"), [("llama.cpp", 1), ("hook", 1), ("energy", 0), ("devices", 0)])
def test_the_exit_code_is_1_only_when_nothing_can_be_steered(
    part: str, code: int, edgesteer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "examine", lambda rpc: [*FINDINGS, Finding(part, "x", BROKEN, "is broken")])
    assert edgesteer("doctor").code == edgesteer("doctor", "--json").code == code


def test_this_installation_is_examined(edgesteer: Any) -> None:
    result = edgesteer("doctor", "--json")
    states = {(each["part"], each["name"]): each["state"] for each in json.loads(result.out)["findings"]}
    assert (result.code, result.err) == (0, "")
    assert states["llama.cpp", "library"] == states["backends", "CPU"] == "ok"
