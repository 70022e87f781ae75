"""The half of edgesteer that runs on the device: llama.cpp, steered through its eval callback.

Its public Python API is what is listed here; llama.cpp is loaded when one of these is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgesteer.runtime.request import Steering
    from edgesteer.runtime.sampling import Sampling
    from edgesteer.runtime.sequence import Generation, Piece
    from edgesteer.runtime.steered_model import SteeredModel

__all__ = ["Generation", "Piece", "Sampling", "SteeredModel", "Steering"]

_HOMES = {
    "Generation": "sequence",
    "Piece": "sequence",
    "Sampling": "sampling",
    "SteeredModel": "steered_model",
    "Steering": "request",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"edgesteer.runtime.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
