"""Quantize: writes a model in another of llama.cpp's formats."""

from __future__ import annotations

import ctypes
from pathlib import Path

import llama_cpp

from edgesteer.errors import ModelError, SteeringError
from edgesteer.files import atomic_write

_PREFIX = "LLAMA_FTYPE_MOSTLY_"


def quantizations() -> list[str]:
    """Return the names of the formats that llama.cpp can write, such as Q4_0."""
    return sorted(name.removeprefix(_PREFIX) for name in dir(llama_cpp) if name.startswith(_PREFIX))


def quantize(model: Path, output: Path, quantization: str, *, threads: int = 0) -> None:
    """Write a model in another format; one that is quantized already loses some more of its precision.

    quantization: one of `quantizations`. threads: 0 for all cores.

    Raises SteeringError for an unknown format, ModelError when llama.cpp cannot read the model or write it so.
    """
    if quantization not in quantizations():
        raise SteeringError("no such quantization", expected=" or ".join(quantizations()), found=quantization)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = getattr(llama_cpp, _PREFIX + quantization)
    parameters.allow_requantize = True
    parameters.nthread = threads
    with atomic_write(output) as temporary:
        if llama_cpp.llama_model_quantize(str(model).encode(), str(temporary).encode(), ctypes.byref(parameters)):
            raise ModelError("llama.cpp cannot write this model so", where=model, found=quantization)
