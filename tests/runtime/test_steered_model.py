"""The Python API on the tiny model; docs/python.md's examples run on a real one in tests/test_python_examples.py."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

import edgesteer.runtime
from edgesteer.controller import Controller
from edgesteer.errors import EngineError, FingerprintError, ModelError, SafeRangeWarning, SteeringError
from edgesteer.fingerprint import Fingerprint
from edgesteer.runtime import Sampling, SteeredModel, Steering
from edgesteer.runtime.model import LlamaModel
from edgesteer.sidecar import Sidecar, write_sidecar

GREEDY = Sampling(temp=0.0)
MESSAGES = [{"role": "user", "content": "Where are the boats?"}]


@pytest.fixture
def tone_file(tiny_llama: LlamaModel, make_controller: Callable[..., Controller], tmp_path: Path) -> Path:
    path = tmp_path / "tone.gguf"
    tone = make_controller(4, 32, name="tone")
    write_sidecar(path, Sidecar(tiny_llama.fingerprint, {"tone": replace(tone, safe_range=(-2.0, 2.0))}))
    return path


@pytest.fixture
def model(tiny_model: Any, tone_file: Path) -> Iterator[SteeredModel]:
    with SteeredModel(tiny_model.gguf, {tone_file: 1.0}, context_tokens=1024, parallel=4, threads=1) as model:
        yield model


def tokens(model: SteeredModel, **options: Any) -> list[int]:
    return model.chat(MESSAGES, sampling=GREEDY, max_tokens=12, **options).tokens


def test_dials_hold_until_they_are_turned(model: SteeredModel) -> None:
    steered = tokens(model)
    model.strengths["tone"] = 0.0
    unsteered = tokens(model)
    assert steered != unsteered
    assert tokens(model, steer={"tone": 1.0}) == steered
    assert tokens(model) == unsteered


def test_a_string_is_one_user_message(model: SteeredModel) -> None:
    text = model.chat(MESSAGES[0]["content"], sampling=GREEDY, max_tokens=12)
    assert text.tokens == tokens(model)


def test_stream_makes_up_the_text(model: SteeredModel) -> None:
    pieces = list(model.chat(MESSAGES, stream=True, sampling=GREEDY, max_tokens=12))
    assert "".join(pieces) == model.chat(MESSAGES, sampling=GREEDY, max_tokens=12).text
    assert len(pieces) > 1


def test_leaving_a_stream_ends_its_text(model: SteeredModel) -> None:
    for _ in model.chat(MESSAGES, stream=True, max_tokens=500):
        break
    assert not model._batch.busy


def test_stream_that_is_never_read_costs_nothing(model: SteeredModel) -> None:
    model.chat(MESSAGES, stream=True)
    assert not model._batch.busy


def test_each_conversation_of_many_has_its_own_dials(model: SteeredModel) -> None:
    dials = [{"tone": strength} for strength in (0.0, 1.0, -1.0, 0.5, 2.0)]
    together = model.chat_all([MESSAGES] * 5, steer=dials, sampling=GREEDY, max_tokens=12)
    assert [answer.tokens for answer in together] == [tokens(model, steer=each) for each in dials]


def test_pieces_have_readings_and_log_probabilities(model: SteeredModel) -> None:
    pieces = list(model.pieces(MESSAGES, sampling=GREEDY, max_tokens=5, logprobs=2))
    assert [set(piece.readings) for piece in pieces] == [set(), *[{"tone"}] * 4]
    for piece in pieces:
        assert piece.logprob is not None
        assert (piece.logprob.token, len(piece.logprob.top)) == (piece.token, 2)
        assert piece.logprob.top[0].logprob >= piece.logprob.top[1].logprob


def test_completion_needs_no_template(model: SteeredModel) -> None:
    assert len(model.complete("on the", sampling=GREEDY, max_tokens=3).tokens) == 3


def test_steering_may_say_more_than_a_strength(model: SteeredModel) -> None:
    (report,) = model.chat(
        MESSAGES, steer={"tone": Steering("tone", 1.0, loop="open")}, sampling=GREEDY, max_tokens=5
    ).steering
    assert report.effort == [1.0] * 4


def test_dials_come_and_go(model: SteeredModel, tone_file: Path) -> None:
    assert model.load(tone_file, 0.5) == "tone-2"
    assert model.load(f"{tone_file}#tone", name="other") == "other"
    assert model.strengths == {"tone": 1.0, "tone-2": 0.5, "other": 0.0}
    model.unload("tone")
    assert list(model.controllers) == ["tone-2", "other"]
    with pytest.raises(SteeringError, match="no such controller; expected tone-2 or other; found tone"):
        tokens(model, steer={"tone": 1.0})


def test_grammar_holds_under_steering(model: SteeredModel) -> None:
    sampling = Sampling(seed=3, grammar='root ::= "[" [0-9] ("," [0-9])? "]"')
    assert all(0 <= digit <= 9 for digit in json.loads(model.chat(MESSAGES, sampling=sampling, max_tokens=20).text))


def test_strength_outside_the_safe_range_warns(model: SteeredModel) -> None:
    with pytest.warns(SafeRangeWarning, match="strength 3 is outside the safe range -2 to 2"):
        tokens(model, steer={"tone": 3.0})


def test_prompt_longer_than_the_context_is_refused(model: SteeredModel) -> None:
    with pytest.raises(EngineError, match="longer than the context"):
        model.chat("the boats " * 500)
    assert len(tokens(model)) == 12


def test_sidecar_of_another_model_is_refused(
    tiny_model: Any, tmp_path: Path, make_controller: Callable[..., Controller]
) -> None:
    path = tmp_path / "foreign.gguf"
    foreign = Fingerprint("llama", 4, 32, "f" * 64, "", "Foreign")
    write_sidecar(path, Sidecar(foreign, {"tone": make_controller(4, 32, name="tone")}))
    with pytest.raises(FingerprintError, match="Foreign"):
        SteeredModel(tiny_model.gguf, {path: 1.0})


def test_missing_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError):
        SteeredModel(tmp_path / "nothing.gguf")


def test_devices_are_those_of_the_model(tiny_model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {"n_gpu_layers": 3, "rpc": ["a:1"], "device": ["RPC0"], "tensor_split": [1.0]}
    calls: list[Any] = []

    def load(path: Path, **options: Any) -> NoReturn:
        calls.append((path, options))
        raise ModelError("is not loaded")

    monkeypatch.setattr("edgesteer.runtime.steered_model.LlamaModel", load)
    with pytest.raises(ModelError, match="is not loaded"):
        SteeredModel(tiny_model.gguf, **devices)
    assert calls == [(tiny_model.gguf, devices)]


def test_what_is_public_is_there() -> None:
    for name in edgesteer.runtime.__all__:
        assert getattr(edgesteer.runtime, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = edgesteer.runtime.Nothing
