"""Sidecar: controllers and the fingerprint of their model in one GGUF file. SIDECAR.md is the format.

The only file that knows the format's keys. They are the names of the dataclasses' fields, joined by dots, so
that a field added there is stored here. Knows no torch and no llama.cpp.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgesteer.controller import REMEDY as CONTROLLER_REMEDY
from edgesteer.controller import Controller, require
from edgesteer.errors import SidecarError
from edgesteer.fingerprint import Fingerprint
from edgesteer.gguf_fields import FieldReader, check_header, flattened
from edgesteer.gguf_file import open_gguf, write_gguf

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
    metadata.update(flattened(FINGERPRINT_PREFIX, sidecar.fingerprint))
    tensors = {}
    for name, controller in sidecar.controllers.items():
        for key, value in flattened(name, controller):
            if isinstance(value, np.ndarray):
                tensors[key] = value
            else:
                metadata[f"{CONTROLLER_PREFIX}.{key}"] = value
    write_gguf(path, ARCHITECTURE, metadata, tensors)


def read_sidecar(path: str | os.PathLike[str]) -> Sidecar:
    """Read a sidecar.

    Raises SidecarError, which names the file and the key or tensor at fault, when the file is missing,
    truncated, corrupt, not a sidecar, of another format version, or holds a controller that cannot be used.
    """
    with open_gguf(path, SidecarError, REMEDY) as reader:
        check_header(reader, "sidecar", ARCHITECTURE, VERSION_KEY, FORMAT_VERSION, "export")
        fields = FieldReader(reader, f"{CONTROLLER_PREFIX}.", CONTROLLER_REMEDY)
        names = fields.scalar(CONTROLLERS_KEY, tuple[str, ...])
        require(len(set(names)) == len(names), CONTROLLERS_KEY, "names a controller twice", found=names)
        return Sidecar(
            fields.build(Fingerprint, FINGERPRINT_PREFIX),
            {name: fields.build(Controller, f"{CONTROLLER_PREFIX}.{name}") for name in names},
        )
