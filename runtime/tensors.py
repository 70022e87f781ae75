"""tensors_of: names and sizes of a GGUF's tensors, by ggml's own reader: quick, however large the vocabulary is."""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from typing import Any

from edgesteer.errors import ModelError
from edgesteer.runtime.hook import load_ggml


@dataclass(frozen=True)
class Tensor:
    """n_bytes: as the file stores it. n_rows: of numbers next to each other."""

    name: str
    n_bytes: int
    n_rows: int


class GgufInitParams(ctypes.Structure):
    """gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.POINTER(ctypes.c_void_p)))


def tensors_of(path: str | os.PathLike[str]) -> list[Tensor]:
    """Return the tensors of a file, in its order. Raises ModelError when ggml cannot read it."""
    if not os.path.isfile(path):
        raise ModelError("no such file", where=path, remedy="Check the path.")
    shapes = ctypes.c_void_p()
    parameters = GgufInitParams(True, ctypes.pointer(shapes))
    gguf = _function("gguf_init_from_file", ctypes.c_void_p, ctypes.c_char_p, GgufInitParams)(
        os.fsencode(path), parameters
    )
    if not gguf:
        raise ModelError("ggml cannot read this file", where=path, remedy="Use a complete GGUF model.")
    try:
        return _read(gguf, shapes.value)
    finally:
        _function("gguf_free", None, ctypes.c_void_p)(gguf)
        _function("ggml_free", None, ctypes.c_void_p)(shapes)


def _read(gguf: int, shapes: int | None) -> list[Tensor]:
    address, number = ctypes.c_void_p, ctypes.c_int64
    count = _function("gguf_get_n_tensors", number, address)
    name_of = _function("gguf_get_tensor_name", ctypes.c_char_p, address, number)
    size_of = _function("gguf_get_tensor_size", ctypes.c_size_t, address, number)
    find = _function("ggml_get_tensor", address, address, ctypes.c_char_p)
    rows_of = _function("ggml_nrows", number, address)
    names = [name_of(gguf, index) for index in range(count(gguf))]
    return [
        Tensor(name.decode("utf-8", "replace"), size_of(gguf, index), rows_of(find(shapes, name)))
        for index, name in enumerate(names)
    ]


def _function(name: str, result: Any, *arguments: Any) -> Any:
    return ctypes.CFUNCTYPE(result, *arguments)((name, load_ggml()))
