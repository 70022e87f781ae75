"""`edgesteer export`: contrast prompts and a model in, a sidecar out. Needs the export extra."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgesteer.cli.console import format_bytes, progress_bars
from edgesteer.cli.declared import constant, field_default
from edgesteer.cli.options import ModelArgument, check_output, format_blocks, options_from, parse_blocks
from edgesteer.concept import ConceptSet, load_concept, load_neutral, resolve_concept
from edgesteer.controller import LAWS, Controller
from edgesteer.errors import ConceptError
from edgesteer.extras import needs_extra
from edgesteer.registry import resolve_model
from edgesteer.sidecar import CONTROLLER_NAME, Sidecar, write_sidecar

if TYPE_CHECKING:
    from edgesteer.export.pipeline import Progress

PIPELINE = "edgesteer.export.pipeline"


@options_from(
    PIPELINE,
    "ExportOptions",
    argument="making",
    panel="The controller",
    details={
        "law": {"metavar": f"{'|'.join(LAWS)}[,...]"},
        "direction": {"metavar": "|".join(constant(PIPELINE, "DIRECTIONS"))},
        "pooling": {"metavar": "|".join(constant(PIPELINE, "POOLINGS"))},
        "blocks": {"metavar": "4-20,25", "show_default": "all", "parser": parse_blocks},
    },
)
def export(
    model: ModelArgument,
    concept: Annotated[
        str, typer.Option("--concept", metavar="NAME|FILE", help="A built-in concept, or a .toml or .jsonl file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.gguf", help="The sidecar to write.")],
    making: dict[str, Any],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a sidecar: the feedback law that steers MODEL (a GGUF file or a Hugging Face folder) along a concept.

    Nothing is left behind when this is interrupted; a file that OUT.gguf names is replaced at the end.
    """
    source, contrast = resolve_model(model), resolve_concept(concept)
    check_output(output, source, contrast)
    with progress_bars(quiet=quiet) as progress:
        controllers = make_sidecar(source, load_concept(contrast), output, making, progress)
    if not quiet:
        lines = ";\n".join(map(described, controllers.values()))
        print(f"{output}: {format_bytes(output.stat().st_size)}, {lines}")
        print(f"Try: {generate_command('MODEL.gguf' if source.is_dir() else model, output)}")


def make_sidecar(
    model: Path, concept: ConceptSet, output: Path, making: dict[str, Any], progress: Progress
) -> dict[str, Controller]:
    """Export a concept's controllers for a model into a file, one for each law that making["law"] names.

    Raises what edgesteer.export and write_sidecar raise.
    """
    if not CONTROLLER_NAME.fullmatch(concept.name):
        raise ConceptError(
            "the concept's name cannot be stored",
            expected="letters, digits, - and _",
            found=repr(concept.name),
            remedy="Change its name.",
        )
    names = making.get("law", field_default(PIPELINE, "ExportOptions", "law")).split(",")
    with needs_extra("export"):
        from edgesteer.export.pipeline import ExportOptions, export_controllers
        from edgesteer.export.weights import load_model

        laws = [ExportOptions(**{**making, "law": name}) for name in dict.fromkeys(names)]
        loaded = load_model(model)
    controllers = export_controllers(loaded, concept, load_neutral(), laws, progress)
    write_sidecar(output, Sidecar(loaded.fingerprint, controllers))
    return controllers


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
