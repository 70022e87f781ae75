"""`edgesteer export`: contrast prompts and a model in, a sidecar out. Needs the export extra."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any

import typer

from edgesteer import __version__
from edgesteer.cli.console import progress_bars
from edgesteer.cli.declared import constant
from edgesteer.cli.making import CONTROLLER_DETAILS, ConceptOption, SidecarOption, check_name, laws_of, print_made
from edgesteer.cli.options import ModelArgument, check_output, loading_options, options_from
from edgesteer.concept import ConceptSet, load_concept, load_neutral, resolve_concept
from edgesteer.controller import Controller
from edgesteer.export.checkpoint import checkpoint_of, unfinished
from edgesteer.extras import needs_extra
from edgesteer.progress import Progress
from edgesteer.registry import resolve_model
from edgesteer.sidecar import Sidecar, write_sidecar

PIPELINE = "edgesteer.export.pipeline"


@options_from(
    PIPELINE,
    "ExportOptions",
    argument="making",
    panel="The controller",
    details={
        **CONTROLLER_DETAILS,
        "cost": {"metavar": "|".join(constant(PIPELINE, "COSTS"))},
        "precision": {"metavar": "|".join(constant("edgesteer.export.jacobians", "PRECISIONS"))},
    },
)
@loading_options
def export(
    model: ModelArgument,
    concept: ConceptOption,
    output: SidecarOption,
    making: dict[str, Any],
    loading: dict[str, Any],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a sidecar: the feedback law that steers MODEL (a GGUF file or a Hugging Face folder) along a concept.

    A file that OUT.gguf names is replaced at the end. Whatever ends this before, the sums over the finished prompts
    stay in OUT.gguf.unfinished, and the same command continues. Several processes: torchrun -m edgesteer.export.
    """
    quiet = quiet or os.environ.get("RANK", "0") != "0"  # of torchrun's processes the first speaks for all
    source, contrast = resolve_model(model), resolve_concept(concept)
    check_output(output, source, contrast)
    if not quiet and unfinished(output).exists():
        print(f"Found an unfinished export: {unfinished(output)}", file=sys.stderr)
    with progress_bars(quiet=quiet) as progress:
        controllers = make_sidecar(source, load_concept(contrast), output, making, progress, loading)
    if not quiet:
        print_made("MODEL.gguf" if source.is_dir() else model, output, controllers)


def make_sidecar(
    model: Path,
    concept: ConceptSet,
    output: Path,
    making: Mapping[str, Any],
    progress: Progress,
    loading: Mapping[str, Any] = MappingProxyType({}),
) -> dict[str, Controller]:
    """Export a concept's controllers for a model into a file, one for each law that making["law"] names.

    Continues an unfinished export of the same. Raises what edgesteer.export and write_sidecar raise.
    """
    check_name(concept)
    with needs_extra("export"):
        from edgesteer.export.pipeline import ExportOptions, export_controllers
        from edgesteer.export.weights import LoadOptions, load_model
        from edgesteer.export.workers import started_by_torchrun

        laws = [ExportOptions(**{**making, "law": name}) for name in laws_of(making)]
    with started_by_torchrun() as workers, needs_extra("export"):
        loaded = load_model(model, LoadOptions(**loading))
        settings = (__version__, loaded.fingerprint, concept.sha256, laws)
        workers = replace(workers, checkpoint=checkpoint_of(output, *settings))
        controllers = export_controllers(loaded, concept, load_neutral(), laws, progress, workers)
        if workers.rank == 0:
            write_sidecar(output, Sidecar(loaded.fingerprint, controllers))
        workers.finish()
    return controllers
