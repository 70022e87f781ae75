"""`edgesteer linearize`: a model in, its dynamics sidecar out. Needs the export extra."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli.console import format_bytes, progress_bars
from edgesteer.cli.options import ModelArgument, check_output, loading_options, options_from
from edgesteer.concept import load_neutral
from edgesteer.dynamics import DynamicsSidecar, write_dynamics
from edgesteer.extras import needs_extra
from edgesteer.registry import resolve_model


@options_from("edgesteer.export.linearize", "LinearizeOptions", argument="keeping", panel="The dynamics")
@loading_options
def linearize(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="OUT.dynamics.gguf", help="The dynamics sidecar to write.")
    ],
    keeping: dict[str, Any],
    loading: dict[str, Any],
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a dynamics sidecar: how MODEL moves small deviations, for `retune` and `learn`, which then need no PyTorch.

    It knows no concept: one file serves all concepts of MODEL (a GGUF file or a Hugging Face folder).
    """
    source = resolve_model(model)
    check_output(output, source)
    with needs_extra("export"):
        from edgesteer.export.linearize import LinearizeOptions
        from edgesteer.export.linearize import linearize as linearized
        from edgesteer.export.weights import LoadOptions, load_model

        options = LinearizeOptions(**keeping)
        with progress_bars(quiet=quiet) as progress:
            loaded = load_model(source, LoadOptions(**loading))
            dynamics = linearized(loaded, load_neutral(), options, progress)
    write_dynamics(output, DynamicsSidecar(loaded.fingerprint, dynamics))
    if not quiet:
        print(
            f"{output}: {format_bytes(output.stat().st_size)}, {dynamics.n_blocks} blocks, "
            f"rank {min(dynamics.ranks)} to {max(dynamics.ranks)}, "
            f"{dynamics.energy.min():.1%} to {dynamics.energy.max():.1%} of their energy"
        )
