"""Dataclasses as the keys and tensors of a GGUF file: a name is the path of fields to a value, joined by dots.

Knows the keys of no format, no torch and no llama.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from gguf import GGUFReader

from edgesteer.errors import SidecarError
from edgesteer.gguf_file import copy_tensors, metadata_value

T = TypeVar("T")


def flattened(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of every field of a dataclass that is set, those of nested dataclasses included.

    Raises SidecarError when a number is not finite.
    """
    for name, hint in get_type_hints(type(value)).items():
        key, item = f"{prefix}.{name}", getattr(value, name)
        if is_dataclass(item):
            yield from flattened(key, item)
        elif item is not None:
            yield key, item if isinstance(item, np.ndarray) else _checked(_as_declared(item, hint), key)


def _as_declared(value: Any, hint: Any) -> Any:
    """Return a NumPy scalar, or an int where a float is declared, as what the reader will ask for."""
    kind = _required(hint)
    return tuple(map(get_args(kind)[0], value)) if get_origin(kind) is tuple else kind(value)


def _required(hint: Any) -> Any:
    """X of X or X | None."""
    return next(kind for kind in get_args(hint) if kind is not NoneType) if _is_optional(hint) else hint


def _is_optional(hint: Any) -> bool:
    return NoneType in get_args(hint)


def check_header(
    reader: GGUFReader, kind: str, architecture: str, version_key: str, version: int, command: str
) -> None:
    """Raise SidecarError unless a file is of the kind that a command of edgesteer writes, in this format version."""
    if (found := metadata_value(reader, "general.architecture")) != architecture:
        raise SidecarError(
            f"not a {kind}",
            expected=f"architecture {architecture}",
            found=found,
            remedy=f"Give a file that `edgesteer {command}` wrote.",
        )
    if (found := metadata_value(reader, version_key)) != version:
        raise SidecarError(
            f"{kind} has another format version",
            expected=version,
            found=found,
            remedy=f"Update edgesteer, or run `edgesteer {command}` again.",
        )


class FieldReader:
    """Builds dataclasses from the keys and tensors that their fields' names and types ask for.

    tensor_prefix: what a key has in front of the name of its tensor. half: names of the tensors that a file holds as
    F16; they come back as float32. Raises SidecarError, which names the key or tensor at fault and ends in the remedy.
    """

    def __init__(self, reader: GGUFReader, tensor_prefix: str, remedy: str, half: Collection[str] = ()) -> None:
        self._reader, self._prefix, self._remedy = reader, tensor_prefix, remedy
        self._tensors = copy_tensors(reader)
        for name in half:
            if name in self._tensors and self._tensors[name].dtype == np.float16:
                self._tensors[name] = self._tensors[name].astype(np.float32)

    def build(self, kind: type[T], prefix: str) -> T:
        hints = get_type_hints(kind)
        return kind(**{name: self._value(f"{prefix}.{name}", hint) for name, hint in hints.items()})

    def scalar(self, key: str, hint: Any) -> Any:
        """Return a key's value of a declared type: str, bool, int, float or a tuple of them."""
        value = metadata_value(self._reader, key)
        self._require(value is not None, key, "key is missing")
        if get_origin(hint) is not tuple:
            self._require(
                type(value) is hint, key, "value has the wrong type", expected=hint.__name__, found=repr(value)
            )
            return _checked(value, key, self._remedy)
        item, *others = get_args(hint)
        length = "any number of" if Ellipsis in others else 1 + len(others)
        self._require(
            isinstance(value, list)
            and all(type(each) is item for each in value)
            and length in ("any number of", len(value)),
            key,
            "value has the wrong type",
            expected=f"{length} {item.__name__}",
            found=repr(value),
        )
        return _checked(tuple(value), key, self._remedy)

    def _value(self, key: str, hint: Any) -> Any:
        if _is_optional(hint) and not self._is_present(key):
            return None
        kind = _required(hint)
        if is_dataclass(kind):
            return self.build(kind, key)  # type: ignore[arg-type]
        return self._tensor(key) if get_origin(kind) is np.ndarray else self.scalar(key, kind)

    def _is_present(self, key: str) -> bool:
        names = [*self._reader.fields, *(self._prefix + name for name in self._tensors)]
        return any(name == key or name.startswith(f"{key}.") for name in names)

    def _tensor(self, key: str) -> Any:
        name = key.removeprefix(self._prefix)
        self._require(name in self._tensors, name, "tensor is missing")
        return self._tensors[name]

    def _require(self, condition: bool, where: str, what: str, **details: Any) -> None:
        if not condition:
            raise SidecarError(what, where=where, remedy=self._remedy, **details)


def _checked(value: Any, key: str, remedy: str | None = None) -> Any:
    """Return a scalar or a tuple; raise SidecarError when it holds a number that is not finite."""
    numbers = value if isinstance(value, tuple) else (value,)
    if not all(math.isfinite(number) for number in numbers if isinstance(number, float)):
        raise SidecarError("number is not finite", where=key, found=value, remedy=remedy)
    return value
