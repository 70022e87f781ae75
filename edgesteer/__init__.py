"""Steer a local, quantized LLM while it runs on llama.cpp, by feedback control on its activations.

This is what both halves share. `edgesteer.export` makes sidecars with PyTorch, `edgesteer.runtime` runs them on
llama.cpp; importing edgesteer loads neither.
"""

from __future__ import annotations

from importlib.metadata import version

from edgesteer.concept import ConceptSet, load_concept
from edgesteer.controller import Controller
from edgesteer.errors import (
    BusyError,
    ConceptError,
    EdgeSteerError,
    EngineError,
    FingerprintError,
    JudgeError,
    MissingExtraError,
    ModelError,
    SafeRangeWarning,
    SidecarError,
    SteeringError,
    SuiteError,
)
from edgesteer.sidecar import Sidecar, read_sidecar, write_sidecar

__version__ = version("edgesteer")

__all__ = [
    "BusyError",
    "ConceptError",
    "ConceptSet",
    "Controller",
    "EdgeSteerError",
    "EngineError",
    "FingerprintError",
    "JudgeError",
    "MissingExtraError",
    "ModelError",
    "SafeRangeWarning",
    "Sidecar",
    "SidecarError",
    "SteeringError",
    "SuiteError",
    "__version__",
    "load_concept",
    "read_sidecar",
    "write_sidecar",
]
