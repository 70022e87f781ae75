"""Which devices take a model's blocks."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import pytest

from edgesteer.errors import EngineError
from edgesteer.runtime import placement
from edgesteer.runtime.placement import check_split, choose, place
from edgesteer.runtime.system import ACCELERATOR, CPU, GPU, INTEGRATED_GPU, Device

NOTHING: dict[str, Any] = {"rpc": (), "device": (), "tensor_split": ()}


def device(name: str, kind: str = GPU, backend: str = "CUDA", handle: int = 0) -> Device:
    return Device(name, "a device", backend, kind, 0, 0, False, handle)


HOST = [device("CPU", CPU, "CPU"), device("BLAS", ACCELERATOR, "BLAS")]
REMOTE = [device("RPC0", backend="RPC", handle=16), device("RPC1", backend="RPC", handle=32)]
CARD, SECOND_CARD = device("CUDA0", handle=48), device("CUDA1", handle=64)
CHIP = device("Vulkan0", INTEGRATED_GPU, "Vulkan", handle=80)


def names(chosen: list[Device]) -> list[str]:
    return [each.name for each in chosen]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two cards, and a server with two devices."""
    monkeypatch.setattr(placement, "devices", lambda: [CARD, SECOND_CARD, *HOST])
    monkeypatch.setattr(placement, "rpc_devices", lambda addresses: REMOTE if addresses else [])


@pytest.mark.parametrize(
    ("available", "chosen"),
    [
        ([CARD, SECOND_CARD, *HOST], ["CUDA0", "CUDA1"]),
        ([*REMOTE, CARD, *HOST], ["RPC0", "RPC1", "CUDA0"]),
        ([CHIP, *HOST], ["Vulkan0"]),
        ([CHIP, CARD, *HOST], ["CUDA0"]),
        ([*REMOTE, CHIP, *HOST], ["RPC0", "RPC1", "Vulkan0"]),
    ],
    ids=["cards", "servers first", "a chip alone", "no chip beside a card", "a chip beside servers"],
)
def test_devices_are_chosen_as_llama_cpp_does(available: list[Device], chosen: list[str]) -> None:
    assert names(choose(available, [])) == chosen


def test_named_devices_come_in_the_order_of_their_names() -> None:
    assert names(choose([*REMOTE, CARD, CHIP, *HOST], ["CUDA0", "RPC1"])) == ["CUDA0", "RPC1"]


@pytest.mark.parametrize("name", ["CUDA7", "CPU"])
def test_a_device_that_takes_no_blocks_is_refused_with_those_that_do(name: str) -> None:
    with pytest.raises(EngineError, match=f"no such device; expected RPC0 or RPC1 or CUDA0; found {name}.*doctor"):
        choose([*REMOTE, CARD, *HOST], [name])


def test_a_machine_without_devices_says_so() -> None:
    with pytest.raises(EngineError, match=r"wrong number of devices to offload to; expected 1 to .*; found 0"):
        choose(HOST, [])


def test_no_more_devices_than_llama_cpp_can_take() -> None:
    most = int(llama_cpp.llama_max_devices())
    with pytest.raises(EngineError, match=f"expected 1 to {most}; found {most + 1}"):
        choose([device(f"CUDA{number}") for number in range(most + 1)], [])


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((1.0,), r"expected one for each of CUDA0, CUDA1; found 1"),
        ((3.0, -1.0), "numbers from 0 on, not all 0; found 3,-1"),
        ((0.0, 0.0), "not all 0; found 0,0"),
        ((float("nan"), 1.0), "no proportion"),
        ((float("inf"), 1.0), "no proportion"),
    ],
)
def test_shares_that_are_no_proportion_are_refused(shares: tuple[float, ...], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        check_split(shares, [CARD, SECOND_CARD])


def test_a_device_may_have_no_share() -> None:
    assert check_split((0.0, 1.0), [CARD, SECOND_CARD]) == (0.0, 1.0)


@pytest.mark.usefixtures("machine")
def test_parameters_hold_the_devices_and_their_shares() -> None:
    parameters = llama_cpp.llama_model_default_params()
    kept = place(parameters, n_gpu_layers=-1, rpc=["a:1"], device=(), tensor_split=(3, 1, 2, 0.5))
    assert kept is not None
    assert list((ctypes.c_void_p * 5).from_address(parameters.devices)) == [16, 32, 48, 64, None]
    assert parameters.tensor_split[:5] == [3, 1, 2, 0.5, 0]
    assert parameters.n_gpu_layers == -1


@pytest.mark.usefixtures("machine")
def test_without_shares_llama_cpp_splits_by_memory() -> None:
    parameters = llama_cpp.llama_model_default_params()
    kept = place(parameters, n_gpu_layers=8, rpc=(), device=["CUDA1"], tensor_split=())
    assert kept is not None
    assert list((ctypes.c_void_p * 2).from_address(parameters.devices)) == [64, None]
    assert not parameters.tensor_split


def test_without_options_the_choice_is_llama_cpps() -> None:
    parameters = llama_cpp.llama_model_default_params()
    place(parameters, n_gpu_layers=5, **NOTHING)
    assert (parameters.n_gpu_layers, parameters.devices) == (5, None)
    assert not parameters.tensor_split


@pytest.mark.parametrize("option", [{"rpc": ["a:1"]}, {"device": ["CUDA0"]}, {"tensor_split": [1.0]}])
def test_devices_without_blocks_for_them_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=r"no block would run on them. Say how many blocks: --n-gpu-layers -1"):
        place(llama_cpp.llama_model_default_params(), n_gpu_layers=0, **{**NOTHING, **option})
