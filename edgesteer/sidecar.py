"""Sidecar: controllers and the fingerprint of their model in one GGUF file. SIDECAR.md is the format.

The only file that knows the format's keys. They are the names of the dataclasses' fields, joined by dots, so
that a field added there is stored here. Knows no torch and no llama.cpp.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, is_dataclass
from types import NoneType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import numpy as np
from gguf import GGUFReader

from edgesteer.controller import Controller, require
from edgesteer.errors import SidecarError
from edgesteer.fingerprint import Fingerprint
from edgesteer.gguf_file import copy_tensors, metadata_value, open_gguf, write_gguf

ARCHITECTURE = "edgesteer"
FORMAT_VERSION = 1

TYPE_KEY = "general.type"
VERSION_KEY = "edgesteer.format_version"
CONTROLLERS_KEY = "edgesteer.controllers"
FINGERPRINT_PREFIX = "edgesteer.model"
CONTROLLER_PREFIX = "edgesteer.controller"

CONTROLLER_NAME = re.compile(r"[\w-]+")
"""A dot would make two controllers' keys the same."""

REMEDY = "Copy the file again, or run `edgesteer export` again."

T = TypeVar("T")


@dataclass(frozen=True)
class Sidecar:
    """What one file holds: one or more controllers of one base model.

    Raises SidecarError when a controller does not fit the fingerprint or is filed under another name.
    """

    fingerprint: Fingerprint
    controllers: Mapping[str, Controller]

    def __post_init__(self) -> None:
        require(bool(self.controllers), "sidecar", "holds no controller")
        for name, controller in self.controllers.items():
            require(
                CONTROLLER_NAME.fullmatch(name) is not None,
                name,
                "controller's name cannot be stored",
                expected="letters, digits, - and _",
                found=repr(name),
            )
            require(controller.name == name, name, "controller has another name", found=controller.name)
            for size in ("n_blocks", "width"):
                ours, theirs = getattr(controller, size), getattr(self.fingerprint, size)
                require(
                    ours == theirs,
                    name,
                    f"controller's {size} is not the model's",
                    expected=theirs,
                    found=ours,
                )


def write_sidecar(path: str | os.PathLike[str], sidecar: Sidecar) -> None:
    """Write the file atomically. The same sidecar gives the same bytes.

    Raises EdgeSteerError when the file cannot be written, SidecarError when a number is not finite.
    """
    metadata: dict[str, Any] = {
        TYPE_KEY: "adapter",
        VERSION_KEY: FORMAT_VERSION,
        CONTROLLERS_KEY: tuple(sidecar.controllers),
    }
    metadata.update(_flattened(FINGERPRINT_PREFIX, sidecar.fingerprint))
    tensors = {}
    for name, controller in sidecar.controllers.items():
        for key, value in _flattened(name, controller):
            if isinstance(value, np.ndarray):
                tensors[key] = value
            else:
                metadata[f"{CONTROLLER_PREFIX}.{key}"] = value
    write_gguf(path, ARCHITECTURE, metadata, tensors)


def _flattened(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield (key, value) of every field that is set, those of nested dataclasses included."""
    for name, hint in get_type_hints(type(value)).items():
        key, item = f"{prefix}.{name}", getattr(value, name)
        if is_dataclass(item):
            yield from _flattened(key, item)
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


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Read a sidecar.

    Raises SidecarError, which names the file and the key or tensor at fault, when the file is missing,
    truncated, corrupt, not a sidecar, of another format version, or holds a controller that cannot be used.
    """
    with open_gguf(path, SidecarError, REMEDY) as reader:
        architecture = metadata_value(reader, "general.architecture")
        if architecture != ARCHITECTURE:
            raise SidecarError(
                "not a sidecar",
                expected=f"architecture {ARCHITECTURE}",
                found=architecture,
                remedy="Give a file that `edgesteer export` wrote.",
            )
        _check_version(metadata_value(reader, VERSION_KEY))
        return _Decoder(reader).sidecar()


def _check_version(version: object) -> None:
    if version != FORMAT_VERSION:
        raise SidecarError(
            "sidecar has another format version",
            expected=FORMAT_VERSION,
            found=version,
            remedy="Update edgesteer, or run `edgesteer export` again.",
        )


class _Decoder:
    """Builds dataclasses from the keys and tensors that their fields' names and types ask for."""

    def __init__(self, reader: GGUFReader) -> None:
        self.reader = reader
        self.tensors = copy_tensors(reader)

    def sidecar(self) -> Sidecar:
        names = self.scalar(CONTROLLERS_KEY, tuple[str, ...])
        require(len(set(names)) == len(names), CONTROLLERS_KEY, "names a controller twice", found=names)
        return Sidecar(
            self.build(Fingerprint, FINGERPRINT_PREFIX),
            {name: self.build(Controller, f"{CONTROLLER_PREFIX}.{name}") for name in names},
        )

    def build(self, kind: type[T], prefix: str) -> T:
        hints = get_type_hints(kind)
        return kind(**{name: self.value(f"{prefix}.{name}", hint) for name, hint in hints.items()})

    def value(self, key: str, hint: Any) -> Any:
        if _is_optional(hint) and not self.is_present(key):
            return None
        kind = _required(hint)
        if is_dataclass(kind):
            return self.build(kind, key)  # type: ignore[arg-type]
        return self.tensor(key) if get_origin(kind) is np.ndarray else self.scalar(key, kind)

    def is_present(self, key: str) -> bool:
        names = [*self.reader.fields, *(f"{CONTROLLER_PREFIX}.{name}" for name in self.tensors)]
        return any(name == key or name.startswith(f"{key}.") for name in names)

    def tensor(self, key: str) -> Any:
        name = key.removeprefix(f"{CONTROLLER_PREFIX}.")
        require(name in self.tensors, name, "tensor is missing")
        return self.tensors[name]

    def scalar(self, key: str, hint: Any) -> Any:
        value = metadata_value(self.reader, key)
        require(value is not None, key, "key is missing")
        if get_origin(hint) is not tuple:
            require(
                type(value) is hint,
                key,
                "value has the wrong type",
                expected=hint.__name__,
                found=repr(value),
            )
            return _checked(value, key)
        item, *others = get_args(hint)
        length = "any number of" if Ellipsis in others else 1 + len(others)
        require(
            isinstance(value, list)
            and all(type(each) is item for each in value)
            and length in ("any number of", len(value)),
            key,
            "value has the wrong type",
            expected=f"{length} {item.__name__}",
            found=repr(value),
        )
        return _checked(tuple(value), key)


def _checked(value: Any, key: str) -> Any:
    """Return a scalar or a tuple; raise SidecarError when it holds a number that is not finite."""
    numbers = value if isinstance(value, tuple) else (value,)
    finite = all(math.isfinite(number) for number in numbers if isinstance(number, float))
    require(finite, key, "number is not finite", found=value)
    return value
