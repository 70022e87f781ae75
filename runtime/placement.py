"""Placement: which devices take a model's blocks, and in which proportion, as llama.cpp's model parameters say it.

Loads no model.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import llama_cpp

from edgesteer.errors import EngineError
from edgesteer.runtime.rpc import rpc_devices
from edgesteer.runtime.system import GPU, Device, devices


def place(
    parameters: Any, *, n_gpu_layers: int, rpc: Sequence[str], device: Sequence[str], tensor_split: Sequence[float]
) -> object:
    """Set what llama_model_params say of devices; return what must live as long as the model.

    With none of the three sequences the choice is llama.cpp's. Raises EngineError when it cannot be done.
    """
    parameters.n_gpu_layers = n_gpu_layers
    if not (rpc or device or tensor_split):
        return None
    if n_gpu_layers == 0:
        raise EngineError(
            "devices are named, and no block would run on them",
            remedy="Say how many blocks: --n-gpu-layers -1 is all (in Python n_gpu_layers=-1).",
        )
    chosen = choose([*rpc_devices(rpc), *devices()], device)
    handles = (ctypes.c_void_p * (len(chosen) + 1))(*(each.handle for each in chosen))
    parameters.devices = ctypes.addressof(handles)
    if tensor_split:
        parameters.tensor_split = (ctypes.c_float * most_devices())(*check_split(tensor_split, chosen))
    return handles


def most_devices() -> int:
    return int(llama_cpp.llama_max_devices())


def choose(available: Sequence[Device], names: Sequence[str]) -> list[Device]:
    """Return the devices of these names, or by default what llama.cpp takes: RPC servers and GPUs, integrated ones only
    where there is no other.

    available: RPC servers' first. Raises EngineError for an unknown name, and when there is no device or too many.
    """
    usable = {each.name: each for each in available if each.is_gpu}
    for name in names:
        if name not in usable:
            raise EngineError(
                "there is no such device",
                expected=" or ".join(usable) or None,
                found=name,
                remedy="`edgesteer doctor` lists the devices of this machine.",
            )
    local = [each for each in usable.values() if each.backend != "RPC"]
    of_their_own = [each for each in local if each.kind == GPU]
    chosen = [usable[name] for name in names] or [
        *(each for each in usable.values() if each.backend == "RPC"), *(of_their_own or local)
    ]  # fmt: skip
    if not 0 < len(chosen) <= most_devices():
        raise EngineError(
            "wrong number of devices to offload to",
            expected=f"1 to {most_devices()}",
            found=len(chosen),
            remedy="`edgesteer doctor` lists the devices of this machine; docs/install.md says how to build for more.",
        )
    return chosen


def check_split(shares: Sequence[float], chosen: Sequence[Device]) -> Sequence[float]:
    """Return the shares; raise EngineError unless there is one for each device, none negative, and not all zero."""
    if len(shares) != len(chosen):
        raise EngineError(
            "wrong number of shares in the tensor split",
            expected=f"one for each of {', '.join(each.name for each in chosen)}",
            found=len(shares),
        )
    if not all(math.isfinite(share) and share >= 0 for share in shares) or not any(shares):
        raise EngineError(
            "the tensor split is no proportion",
            expected="numbers from 0 on, not all 0",
            found=",".join(map("{:g}".format, shares)),
        )
    return shares
