"""The choice of a device, with what torch has in the place of which this machine may have nothing."""

from __future__ import annotations

import pytest
import torch

from edgesteer.errors import SteeringError
from edgesteer.export.devices import choose_device

pytestmark = pytest.mark.torch


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A machine with some GPUs of NVIDIA's, and with or without one of Apple's."""
    gpus, apple = request.param
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: apple)
    monkeypatch.delenv("LOCAL_RANK", raising=False)


@pytest.mark.parametrize(
    ("machine", "name", "expected"),
    [
        ((0, False), "auto", "cpu"),
        ((0, True), "auto", "mps"),
        ((2, True), "auto", "cuda:0"),
        ((2, False), "cuda", "cuda:0"),
        ((2, False), "cuda:1", "cuda:1"),
        ((2, True), "mps", "mps"),
        ((2, True), "cpu", "cpu"),
    ],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_best_device_is_chosen_unless_one_is_asked_for(name: str, expected: str) -> None:
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("machine", [(2, False)], indirect=True)
@pytest.mark.parametrize(("rank", "name", "expected"), [("1", "auto", 1), ("2", "auto", 0), ("1", "cuda:0", 0)])
@pytest.mark.usefixtures("machine")
def test_processes_of_torchrun_take_one_gpu_each(
    monkeypatch: pytest.MonkeyPatch, rank: str, name: str, expected: int
) -> None:
    monkeypatch.setenv("LOCAL_RANK", rank)
    assert choose_device(name) == torch.device("cuda", expected)


@pytest.mark.parametrize(
    ("machine", "name", "message"),
    [
        ((0, True), "cuda", "torch does not have this device; expected mps or cpu; found cuda"),
        ((0, False), "mps", "torch does not have this device; expected cpu; found mps"),
        ((2, False), "cuda:2", "torch does not have this device; expected cuda:0 or cuda:1 or cpu; found cuda:2"),
        ((2, True), "tpu", "unknown device; expected auto or cpu or cuda or mps; found tpu"),
        ((2, True), "cpu:1", "unknown device"),
        ((2, True), "cuda:x", "unknown device"),
        ((2, True), "", "unknown device"),
    ],
    indirect=["machine"],
)
@pytest.mark.usefixtures("machine")
def test_device_that_is_not_there_is_refused(name: str, message: str) -> None:
    with pytest.raises(SteeringError, match=message):
        choose_device(name)
