"""Opens what `--steer` names: a sidecar or a llama.cpp control vector, checked against the loaded model."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgesteer import control_vector, fingerprint, sidecar
from edgesteer.controller import Controller
from edgesteer.errors import FingerprintError, SidecarError, SteeringError
from edgesteer.fingerprint import Fingerprint
from edgesteer.gguf_file import metadata_value, open_gguf


@dataclass(frozen=True)
class SteeringFile:
    """The controllers of a file, by name."""

    controllers: Mapping[str, Controller]
    fingerprint: Fingerprint | None
    """None for a control vector, which does not say to which model it belongs."""


def read_steering(path: str | os.PathLike[str], loaded: Fingerprint | None = None) -> SteeringFile:
    """Read a sidecar or a control vector; refuse it when it does not fit the loaded model, if one is given.

    A sidecar is compared by fingerprint. A control vector has none: it must have the model's width and steer
    blocks that the model has.

    Raises SidecarError when the file cannot be used, FingerprintError when it belongs to another model.
    """
    if _architecture(path) == control_vector.ARCHITECTURE:
        return _read_control_vector(path, loaded)
    content = sidecar.read_sidecar(path)
    if loaded is not None:
        fingerprint.check(content.fingerprint, loaded, path)
    return SteeringFile(content.controllers, content.fingerprint)


def _architecture(path: str | os.PathLike[str]) -> object:
    with open_gguf(path, SidecarError, sidecar.REMEDY) as reader:
        return metadata_value(reader, "general.architecture")


def _read_control_vector(path: str | os.PathLike[str], loaded: Fingerprint | None) -> SteeringFile:
    controller = control_vector.import_control_vector(path, n_blocks=loaded.n_blocks if loaded else None)
    if loaded is not None and controller.width != loaded.width:
        raise FingerprintError(
            "control vector belongs to another model",
            where=path,
            expected=f"width {loaded.width} ({loaded.model_name})",
            found=f"width {controller.width}",
            remedy="Load the model that it was made for.",
        )
    return SteeringFile({controller.name: controller}, None)


def split_name(text: str) -> tuple[Path, str | None]:
    """Read FILE[#NAME]."""
    file, sign, name = text.rpartition("#")
    return (Path(file), name) if sign and not Path(text).is_file() else (Path(text), None)


def pick_controller(controllers: Mapping[str, Controller], name: str | None, file: Path) -> Controller:
    """Return the controller of this name, or the only one. Raises SteeringError."""
    if name is None and len(controllers) == 1:
        return next(iter(controllers.values()))
    if name is not None and name in controllers:
        return controllers[name]
    raise SteeringError(
        "holds several controllers" if name is None else "no such controller",
        where=file,
        expected=" or ".join(controllers),
        found=name,
        remedy=f"Name one: {file}#{next(iter(controllers))}",
    )


def unused_name(name: str, taken: Sequence[str]) -> str:
    """Return the name, with a number where it is taken."""
    candidates = itertools.chain([name], (f"{name}-{number}" for number in itertools.count(2)))
    return next(each for each in candidates if each not in taken)
