"""`edgesteer learn`: contrast prompts, a GGUF and its dynamics in, a sidecar out. Needs no PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli.console import progress_bars
from edgesteer.cli.interrupt import interrupt_at_steps
from edgesteer.cli.making import (
    CONTROLLER_DETAILS,
    OPTIONS,
    ConceptOption,
    SidecarOption,
    check_name,
    laws_of,
    print_made,
)
from edgesteer.cli.options import ModelArgument, ThreadsOption, check_output, options_from
from edgesteer.concept import ConceptSet, load_concept, load_neutral, resolve_concept
from edgesteer.control.options import ControllerOptions
from edgesteer.controller import Controller
from edgesteer.dynamics import read_dynamics
from edgesteer.fingerprint import check
from edgesteer.progress import Progress
from edgesteer.registry import resolve_model
from edgesteer.sidecar import Sidecar, write_sidecar


@options_from(OPTIONS, "ControllerOptions", argument="making", panel="The controller", details=CONTROLLER_DETAILS)
def learn(
    model: ModelArgument,
    dynamics: Annotated[
        Path, typer.Option("--dynamics", metavar="D.gguf", help="What `edgesteer linearize` wrote of this model.")
    ],
    concept: ConceptOption,
    output: SidecarOption,
    making: dict[str, Any],
    threads: ThreadsOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a sidecar on the device: as `export` does, from the quantized MODEL itself, and without PyTorch.

    Nothing is left behind when this is interrupted; a file that OUT.gguf names is replaced at the end.
    """
    source, contrast = resolve_model(model), resolve_concept(concept)
    check_output(output, source, dynamics, contrast)
    with progress_bars(quiet=quiet) as bars, interrupt_at_steps(bars) as progress:
        controllers = make_sidecar(source, dynamics, load_concept(contrast), output, making, threads, progress)
    if not quiet:
        print_made(model, output, controllers)


def make_sidecar(
    model: Path,
    dynamics: Path,
    concept: ConceptSet,
    output: Path,
    making: dict[str, Any],
    threads: int | None,
    progress: Progress,
) -> dict[str, Controller]:
    """Learn a concept's controllers for a model into a file, one for each law that making["law"] names.

    Raises FingerprintError for dynamics of another model, and what edgesteer.learn and write_sidecar raise.
    """
    check_name(concept)
    laws = [ControllerOptions(**{**making, "law": name}) for name in laws_of(making)]
    known = read_dynamics(dynamics)
    from edgesteer.learn.pipeline import learn_controllers
    from edgesteer.runtime.texts import TextReader

    with TextReader(model, threads=threads) as reader:
        what, remedy = "dynamics belong to another model", "Load that model, or run `edgesteer linearize` for this one."
        check(known.fingerprint, reader.fingerprint, dynamics, what=what, remedy=remedy)
        controllers = learn_controllers(reader, known.dynamics, concept, load_neutral(), laws, progress)
        write_sidecar(output, Sidecar(reader.hashed_fingerprint(), controllers))
    return controllers
