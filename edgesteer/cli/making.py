"""What `export` and `learn` share: the options of a controller, its name and laws, what is said of it at the end."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli.console import format_bytes
from edgesteer.cli.declared import constant, field_default
from edgesteer.cli.options import format_blocks, parse_blocks
from edgesteer.concept import ConceptSet
from edgesteer.controller import LAWS, Controller
from edgesteer.errors import ConceptError
from edgesteer.sidecar import CONTROLLER_NAME

OPTIONS = "edgesteer.control.options"
CONTROLLER_DETAILS: dict[str, dict[str, Any]] = {
    "law": {"metavar": f"{'|'.join(LAWS)}[,...]"},
    "direction": {"metavar": "|".join(constant(OPTIONS, "DIRECTIONS"))},
    "pooling": {"metavar": "|".join(constant(OPTIONS, "POOLINGS"))},
    "blocks": {"metavar": "4-20,25", "show_default": "all; scheduled: the upper half", "parser": parse_blocks},
}

ConceptOption = Annotated[
    str, typer.Option("--concept", metavar="NAME|FILE", help="A built-in concept, or a .toml or .jsonl file.")
]
SidecarOption = Annotated[Path, typer.Option("--output", "-o", metavar="OUT.gguf", help="The sidecar to write.")]


def check_name(concept: ConceptSet) -> None:
    """Raise ConceptError unless a sidecar can store a concept's name."""
    if not CONTROLLER_NAME.fullmatch(concept.name):
        raise ConceptError(
            "the concept's name cannot be stored",
            expected="letters, digits, - and _",
            found=repr(concept.name),
            remedy="Change its name.",
        )


def laws_of(making: Mapping[str, Any]) -> list[str]:
    """Return the laws that making["law"] names, each once."""
    names = making.get("law", field_default(OPTIONS, "ControllerOptions", "law")).split(",")
    return list(dict.fromkeys(names))


def print_made(model: str, output: Path, controllers: Mapping[str, Controller]) -> None:
    """Say what was made of a model's name or file, and how to use it."""
    lines = ";\n".join(map(described, controllers.values()))
    print(f"{output}: {format_bytes(output.stat().st_size)}, {lines}")
    print(f"Try: {generate_command(model, output)}")


def described(controller: Controller) -> str:
    """Return the line that says what was made."""
    parts = [
        f"{controller.law} at blocks {format_blocks(controller.blocks)}",
        f"{controller.positive} (+) against {controller.negative} (-)",
    ]
    if controller.sensor is not None:
        parts.append(f"sensor at block {controller.sensor.block}")
        if controller.statistics is not None:
            parts.append(f"separation {controller.statistics.separation[controller.sensor.block]:.2f}")
    low, high = controller.safe_range
    return ", ".join([*parts, f"safe range {low:g} to {high:g}"])


def generate_command(model: str, sidecar: Path) -> str:
    return shlex.join(["edgesteer", "generate", model, "--steer", f"{sidecar}=1", "--prompt", "Hello"])
