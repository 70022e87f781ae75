"""`edgesteer retune`: other costs or fewer blocks for a sidecar, in seconds, without PyTorch or the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from edgesteer.cli.console import progress_bars
from edgesteer.cli.making import described
from edgesteer.cli.options import check_output, options_from, parse_blocks
from edgesteer.dynamics import read_dynamics
from edgesteer.fingerprint import check
from edgesteer.sidecar import read_sidecar, write_sidecar
from edgesteer.steering_file import pick_controller

UNCHANGED: dict[str, Any] = {"show_default": "as it was"}


@options_from(
    "edgesteer.control.retune",
    "RetuneOptions",
    argument="changing",
    panel="The gains",
    details={
        **dict.fromkeys(("state_cost", "input_cost", "terminal_cost"), UNCHANGED),
        "blocks": {"metavar": "4-20,25", "parser": parse_blocks, **UNCHANGED},
    },
)
def retune(
    sidecar: Annotated[Path, typer.Argument(metavar="SIDECAR", help="A sidecar of law lqr or a-lqr.")],
    dynamics: Annotated[
        Path, typer.Option(metavar="D.gguf", help="What `edgesteer linearize` made of the sidecar's model.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="OUT.gguf", help="The sidecar to write.")],
    changing: dict[str, Any],
    controller: Annotated[
        str | None, typer.Option(metavar="NAME", show_default="all", help="One controller of the sidecar.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Solve a sidecar's gains again for other costs or fewer blocks, by the linear model alone.

    The dial keeps its meaning as far as that model knows: strength 1, and each end of the safe range, moves what the
    logits are read from as far as before. Nothing is measured anew. A certificate is dropped: `edgesteer certify` makes
    a new one.
    """
    from edgesteer.control.factored_model import FactoredModel
    from edgesteer.control.retune import RetuneOptions
    from edgesteer.control.retune import retune as retuned

    check_output(output, dynamics)
    content, found = read_sidecar(sidecar), read_dynamics(dynamics)
    what, remedy = "dynamics are of another model than the sidecar", "Give those of the sidecar's model."
    check(found.fingerprint, content.fingerprint, dynamics, what=what, remedy=remedy)
    chosen = content.controllers
    if controller is not None:
        chosen = {controller: pick_controller(content.controllers, controller, sidecar)}
    model = FactoredModel(found.dynamics.blocks)
    with progress_bars(quiet=quiet) as progress:
        made = {name: retuned(each, model, RetuneOptions(**changing), progress) for name, each in chosen.items()}
    write_sidecar(output, replace(content, controllers={**content.controllers, **made}))
    if not quiet:
        for name, each in made.items():
            print(f"{name}: {described(each)}, scale {chosen[name].scale:.3g} -> {each.scale:.3g}")
