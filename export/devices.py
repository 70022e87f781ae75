"""Which device computes: the one asked for, or the best that torch has."""

from __future__ import annotations

import os

import torch

from edgesteer.errors import SteeringError

DEVICES = ("auto", "cpu", "cuda", "mps")


def choose_device(name: str = "auto") -> torch.device:
    """Return cuda, mps or cpu, whichever comes first here, or the device of that name.

    Of several GPUs without a number, torchrun's processes (LOCAL_RANK) take one each in turn.

    Raises SteeringError for an unknown name and for a device that torch does not have.
    """
    kind, _, number = name.partition(":")
    if kind not in DEVICES or (number and not (kind == "cuda" and number.isdecimal())):
        raise SteeringError("unknown device", expected=" or ".join(DEVICES), found=name)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = [*(f"cuda:{index}" for index in range(gpus)), *["mps"][: torch.backends.mps.is_available()], "cpu"]
    if name == "auto":
        name = found[0].partition(":")[0]
    if name == "cuda" and gpus:
        name = f"cuda:{int(os.environ.get('LOCAL_RANK', 0)) % gpus}"
    if name not in found:
        raise SteeringError("torch does not have this device", expected=" or ".join(found), found=name)
    return torch.device(name)
